"""DICOM files as scanners and exporters really write them: each is read right, or refused with its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.dicom_writer import SERIES, write_dicom, write_series

from wordmask.data.volumes import read_volume
from wordmask.errors import VolumeError

UP = [(-10.0, 20.0, 2.5 * index) for index in range(4)]
SEGMENTATION, DOSE = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.2"
STRUCTURES, PLAN = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.481.5"


@pytest.fixture
def slices():
    return np.random.default_rng(1).integers(0, 3000, (4, 5, 6)).astype(np.int16)


def refusal(path: Path) -> str:
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert str(path.parent) not in message
    assert "Secret" not in message
    return message


def change(path: Path, **tags) -> None:
    data = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path)


@pytest.mark.parametrize(
    "tags",
    [
        [{"RescaleSlope": 1 + index / 8, "RescaleIntercept": 0} for index in range(4)],
        [{"RescaleSlope": 1, "RescaleIntercept": -1024 * (index % 2)} for index in range(4)],
        [{"RescaleSlope": (1, 0.125)[index % 2], "RescaleIntercept": -7.5} for index in range(4)],
    ],
)
def test_each_file_of_a_series_has_its_own_slope_and_intercept(tmp_path, slices, tags):
    write_series(tmp_path / "pt", slices.astype(np.uint16), positions=UP, modality="PT")
    for index, own in enumerate(tags):
        change(tmp_path / "pt" / f"slice{4 - index:03}.dcm", **own)
    expected = [i * t["RescaleSlope"] + t["RescaleIntercept"] for i, t in zip(slices, tags, strict=True)]
    np.testing.assert_allclose(read_volume(tmp_path / "pt").array, expected, rtol=1e-6)


def test_each_file_of_a_series_has_its_own_sign_and_bits(tmp_path, slices):
    values = slices.copy()
    values[1:] -= 1024
    write_series(tmp_path / "ct", values, positions=UP)
    write_dicom(tmp_path / "ct" / "slice004.dcm", values[0].astype(np.uint16), position=UP[0])
    np.testing.assert_array_equal(read_volume(tmp_path / "ct").array, values)


def test_a_series_of_two_echoes_says_so(tmp_path, slices):
    for echo in (4.6, 9.2):
        write_series(
            tmp_path / "mr", slices, positions=UP, modality="MR", EchoTime=echo, prefix=f"echo{echo}"
        )
    message = refusal(tmp_path / "mr")
    assert "8 images at 4 positions (they differ in echo time (4.6, 9.2))" in message
    assert message.endswith("put those of one volume into a folder of their own.")


def test_copies_of_each_file_are_called_copies(tmp_path, slices):
    write_series(tmp_path / "ct", slices, positions=UP)
    for path in sorted((tmp_path / "ct").iterdir()):
        (path.parent / f"copy of {path.name}").write_bytes(path.read_bytes())
    assert "8 images at 4 positions" in refusal(tmp_path / "ct")
    assert "copies" in refusal(tmp_path / "ct")


def test_many_series_are_counted_and_few_are_named(tmp_path, slices):
    (tmp_path / "ct").mkdir()
    for index in range(40):
        path = tmp_path / "ct" / f"{index}.dcm"
        write_dicom(path, slices[0], position=(0, 0, index), series=f"{SERIES}.{index}")
    message = refusal(tmp_path / "ct")
    assert "holds 40 series" in message
    assert "each of one image" in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("kind", "pixels", "title"),
    [
        (SEGMENTATION, True, "Segmentation"),
        (DOSE, True, "RT Dose"),
        (STRUCTURES, False, "RT Structure Set"),
        (PLAN, False, "RT Plan"),
        ("1.2.840.10008.5.1.4.1.1.88.33", False, "Comprehensive SR"),
    ],
)
def test_objects_that_are_not_images_are_called_by_their_name(tmp_path, slices, kind, pixels, title):
    path = tmp_path / "object.dcm"
    stored = slices.astype(np.uint8) if pixels else slices[0]
    write_dicom(path, stored, frames=4 if pixels else 1, modality="OT")
    change(path, SOPClassUID=kind, **({} if pixels else {"Rows": None, "Columns": None, "PixelData": None}))
    assert f"object.dcm is not an image but an object of the kind {title!r}; choose the files" in refusal(
        path
    )


def test_a_mosaic_is_refused(tmp_path, slices):
    path = tmp_path / "epi.dcm"
    write_dicom(path, slices[0], modality="MR", ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    assert "is a mosaic" in refusal(path)


def test_pixels_that_are_missing_are_not_made_up(tmp_path, slices):
    path = tmp_path / "short.dcm"
    write_dicom(path, slices[0])
    change(path, PixelData=slices[0].tobytes()[:-20])
    assert "short.dcm is truncated: it should hold 60 bytes of pixels and holds 40" in refusal(path)


def test_a_ct_without_rescale_is_read_with_a_warning(tmp_path, slices):
    write_series(tmp_path / "ct", slices, positions=UP)
    [warning] = read_volume(tmp_path / "ct").warnings
    assert "no rescale intercept" in warning
    assert f"{slices.min()} to {slices.max()}" in warning
    write_series(tmp_path / "hu", slices - 1024, positions=UP)
    write_series(tmp_path / "scaled", slices, positions=UP, RescaleIntercept=-1024, RescaleSlope=1)
    assert read_volume(tmp_path / "hu").warnings == read_volume(tmp_path / "scaled").warnings == ()


def test_pixels_without_a_size_are_read_with_a_warning(tmp_path, slices):
    write_series(tmp_path / "mr", slices, positions=UP, modality="MR")
    for path in (tmp_path / "mr").iterdir():
        change(path, PixelSpacing=None)
    [warning] = read_volume(tmp_path / "mr").warnings
    assert "does not say how large its pixels are" in warning


def test_slices_without_an_orientation_are_refused(tmp_path, slices):
    write_series(tmp_path / "mr", slices, positions=UP, modality="MR")
    for path in (tmp_path / "mr").iterdir():
        change(path, ImageOrientationPatient=None)
    assert "does not say where its 4 images lie" in refusal(tmp_path / "mr")


def test_files_of_a_series_that_cannot_be_read_are_named(tmp_path, slices):
    write_series(tmp_path / "mr", slices, positions=UP, modality="MR")
    (tmp_path / "mr" / "slice001.dcm").write_bytes(b"")
    (tmp_path / "mr" / "._slice001.dcm").write_bytes(b"x")
    volume = read_volume(tmp_path / "mr")
    assert len(volume.array) == 3
    [warning] = volume.warnings
    assert "may lack slices, because files cannot be read: slice001.dcm." in warning


def test_frames_with_a_header_that_pydicom_does_not_read_are_refused(tmp_path, slices):
    path = tmp_path / "frames.dcm"
    write_dicom(path, slices, frames=4)
    path.write_bytes(path.read_bytes()[132:])
    assert "frames.dcm" in refusal(path)


@st.composite
def series(draw):
    """Files of a series: (place, type, slope, intercept, time point) of each."""
    places = draw(
        st.permutations([*range(draw(st.integers(2, 5))), *draw(st.lists(st.integers(0, 5), max_size=1))])
    )
    slopes, intercepts = st.sampled_from([1, 1, 2.5, -1, 0.01]), st.sampled_from([0, 0, -1024, 3.5])
    kinds, times = st.sampled_from([np.uint8, np.int16, np.uint16]), st.sampled_from([1, 1, 1, 1, 1, 1, 2])
    return [(place, draw(kinds), draw(slopes), draw(intercepts), draw(times)) for place in places]


@settings(max_examples=100, deadline=None)
@given(series(), st.integers(0, 2**32 - 1))
def test_any_series_is_read_as_its_files_say_or_refused(tmp_path_factory, files, seed):
    folder = tmp_path_factory.mktemp("series")
    random, truth = np.random.default_rng(seed), {}
    for number, (place, kind, slope, intercept, time) in enumerate(files):
        pixels = random.integers(0, min(4000, np.iinfo(kind).max), (3, 4)).astype(kind)
        tags = {"RescaleSlope": slope, "RescaleIntercept": intercept, "TemporalPositionIdentifier": time}
        write_dicom(folder / f"{number}.dcm", pixels, modality="MR", position=(0, 0, 2.5 * place), **tags)
        truth[place] = pixels * float(slope) + intercept
    places = sorted(place for place, *_ in files)
    whole = places == list(range(places[0], places[0] + len(files))) and len({file[4] for file in files}) == 1
    try:
        volume = read_volume(folder)
    except VolumeError:
        assert not whole
        return
    assert whole
    np.testing.assert_allclose(volume.array, [truth[place] for place in places], rtol=1e-6, atol=1e-3)
    assert volume.geometry.origin[2] == 2.5 * places[0]
