"""Numbers, units and orientations that other tools write: read right, warned about, or refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from wordmask.data.volumes import read_volume
from wordmask.errors import TooLargeError, VolumeError

ARRAY = np.random.default_rng(4).integers(0, 900, (4, 5, 6)).astype(np.int16)


def save(path: Path, *headers: str) -> Path:
    """Write a volume, and put lines into its header."""
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(path))
    before = b"kinds:" if path.suffix == ".nrrd" else b"DimSize"
    lines = "".join(f"{line}\n" for line in headers).encode()
    path.write_bytes(path.read_bytes().replace(before, lines + before, 1))
    return path


@pytest.mark.parametrize("value", [-1.7e308, 3.0e38, -3.4028235e38, 1e35])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fill_values_are_refused_with_their_count(tmp_path, value, dtype):
    if abs(value) > np.finfo(dtype).max:
        return
    array = np.random.default_rng(1).normal(100, 50, (6, 5, 4)).astype(dtype)
    array[0, 0, :3] = value
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(
        VolumeError, match=r"a.nii.gz has 3 of 120 voxels with values such as .*e\+3"
    ) as caught:
        read_volume(tmp_path / "a.nii.gz")
    assert "replace them by the smallest value" in str(caught.value)


def test_large_values_that_are_measured_are_read(tmp_path):
    array = np.random.default_rng(1).normal(1e9, 1e8, (6, 5, 4))
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii.gz").array, array.transpose(2, 1, 0), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "line", "unit"),
    [
        ("a.nrrd", 'space units: "m" "m" "m"', "m"),
        ("a.nrrd", 'units: "um" "um" "mm"', "um"),
        ("a.mha", "DistanceUnits = cm", "cm"),
    ],
)
def test_other_units_than_millimetres_are_refused(tmp_path, name, line, unit):
    with pytest.raises(VolumeError, match=f"{name} gives distances in {unit}, and they"):
        read_volume(save(tmp_path / name, line))


@pytest.mark.parametrize(
    ("name", "line"),
    [("a.nrrd", 'space units: "mm" "mm" "mm"'), ("a.mha", "DistanceUnits = mm"), ("a.mha", "")],
)
def test_millimetres_are_read(tmp_path, name, line):
    volume = read_volume(save(tmp_path / name, *([line] if line else [])))
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert volume.warnings == ()


def test_nrrd_without_directions_is_read_with_a_warning(tmp_path):
    header = ["NRRD0004", "type: short", "dimension: 3", "sizes: 6 5 4", "spacings: 1 1 2", "endian: little"]
    text = "\n".join([*header, "encoding: raw", "", ""])
    (tmp_path / "a.nrrd").write_bytes(text.encode() + ARRAY.tobytes())
    volume = read_volume(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(volume.array, ARRAY)
    [warning] = volume.warnings
    assert "left and right are a guess" in warning


def test_a_photo_with_an_orientation_tag_is_read_as_stored_with_a_warning(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    pixels = np.random.default_rng(1).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    for name, tags in (("turned.png", exif), ("plain.png", Image.Exif())):
        Image.fromarray(pixels).save(tmp_path / name, exif=tags)
        np.testing.assert_array_equal(read_volume(tmp_path / name).array[0], pixels)
    assert read_volume(tmp_path / "plain.png").warnings == ()
    assert "turned.png has an orientation tag" in read_volume(tmp_path / "turned.png").warnings[0]


def test_a_scan_of_a_slide_is_called_too_large(tmp_path, monkeypatch):
    Image.new("1", (12, 8)).save(tmp_path / "slide.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(TooLargeError, match=r"slide.png has more pixels than one picture may have"):
        read_volume(tmp_path / "slide.png")
