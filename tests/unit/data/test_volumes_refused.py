"""Files that are not read: which, and with which words."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from tests.support.volume_files import GRID, break_header, cut_off, plain, refusal, save, write_mha

from wordmask.data.volumes import Volume, read_volume
from wordmask.errors import VolumeError


@pytest.mark.parametrize(
    "name", ["scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha", "scan.mhd", "scan.png", "scan.dcm", "scan"]
)
def test_missing_and_empty_files_are_refused(tmp_path, name):
    assert "does not exist" in refusal(tmp_path / name)
    (tmp_path / name).touch()
    assert "is empty (0 bytes)" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    ["scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha", "scan.png", "scan.tif", "scan.jpg", "scan.dcm"],
)
def test_files_that_are_something_else_are_refused(tmp_path, name):
    (tmp_path / name).write_text("<html>Not found</html>" * 50)
    assert "export it again" in refusal(tmp_path / name) or "not an image" in refusal(tmp_path / name)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_truncated_volumes_are_refused(tmp_path, suffix):
    noise = np.random.default_rng(6).integers(0, 30000, (8, 40, 40)).astype(np.int16)
    for compress in (False, True):
        for share in (0.1, 0.5, 0.98):
            path = save(tmp_path / f"scan{suffix}", noise, plain(noise), compress)
            assert "truncated" in refusal(cut_off(path, share)), (compress, share)


def test_a_damaged_nifti_file_is_refused(tmp_path):
    noise = np.random.default_rng(7).integers(0, 30000, (8, 40, 40)).astype(np.int16)
    path = save(tmp_path / "scan.nii.gz", noise, plain(noise))
    break_header(path, path.stat().st_size // 2, np.zeros(8, np.uint8))
    assert "truncated or damaged" in refusal(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_truncated_pictures_are_refused(tmp_path, suffix):
    noise = np.random.default_rng(8).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / f"skin{suffix}")
    assert "truncated" in refusal(cut_off(tmp_path / f"skin{suffix}", 0.6))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_four_dimensions_are_refused(tmp_path, suffix):
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5, 6), np.int16), isVector=False)
    sitk.WriteImage(image, str(tmp_path / f"dynamic{suffix}"))
    assert "4 dimensions (6x5x4x3); one volume" in refusal(tmp_path / f"dynamic{suffix}")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_vector_images_are_refused(tmp_path, suffix):
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.float32), isVector=True)
    sitk.WriteImage(image, str(tmp_path / f"field{suffix}"))
    assert "3 values per voxel (a vector image)" in refusal(tmp_path / f"field{suffix}")


def test_complex_images_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.complex64), np.eye(4)), tmp_path / "kspace.nii.gz")
    assert "complex numbers" in refusal(tmp_path / "kspace.nii.gz")


def test_images_without_voxels_are_refused(tmp_path, grey_values):
    path = save(tmp_path / "scan.nii", grey_values)
    assert "is empty: its size is 6x0x4 voxels" in refusal(break_header(path, 44, np.array([0], "<i2")))
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 0 7\nencoding: raw\nendian: little\n\n"
    (tmp_path / "scan.nrrd").write_text(header)
    assert "is empty" in refusal(tmp_path / "scan.nrrd")
    write_mha(tmp_path / "scan.mha", DimSize="0 2 2")
    refusal(tmp_path / "scan.mha")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_values_that_are_not_finite_are_refused_and_counted(tmp_path, wrong, kind):
    values = np.ones(GRID.shape, kind)
    values[1, 2, 3] = values[0, 0, 0] = wrong
    assert "has 2 of 120 voxels that are NaN or infinite" in refusal(save(tmp_path / "scan.nii.gz", values))
    assert "all of its 120 voxels are NaN or infinite" in refusal(
        save(tmp_path / "scan.nrrd", np.full(GRID.shape, wrong, kind))
    )


def test_a_float_picture_that_is_not_finite_is_refused(tmp_path):
    Image.fromarray(np.full((4, 5), np.nan, np.float32)).save(tmp_path / "map.tif")
    assert "all of its 20 voxels" in refusal(tmp_path / "map.tif")


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [("1 0 0 0 1 0 0 1 0", "direction matrix is singular"), ("1 0 0 0.3 1 0 0 0 1", "sheared or scaled")],
)
def test_direction_matrices_that_are_no_rotation_are_refused(tmp_path, matrix, reason):
    assert reason in refusal(write_mha(tmp_path / "scan.mha", TransformMatrix=matrix))


def test_sheared_and_singular_nifti_and_nrrd_are_refused(tmp_path, grey_values):
    affine = np.eye(4)
    affine[0, 1] = 0.5
    nib.save(nib.Nifti1Image(grey_values, affine), tmp_path / "scan.nii.gz")
    assert "direction matrix" in refusal(tmp_path / "scan.nii.gz")
    for second, reason in [("(0.5,1,0)", "sheared"), ("(1,0,0)", "singular")]:
        header = (
            "NRRD0004\ntype: short\ndimension: 3\nspace: LPS\nsizes: 2 2 2\nspace directions: (1,0,0) "
            f"{second} (0,0,1)\n"
        )
        (tmp_path / "scan.nrrd").write_bytes(
            f"{header}space origin: (0,0,0)\nencoding: raw\nendian: little\n\n".encode() + bytes(16)
        )
        assert reason in refusal(tmp_path / "scan.nrrd")


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan])
def test_spacings_that_are_not_positive_are_refused(tmp_path, grey_values, step):
    path = break_header(save(tmp_path / "scan.nii", grey_values), 80, np.array([step], "<f4"))
    assert "spacing must be above 0" in refusal(path)
    write_mha(tmp_path / "scan.mha", ElementSpacing=f"1 {step} 1")
    refusal(tmp_path / "scan.mha")


def test_a_spacing_of_0_along_a_single_slice_is_no_reason_to_refuse(tmp_path):
    path = save(tmp_path / "scan.nii", np.ones((1, 5, 6), np.int16), replace(GRID, size=(6, 5, 1)))
    break_header(path, 88, np.zeros(1, "<f4"))
    assert read_volume(path).geometry.spacing[2] > 0


def test_formats_that_are_not_read_are_named_together_with_those_that_are(tmp_path):
    (tmp_path / "movie.mp4").write_bytes(b"x")
    assert ".nii.gz" in refusal(tmp_path / "movie.mp4")


def test_a_tiff_of_several_pages_is_refused(tmp_path, a_colour_picture):
    page = Image.fromarray(a_colour_picture)
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page, page])
    assert "has 3 pages" in refusal(tmp_path / "stack.tif")


def test_a_volume_refuses_an_array_that_does_not_fit_its_grid(grey_values):
    with pytest.raises(VolumeError, match="array of shape"):
        Volume(grey_values, replace(GRID, size=(5, 6, 4)))
    with pytest.raises(VolumeError, match="not a picture"):
        Volume(np.zeros((4, 5, 6, 3), np.uint8), GRID)
