"""Enhanced DICOM: one file with many frames, whose order, place and meaning stand in functional groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.dicom_writer import write_dicom
from tests.support.enhanced_writer import AXIAL, group, write_enhanced

from wordmask.data.volumes import read_volume
from wordmask.errors import TooLargeError, VolumeError

CORONAL, SAGITTAL = (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)


@pytest.fixture
def frames():
    return np.random.default_rng(5).integers(0, 3000, (5, 4, 6)).astype(np.uint16)


def at(*heights: float) -> list[tuple[float, float, float]]:
    return [(-10.0, 20.0, height) for height in heights]


UP = at(0, 2.5, 5, 7.5, 10)


def refusal(path: Path) -> str:
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert str(path.parent) not in message
    assert "Secret" not in message
    assert path.name in message
    return message


def test_frames_upwards_are_a_volume_in_their_units(tmp_path, frames):
    volume = read_volume(write_enhanced(tmp_path / "ct.dcm", frames, UP))
    np.testing.assert_array_equal(volume.array, frames.astype(int) - 1024)
    assert (volume.modality, volume.array.dtype) == ("CT", np.int16)
    assert volume.geometry.spacing == (0.75, 0.5, 2.5)
    assert volume.geometry.origin == (-10, 20, 0)


@pytest.mark.parametrize("order", [(4, 3, 2, 1, 0), (2, 0, 4, 1, 3)])
def test_frames_in_any_order_are_sorted_by_their_position(tmp_path, frames, order):
    expected = read_volume(write_enhanced(tmp_path / "up.dcm", frames, UP))
    path = write_enhanced(tmp_path / "any.dcm", frames[list(order)], [UP[index] for index in order])
    assert read_volume(path).digest == expected.digest


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, SAGITTAL, (0.8, 0.6, 0, -0.6, 0.8, 0)])
def test_frames_of_any_direction_lie_where_they_say(tmp_path, frames, orientation):
    normal = np.cross(orientation[:3], orientation[3:])
    positions = [tuple(np.array((5.0, 6.0, 7.0)) - 1.5 * index * normal) for index in range(5)]
    volume = read_volume(write_enhanced(tmp_path / "mr.dcm", frames, positions, orientations=orientation))
    assert_lies(volume, frames.astype(int) - 1024, positions, [orientation] * 5)


def test_each_frame_has_its_own_slope(tmp_path, frames):
    rescale = [(1 + index / 10, -10 * index) for index in range(5)]
    volume = read_volume(write_enhanced(tmp_path / "mr.dcm", frames, UP, rescale=rescale, modality="MR"))
    expected = np.stack(
        [slope * image + shift for image, (slope, shift) in zip(frames, rescale, strict=True)]
    )
    np.testing.assert_allclose(volume.array, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("groups", "difference"),
    [
        (lambda k: {"FrameContentSequence": group(TemporalPositionIndex=k % 2 + 1)}, "time point (1, 2)"),
        (lambda k: {"MREchoSequence": group(EffectiveEchoTime=(4.6, 9.2)[k % 2])}, "echo time (4.6, 9.2)"),
        (lambda k: {"MRDiffusionSequence": group(DiffusionBValue=(0, 800)[k % 2])}, "b-value (0, 800)"),
        (
            lambda k: {
                "CardiacSynchronizationSequence": group(NominalPercentageOfCardiacPhase=(10, 60)[k % 2])
            },
            "cardiac phase (10, 60)",
        ),
        (
            lambda k: {
                "MRImageFrameTypeSequence": group(ComplexImageComponent=("MAGNITUDE", "PHASE")[k % 2])
            },
            "component (MAGNITUDE, PHASE)",
        ),
    ],
)
def test_several_volumes_in_one_file_are_refused_with_what_they_are(tmp_path, frames, groups, difference):
    twice = np.repeat(frames, 2, axis=0)
    path = write_enhanced(
        tmp_path / "mr.dcm", twice, [p for p in UP for _ in (0, 1)], groups=groups, modality="MR"
    )
    message = refusal(path)
    assert "several volumes" in message
    assert difference in message


def test_two_stacks_are_refused_even_when_none_of_their_frames_share_a_place(tmp_path, frames):
    groups = lambda k: {"FrameContentSequence": group(StackID="AB"[k > 2])}  # noqa: E731
    assert "stack (A, B)" in refusal(write_enhanced(tmp_path / "mr.dcm", frames, UP, groups=groups))


@pytest.mark.parametrize(
    ("positions", "reason"),
    [
        (at(0, 5, 10, 15, 25), "uneven distances between its frames (5 to 10 mm)"),
        (at(0, 0, 5, 5, 10), "5 frames at 3 positions"),
        ([(0, 2 * n, 5 * n) for n in range(5)], "tilted gantry"),
        ([(20 * n, 0, 0) for n in range(5)], "side by side"),
        (None, "does not say where its 5 frames lie"),
        ([(0, 0, float("nan"))] * 5, "does not say where"),
    ],
)
def test_frames_that_would_make_a_wrong_volume_are_refused(tmp_path, frames, positions, reason):
    assert reason in refusal(write_enhanced(tmp_path / "ct.dcm", frames, positions))


def test_a_turned_frame_is_refused(tmp_path, frames):
    path = write_enhanced(tmp_path / "ct.dcm", frames, UP, orientations=[AXIAL] * 4 + [CORONAL])
    assert "different size or direction" in refusal(path)


def test_a_frame_without_groups_is_refused(tmp_path, frames):
    path = write_enhanced(tmp_path / "ct.dcm", frames, UP)
    import pydicom

    data = pydicom.dcmread(path)
    del data.PerFrameFunctionalGroupsSequence[-1]
    data.save_as(path)
    assert "describes 4 of its 5 frames" in refusal(path)


def test_a_part_of_a_volume_is_refused(tmp_path, frames):
    tags = {"ConcatenationUID": "1.2.3", "InConcatenationNumber": 1, "InConcatenationTotalNumber": 2}
    assert "part 1 of 2" in refusal(write_enhanced(tmp_path / "ct.dcm", frames, UP, **tags))


def test_frames_without_groups_at_all_are_refused(tmp_path, frames):
    write_dicom(tmp_path / "old.dcm", frames, modality="CT", frames=5, SpacingBetweenSlices=3)
    assert "does not say where its 5 frames lie" in refusal(tmp_path / "old.dcm")


def test_nuclear_medicine_is_stacked_along_its_slice_vector(tmp_path, frames):
    detector = group(ImagePositionPatient=[-10, 20, 0], ImageOrientationPatient=list(AXIAL))
    tags = {
        "FrameIncrementPointer": 0x00540080, "SliceVector": [1, 2, 3, 4, 5], "SpacingBetweenSlices": -2.5,
        "PixelSpacing": [0.5, 0.75], "DetectorInformationSequence": detector,
    }  # fmt: skip
    path = write_enhanced(tmp_path / "nm.dcm", frames, None, modality="NM", rescale=None, **tags)
    strip_groups(path)
    volume = read_volume(path)
    assert_lies(volume, frames, at(0, -2.5, -5, -7.5, -10), [AXIAL] * 5)


def test_gated_nuclear_medicine_is_refused(tmp_path, frames):
    detector = group(ImagePositionPatient=[-10, 20, 0], ImageOrientationPatient=list(AXIAL))
    tags = {
        "FrameIncrementPointer": [0x00540080, 0x00540070], "SliceVector": [1, 2, 3, 4, 5],
        "SpacingBetweenSlices": 2.5, "PixelSpacing": [0.5, 0.75], "DetectorInformationSequence": detector,
    }  # fmt: skip
    path = write_enhanced(tmp_path / "nm.dcm", frames, None, modality="NM", rescale=None, **tags)
    strip_groups(path)
    assert "does not say where its 5 frames lie" in refusal(path)


def test_the_limit_holds_before_a_pixel_is_read(tmp_path, frames):
    with pytest.raises(TooLargeError, match="120 voxels"):
        read_volume(write_enhanced(tmp_path / "ct.dcm", frames, UP), max_voxels=100)


def test_a_file_that_ends_early_is_refused(tmp_path, frames):
    path = write_enhanced(tmp_path / "ct.dcm", frames, UP)
    path.write_bytes(path.read_bytes()[:-40])
    refusal(path)


@st.composite
def objects(draw):
    """Functional groups as scanners, exporters and accidents make them."""
    count = draw(st.integers(2, 7))
    orientation = draw(
        st.sampled_from([AXIAL, CORONAL, SAGITTAL, (0.8, 0.6, 0, 0, 0, -1), (0, 0, 1, 0, 1, 0)])
    )
    normal = np.cross(orientation[:3], orientation[3:])
    step = draw(st.sampled_from([0.5, 1.25, 5.0]))
    places = draw(st.permutations([*range(count), *draw(st.lists(st.integers(0, count), max_size=2))]))
    start = np.array([draw(st.floats(-200, 200)) for _ in range(3)])
    tilt = draw(st.sampled_from([0, 0, 0, 0.001, 0.3])) * np.array(orientation[3:])
    positions = [tuple(np.round(start + step * place * (normal + tilt), 4)) for place in places]
    orientations = [orientation] * len(places)
    if draw(st.integers(0, 5)) == 0:
        orientations[-1] = draw(st.sampled_from([AXIAL, CORONAL, SAGITTAL]))
    rescale = [(1.0, -1024.0)] * len(places)
    if draw(st.booleans()):
        rescale = [
            (draw(st.sampled_from([1, 0.5, 2.25, -1])), draw(st.sampled_from([0, -1024, 3.5])))
            for _ in places
        ]
    labels = {}
    for name, values in (("StackID", "12"), ("TemporalPositionIndex", (1, 2))):
        if draw(st.integers(0, 3)) == 0:
            labels[name] = [draw(st.sampled_from(values)) for _ in places]
    pixels = draw(st.integers(0, 2**32 - 1))
    kind = draw(st.sampled_from([np.uint16, np.int16]))
    images = np.random.default_rng(pixels).integers(0, 4000, (len(places), 3, 4)).astype(kind)
    return images, positions, orientations, rescale, labels, draw(st.booleans())


@settings(max_examples=100, deadline=None)
@given(objects())
def test_any_enhanced_object_is_read_as_it_says_or_refused(tmp_path_factory, drawn):
    images, positions, orientations, rescale, labels, shared = drawn
    path = tmp_path_factory.mktemp("enhanced") / "object.dcm"
    write_enhanced(
        path,
        images,
        positions,
        orientations=orientations[0] if shared and len(set(orientations)) == 1 else orientations,
        rescale=rescale[0] if shared and len(set(rescale)) == 1 else rescale,
        modality="MR",
        groups=lambda k: (
            {"FrameContentSequence": group(**{name: values[k] for name, values in labels.items()})}
            if labels
            else {}
        ),
    )
    simple = (
        len(set(orientations)) == 1
        and all(len(set(values)) == 1 for values in labels.values())
        and len(set(positions)) == len(positions)
    )
    try:
        volume = read_volume(path)
    except VolumeError:
        assert not simple or not is_straight(positions, orientations[0]), "a plain volume is read"
        return
    truth = np.stack([s * image.astype(float) + b for image, (s, b) in zip(images, rescale, strict=True)])
    assert_lies(volume, truth, positions, orientations)
    assert all(len(set(values)) == 1 for values in labels.values())


def is_straight(positions, orientation) -> bool:
    """Whether positions lie evenly on a line along the normal: the reference for the reader."""
    normal = np.cross(orientation[:3], orientation[3:])
    along = np.sort(np.array(positions) @ normal)
    sideways = np.array(positions) - np.outer(np.array(positions) @ normal, normal)
    return np.ptp(np.diff(along)) < 1e-3 and np.ptp(sideways, axis=0).max() < 1e-3


def assert_lies(volume, frames, positions, orientations) -> None:
    """Each voxel of each frame is found at its place in the patient, with its value, and nothing else is."""
    geometry = volume.geometry
    assert geometry.size[2] == len(frames)
    backward = np.linalg.inv(geometry.direction_matrix * geometry.spacing)
    for image, position, orientation in zip(frames, positions, orientations, strict=True):
        row, column = np.array(orientation[:3]), np.array(orientation[3:])
        for (y, x), value in np.ndenumerate(image):
            place = np.array(position) + 0.75 * x * row + 0.5 * y * column
            voxel = backward @ (place - geometry.origin)
            assert np.abs(voxel - np.round(voxel)).max() < 0.1, "half way to another voxel"
            i, j, k = np.round(voxel).astype(int)
            assert volume.array[k, j, i] == pytest.approx(value, rel=1e-6, abs=1e-3)


def strip_groups(path: Path) -> None:
    import pydicom

    data = pydicom.dcmread(path)
    del data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence
    data.save_as(path)
