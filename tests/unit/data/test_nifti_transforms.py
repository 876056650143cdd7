"""NIfTI has two transforms from voxels to the patient: they agree, one is alone, or the file is refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordmask.data.volumes import read_volume, write_label_map
from wordmask.errors import VolumeError

SIZE = (6, 5, 4)
ARRAY = np.random.default_rng(3).integers(0, 900, SIZE).astype(np.int16)
PLAIN = np.array([[-2.0, 0, 0, 90], [0, 1.5, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])


def turned(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    turn[:2, :2] = [[c, -s], [s, c]]
    return turn @ PLAIN


def shifted(*by: float) -> np.ndarray:
    moved = PLAIN.copy()
    moved[:3, 3] += by
    return moved


def mirrored() -> np.ndarray:
    moved = PLAIN.copy()
    moved[0] = (2.0, 0, 0, 80)
    return moved


def sheared() -> np.ndarray:
    moved = PLAIN.copy()
    moved[1, 2] = 3 * np.tan(np.radians(15))
    return moved


def save(path: Path, sform=PLAIN, qform=PLAIN, codes=(1, 1), units="mm") -> Path:
    image = nib.Nifti1Image(ARRAY, PLAIN)
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    image.header.set_xyzt_units(units)
    nib.save(image, path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    return str(caught.value)


@pytest.mark.parametrize("codes", [(1, 1), (4, 1), (2, 2)])
@pytest.mark.parametrize(
    ("other", "how"),
    [
        (mirrored(), "mirrored"),
        (turned(17), "turned by 17 degrees"),
        (turned(180), "turned by 180 degrees"),
        (shifted(30, -20, 55), "shifted by 65.8 mm"),
        (shifted(0, 0.4, 0), "shifted by 0.4 mm"),
    ],
)
def test_two_transforms_that_disagree_are_refused_with_how(tmp_path, codes, other, how):
    for name, sform, qform in (("a.nii.gz", PLAIN, other), ("b.nii", other, PLAIN)):
        message = refusal(save(tmp_path / name, sform, qform, codes))
        assert message.startswith(f"{name} has two transforms that disagree: ")
        assert how in message
        assert "fslorient" in message


def test_a_sheared_transform_beside_a_straight_one_is_refused(tmp_path):
    assert "disagree" in refusal(save(tmp_path / "a.nii.gz", sheared()))


def test_a_sheared_transform_alone_is_refused(tmp_path):
    assert "sheared" in refusal(save(tmp_path / "a.nii.gz", sheared(), codes=(1, 0)))


def test_rounding_is_not_a_disagreement(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii.gz", shifted(1e-3, 1e-3, 0)))
    np.testing.assert_allclose(volume.geometry.affine_ras, PLAIN, atol=2e-3)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (4, 0), (0, 2)])
def test_the_transform_that_is_set_is_used(tmp_path, codes):
    volume = read_volume(save(tmp_path / "a.nii.gz", turned(30), turned(30), codes))
    np.testing.assert_allclose(volume.geometry.affine_ras, turned(30), atol=1e-4)
    assert volume.warnings == ()


def test_without_a_transform_left_and_right_are_a_guess_and_that_is_said(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii.gz", codes=(0, 0)))
    [warning] = volume.warnings
    assert "a.nii.gz does not say" in warning
    assert "left and right" in warning


@pytest.mark.parametrize(("units", "scale"), [("meter", 1e3), ("micron", 1e-3)])
def test_units_are_followed(tmp_path, units, scale):
    scaled = PLAIN / [[scale], [scale], [scale], [1]]
    volume = read_volume(save(tmp_path / "a.nii.gz", scaled, scaled, units=units))
    np.testing.assert_allclose(volume.geometry.spacing, (2, 1.5, 3), rtol=1e-5)


def test_a_transform_with_a_nan_is_refused(tmp_path):
    path = save(tmp_path / "a.nii")
    data = bytearray(path.read_bytes())
    data[280:284] = np.float32(np.nan).tobytes()
    path.write_bytes(data)
    assert "a.nii" in refusal(path)


def test_what_is_written_has_two_transforms_that_agree(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii.gz", turned(30), turned(30)))
    write_label_map(tmp_path / "out.nii.gz", np.ones(volume.geometry.shape, np.uint8), volume.geometry)
    header = nib.load(tmp_path / "out.nii.gz").header
    np.testing.assert_allclose(header.get_sform(), header.get_qform(), atol=1e-4)
    read_volume(tmp_path / "out.nii.gz")


@pytest.mark.parametrize(
    ("name", "compressed", "right"), [("scan.nii", True, "scan.nii.gz"), ("Scan.Nii", False, "Scan.nii")]
)
def test_a_wrong_ending_is_called_by_its_name(tmp_path, name, compressed, right):
    source = save(tmp_path / ("source.nii.gz" if compressed else "source.nii"))
    (tmp_path / name).write_bytes(source.read_bytes())
    assert f"rename it to {right}" in refusal(tmp_path / name)


def affines():
    turns = st.sampled_from([0, 0, 0, 17, 90, 180])
    flips = st.tuples(*[st.sampled_from([1, 1, 1, -1])] * 3)
    shears = st.sampled_from([0, 0, 0, 1e-5, 0.2])
    shifts = st.tuples(*[st.sampled_from([0.0, 0.0, 0.001, 12.5])] * 3)

    def make(turn, flip, shear, shift):
        affine = turned(turn)
        affine[:3, :3] = affine[:3, :3] * flip
        affine[0, 1] += shear
        affine[:3, 3] += shift
        return affine

    return st.builds(make, turns, flips, shears, shifts)


@settings(max_examples=100, deadline=None)
@given(affines(), affines(), st.tuples(st.integers(0, 4), st.integers(0, 4)), st.booleans())
def test_any_pair_of_transforms_is_followed_or_refused(tmp_path_factory, sform, qform, codes, same):
    path = save(tmp_path_factory.mktemp("nifti") / "a.nii", sform, sform if same else qform, codes)
    header = nib.load(path).header
    truths = [form for form, code in (header.get_sform(True), header.get_qform(True)) if code > 0]
    try:
        volume = read_volume(path)
    except VolumeError:
        spacings = [np.linalg.norm(truth[:3, :3], axis=0) for truth in truths]
        straight = [
            np.allclose(t[:3, :3].T @ t[:3, :3] * (1 - np.eye(3)), 0, atol=1e-3)
            and np.allclose(spacing, header.get_zooms(), rtol=1e-3)
            for t, spacing in zip(truths, spacings, strict=True)
        ]
        assert not all(straight) or (len(truths) == 2 and not same), "a straight transform is read"
        return
    for truth in truths:
        np.testing.assert_allclose(volume.geometry.affine_ras, truth, atol=0.16)
    assert bool(volume.warnings) == (not truths)
    np.testing.assert_array_equal(volume.array, ARRAY.transpose(2, 1, 0))
