"""Reading and writing: what every format gives, what is refused and with which words, and that nothing is left half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from wordmask.data import volumes
from wordmask.data.geometry import Geometry
from wordmask.data.volumes import Volume, read_volume, write_label_map, write_scalar_map
from wordmask.errors import RequestError, VolumeError

GRID = Geometry((6, 5, 4), (0.5, 0.75, 2.5), (-10.0, 20.0, 30.0), (0, 1, 0, 1, 0, 0, 0, 0, -1))
PLAIN = Geometry((6, 5, 4), (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def save(path, array, geometry=GRID, compress=False):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    sitk.WriteImage(image, str(path), compress)
    return path


@pytest.fixture
def grey_values():
    return np.random.default_rng(1).integers(0, 1200, GRID.shape).astype(np.int16)


@pytest.fixture
def hounsfield_units():
    values = np.full((8, 16, 16), -1000, dtype=np.int16)
    values[:, 3:13, 3:13] = np.random.default_rng(2).integers(-120, 200, (8, 10, 10))
    return values


@pytest.fixture
def a_colour_picture():
    return np.random.default_rng(3).integers(0, 256, (7, 9, 3)).astype(np.uint8)


# ---- what is read


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".NII.GZ"])
def test_volumes_are_read_as_another_reader_reads_them(tmp_path, grey_values, suffix):
    path = tmp_path / f"scan{suffix}"
    save(tmp_path / f"scan{suffix.lower()}", grey_values, compress=True).rename(path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, grey_values)
    np.testing.assert_allclose(volume.geometry.direction, GRID.direction, atol=1e-7)
    assert (volume.geometry.size, volume.geometry.spacing, volume.geometry.origin) == (GRID.size, GRID.spacing, GRID.origin)
    assert (volume.modality, volume.name, volume.is_picture) == ("unknown", f"scan{suffix}", False)


def test_the_affine_is_that_of_nibabel(tmp_path, grey_values):
    path = save(tmp_path / "scan.nii.gz", grey_values)
    np.testing.assert_allclose(read_volume(path).geometry.affine_ras, nib.load(path).affine, atol=1e-6)


def test_the_digest_is_the_same_in_every_format_and_number_type(tmp_path, grey_values):
    files = [save(tmp_path / f"scan{suffix}", grey_values) for suffix in (".nii", ".nii.gz", ".nrrd", ".mha")]
    files += [save(tmp_path / f"{kind}.nrrd", grey_values.astype(kind)) for kind in ("int32", "float32", "float64", "uint16")]
    assert len({read_volume(path).digest for path in files}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": (0.5, 0.75, 2.6)},
        {"origin": (-10.0, 20.0, 30.1)},
        {"direction": (0, -1, 0, 1, 0, 0, 0, 0, -1)},
    ],
)
def test_the_digest_follows_the_geometry(grey_values, change):
    assert Volume(grey_values, GRID).digest != Volume(grey_values, replace(GRID, **change)).digest


def test_the_digest_follows_every_voxel(grey_values):
    other = grey_values.copy()
    other[3, 4, 5] += 1
    assert Volume(grey_values, GRID).digest != Volume(other, GRID).digest


def test_a_volume_cannot_be_changed_under_its_digest(grey_values):
    volume = Volume(grey_values, GRID)
    with pytest.raises(ValueError, match="read-only"):
        volume.array[0, 0, 0] = 1
    grey_values[0, 0, 0] = 1  # the caller's own array stays the caller's


@pytest.mark.parametrize("shape", [(6, 5, 4, 1), (6, 5, 4, 1, 1), (6, 5, 1), (6, 5, 1, 1), (6, 5)])
def test_trailing_dimensions_of_one_are_dropped_in_nifti(tmp_path, shape):
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    nib.save(nib.Nifti1Image(values, np.diag([-0.5, -0.75, 2.5, 1])), tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz")
    assert volume.geometry.size == (*shape, 1, 1)[:3]
    np.testing.assert_array_equal(volume.array, values.reshape(*(*shape, 1, 1)[:3]).T)


@pytest.mark.parametrize(("kind", "suffix"), [("<i2", ".nii"), (">i2", ".nii.gz"), ("<f4", ".nii.gz"), (">f4", ".nii"), (">f8", ".nii.gz")])
def test_both_byte_orders_of_nifti_are_read_and_checked(tmp_path, grey_values, kind, suffix):
    path = tmp_path / f"scan{suffix}"
    header = nib.Nifti1Header(endianness=kind[0])
    header.set_data_dtype(kind)
    nib.save(nib.Nifti1Image(grey_values.T.astype(kind), GRID.affine_ras, header), path)
    np.testing.assert_array_equal(read_volume(path).array, grey_values)
    if "f" in kind:
        wrong = grey_values.T.astype(kind)
        wrong[3, 2, 1] = np.nan
        nib.save(nib.Nifti1Image(wrong, GRID.affine_ras, header), path)
        assert "has 1 of 120 voxels" in refusal(path)
    if suffix == ".nii":
        assert "truncated" in refusal(cut_off(path, 0.9))


def test_the_second_version_of_nifti_is_refused_with_what_to_do(tmp_path, grey_values):
    nib.save(nib.Nifti2Image(grey_values, np.eye(4)), tmp_path / "scan.nii.gz")
    assert "save it as NIfTI-1 or NRRD" in refusal(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_trailing_dimensions_of_one_are_dropped_in_other_formats(tmp_path, grey_values, suffix):
    image = sitk.GetImageFromArray(grey_values[None], isVector=False)
    image.SetSpacing((*GRID.spacing, 1.0))
    sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    volume = read_volume(tmp_path / f"scan{suffix}")
    np.testing.assert_array_equal(volume.array, grey_values)
    assert volume.geometry.spacing == GRID.spacing


def test_numbers_are_kept_in_the_smallest_fitting_type(tmp_path):
    for kind, given, kept in [
        ("int32", 30000, "int16"),
        ("int32", 40000, "float32"),
        ("float64", 0.5, "float32"),
        ("uint8", 9, "uint8"),
    ]:
        path = save(tmp_path / f"{kind}.nrrd", np.full(GRID.shape, given, dtype=kind))
        volume = read_volume(path)
        assert volume.array.dtype == kept
        assert (volume.array == given).all()


# ---- what kind of image it is


def test_hounsfield_units_are_recognised(tmp_path, hounsfield_units):
    for kind in ("int16", "float32"):
        assert read_volume(save(tmp_path / f"{kind}.nrrd", hounsfield_units.astype(kind), plain(hounsfield_units))).modality == "CT"


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(lambda rng: rng.normal(0, 1, (8, 16, 16)), id="normalised MR"),
        pytest.param(lambda rng: rng.integers(0, 4096, (8, 16, 16)), id="MR magnitude"),
        pytest.param(lambda rng: rng.integers(-4096, 4096, (8, 16, 16)), id="MR phase"),
        pytest.param(lambda rng: rng.integers(-100, 200, (8, 16, 16)), id="CT cropped to soft tissue"),
        pytest.param(lambda rng: np.full((8, 16, 16), -1000), id="nothing but air"),
        pytest.param(lambda rng: np.zeros((8, 16, 16)), id="empty"),
    ],
)
def test_other_values_are_not_taken_for_hounsfield_units(tmp_path, values):
    array = values(np.random.default_rng(4)).astype(np.float32)
    assert read_volume(save(tmp_path / "scan.nrrd", array, plain(array))).modality == "unknown"


def test_the_caller_may_know_the_modality_better(tmp_path, grey_values, a_colour_picture):
    path = save(tmp_path / "scan.nrrd", grey_values)
    assert read_volume(path, modality="CT").modality == "CT"
    with pytest.raises(RequestError, match=r"no modality 'PET'. Modalities: CT, MR, US, picture, unknown"):
        read_volume(path, modality="PET")
    Image.fromarray(a_colour_picture).save(tmp_path / "skin.png")
    with pytest.raises(VolumeError, match=r"skin.png is a colour picture and cannot be taken as CT"):
        read_volume(tmp_path / "skin.png", modality="CT")
    with pytest.raises(VolumeError, match=r"scan.nrrd cannot be taken as a picture"):
        read_volume(path, modality="picture")
    one = save(tmp_path / "one.nrrd", np.zeros((1, 5, 6), np.uint8), replace(GRID, size=(6, 5, 1)))
    assert read_volume(one, modality="picture").is_picture


# ---- pictures


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".tiff", ".PNG"])
def test_pictures_are_one_slice_of_colours_as_stored(tmp_path, a_colour_picture, suffix):
    Image.fromarray(a_colour_picture).save(tmp_path / f"skin{suffix}")
    volume = read_volume(tmp_path / f"skin{suffix}")
    np.testing.assert_array_equal(volume.array, a_colour_picture[None])
    assert (volume.is_picture, volume.modality, volume.geometry.size) == (True, "picture", (9, 7, 1))
    assert not volume.geometry.oriented


def test_a_jpeg_lies_on_the_grid_that_simpleitk_reads(tmp_path):
    smooth = np.tile(np.arange(0, 160, 10, dtype=np.uint8)[:, None, None], (1, 24, 3))
    Image.fromarray(smooth).save(tmp_path / "polyp.jpg", quality=95, dpi=(127, 127))
    volume, seen = read_volume(tmp_path / "polyp.jpg"), sitk.ReadImage(str(tmp_path / "polyp.jpg"))
    assert np.abs(volume.array[0].astype(int) - sitk.GetArrayFromImage(seen)).max() <= 2
    assert volume.geometry.spacing[:2] == seen.GetSpacing() != (1.0, 1.0)
    assert volume.geometry.size[:2] == seen.GetSize()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_kind_of_picture_becomes_three_channels(tmp_path, a_colour_picture, mode):
    opaque = Image.fromarray(a_colour_picture)
    path = tmp_path / f"picture.{'tif' if mode == 'CMYK' else 'png'}"
    opaque.convert(mode).save(path)
    expected = np.asarray(opaque.convert(mode).convert("RGB"))
    np.testing.assert_array_equal(read_volume(path).array[0], expected)


def test_transparency_is_dropped_and_hides_nothing(tmp_path, a_colour_picture):
    alpha = np.zeros((7, 9, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([a_colour_picture, alpha], axis=2)).save(tmp_path / "skin.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "skin.png").array[0], a_colour_picture)


@pytest.mark.parametrize(("suffix", "orientation"), [(".jpg", 6), (".png", 8), (".tif", 3), (".tif", 6)])
def test_orientation_tags_are_not_followed_in_any_format(tmp_path, suffix, orientation):
    stored = np.zeros((16, 24, 3), dtype=np.uint8)
    stored[:4, :6] = 200
    tags = Image.Exif()
    tags[274] = orientation
    Image.fromarray(stored).save(tmp_path / f"phone{suffix}", exif=tags)
    volume = read_volume(tmp_path / f"phone{suffix}")
    assert volume.array.shape == (1, 16, 24, 3)
    assert np.abs(volume.array[0].astype(int) - stored).max() <= 24  # JPEG
    assert volume.geometry.size[:2] == sitk.ReadImage(str(tmp_path / f"phone{suffix}")).GetSize()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_16_bits_is_stretched_between_its_percentiles(tmp_path, suffix):
    grey = np.linspace(1000, 3000, 5000).astype(np.uint16).reshape(50, 100)
    grey[0, 0], grey[0, 1] = 0, 65535  # a dead and a hot pixel
    Image.fromarray(grey).save(tmp_path / f"chest{suffix}")
    pixels = read_volume(tmp_path / f"chest{suffix}").array[0]
    assert (pixels[..., 0] == pixels[..., 2]).all()
    assert (pixels[0, 1, 0], pixels[1, 0, 0] < 10, pixels[-1, -1, 0]) == (255, True, 255)
    assert np.all(np.diff(pixels[1:, :, 0].ravel().astype(int)) >= 0)
    assert abs(int(pixels[25, 0, 0]) - 128) <= 2


def test_colour_of_16_bits_keeps_its_upper_8(tmp_path):
    deep = np.random.default_rng(5).integers(0, 65536, (7, 9, 3)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(deep, isVector=True), str(tmp_path / "deep.png"))
    np.testing.assert_array_equal(read_volume(tmp_path / "deep.png").array[0], deep >> 8)


def test_a_colour_image_of_one_slice_in_a_volume_format_is_a_picture(tmp_path, a_colour_picture):
    for suffix in (".nrrd", ".nii.gz", ".mha"):
        sitk.WriteImage(sitk.GetImageFromArray(a_colour_picture[None], isVector=True), str(tmp_path / f"skin{suffix}"))
        volume = read_volume(tmp_path / f"skin{suffix}")
        np.testing.assert_array_equal(volume.array[0], a_colour_picture)
        assert volume.modality == "picture"


# ---- what is refused, and the words for it


def break_header(path: Path, offset: int, values) -> Path:
    data = bytearray(path.read_bytes())
    data[offset : offset + values.nbytes] = values.tobytes()
    path.write_bytes(data)
    return path


def cut_off(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def refusal(path: Path) -> str:
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path.parent) not in message, "the folder is nobody's business"
    assert path.name in message
    return message


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha", "scan.mhd", "scan.png", "scan.dcm", "scan"])
def test_missing_and_empty_files_are_refused(tmp_path, name):
    assert "does not exist" in refusal(tmp_path / name)
    (tmp_path / name).touch()
    assert "is empty (0 bytes)" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha", "scan.png", "scan.tif", "scan.jpg", "scan.dcm"])
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
    assert "all of its 120 voxels are NaN or infinite" in refusal(save(tmp_path / "scan.nrrd", np.full(GRID.shape, wrong, kind)))


def test_a_float_picture_that_is_not_finite_is_refused(tmp_path):
    Image.fromarray(np.full((4, 5), np.nan, np.float32)).save(tmp_path / "map.tif")
    assert "all of its 20 voxels" in refusal(tmp_path / "map.tif")


@pytest.mark.parametrize(
    ("matrix", "reason"), [("1 0 0 0 1 0 0 1 0", "direction matrix is singular"), ("1 0 0 0.3 1 0 0 0 1", "sheared or scaled")]
)
def test_direction_matrices_that_are_no_rotation_are_refused(tmp_path, matrix, reason):
    assert reason in refusal(write_mha(tmp_path / "scan.mha", TransformMatrix=matrix))


def test_sheared_and_singular_nifti_and_nrrd_are_refused(tmp_path, grey_values):
    affine = np.eye(4)
    affine[0, 1] = 0.5
    nib.save(nib.Nifti1Image(grey_values, affine), tmp_path / "scan.nii.gz")
    assert "direction matrix" in refusal(tmp_path / "scan.nii.gz")
    for second, reason in [("(0.5,1,0)", "sheared"), ("(1,0,0)", "singular")]:
        header = f"NRRD0004\ntype: short\ndimension: 3\nspace: LPS\nsizes: 2 2 2\nspace directions: (1,0,0) {second} (0,0,1)\n"
        (tmp_path / "scan.nrrd").write_bytes(f"{header}space origin: (0,0,0)\nencoding: raw\nendian: little\n\n".encode() + bytes(16))
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
    with pytest.raises(VolumeError, match="no picture"):
        Volume(np.zeros((4, 5, 6, 3), np.uint8), GRID)


# ---- what is written


@pytest.mark.parametrize(
    ("suffix", "largest", "kind"),
    [(".nii", 1, "uint8"), (".nii.gz", 255, "uint8"), (".nrrd", 256, "uint16"), (".mha", 65535, "uint16"), (".nii", 256, "uint16")],
)
def test_labels_are_written_in_the_smallest_type_on_the_same_grid(tmp_path, suffix, largest, kind):
    labels = np.random.default_rng(9).integers(0, largest + 1, GRID.shape)
    labels[0, 0, 0] = largest
    write_label_map(tmp_path / f"labels{suffix}", labels, GRID)
    image = sitk.ReadImage(str(tmp_path / f"labels{suffix}"))
    array = sitk.GetArrayFromImage(image)
    np.testing.assert_array_equal(array, labels)
    assert array.dtype == kind
    np.testing.assert_allclose([*image.GetSpacing(), *image.GetOrigin()], [*GRID.spacing, *GRID.origin], atol=1e-6)
    np.testing.assert_allclose(image.GetDirection(), GRID.direction, atol=1e-6)


def test_nifti_label_maps_say_the_same_twice(tmp_path):
    write_label_map(tmp_path / "labels.nii.gz", np.ones(GRID.shape, bool), GRID)
    header = nib.load(tmp_path / "labels.nii.gz").header
    assert header["qform_code"] > 0
    assert header["sform_code"] > 0
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)
    np.testing.assert_allclose(header.get_sform(), GRID.affine_ras, atol=1e-5)


def test_a_mirrored_view_is_written_as_it_looks(tmp_path, grey_values):
    write_label_map(tmp_path / "labels.nrrd", grey_values[:, ::-1, ::-1], GRID)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "labels.nrrd"))), grey_values[:, ::-1, ::-1])


@pytest.mark.parametrize("largest", [3, 300])
def test_labels_of_a_picture_may_be_png(tmp_path, largest):
    labels = np.zeros((1, 7, 9), np.int64)
    labels[0, 2, 3] = largest
    write_label_map(tmp_path / "labels.png", labels, Geometry.of_picture(9, 7))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "labels.png")), labels[0])


def test_scalar_maps_are_32_bit_floats(tmp_path):
    values = np.random.default_rng(10).random(GRID.shape)
    write_scalar_map(tmp_path / "probability.nii.gz", values, GRID)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "probability.nii.gz")))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, values.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "labels", "reason"),
    [
        ("labels.nrrd", np.zeros(GRID.shape), "whole numbers, got float64"),
        ("labels.nrrd", np.full(GRID.shape, -1), "between 0 and 65535, got -1 to -1"),
        ("labels.nrrd", np.full(GRID.shape, 65536), "between 0 and 65535"),
        ("labels.nrrd", np.zeros((4, 5, 7), int), "does not fit the grid"),
        ("labels.png", np.zeros(GRID.shape, int), "PNG holds one slice, not 4"),
        ("labels.jpg", np.zeros(GRID.shape, int), "label maps are .nii"),
        ("labels.mhd", np.zeros(GRID.shape, int), "label maps are .nii"),
        ("labels.seg.nrrd", np.zeros(GRID.shape, int), "label maps are .nii"),
        ("labels", np.zeros(GRID.shape, int), "label maps are .nii"),
        ("no/labels.nrrd", np.zeros(GRID.shape, int), "its folder does not exist"),
    ],
)
def test_labels_that_cannot_be_written_are_refused_and_leave_nothing(tmp_path, name, labels, reason):
    with pytest.raises(VolumeError, match=rf"labels\S* cannot be written.*{reason}") as caught:
        write_label_map(tmp_path / name, labels, GRID)
    assert str(tmp_path) not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_png_for_scalar_maps_is_refused(tmp_path):
    with pytest.raises(VolumeError, match="PNG holds no fractions"):
        write_scalar_map(tmp_path / "map.png", np.zeros((1, 7, 9)), Geometry.of_picture(9, 7))


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "labels.nrrd"
    write_label_map(path, np.ones(GRID.shape, int), GRID)
    before = path.read_bytes()

    def fill_the_disk(image, name, compress):
        Path(name).write_bytes(b"half")
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(volumes.sitk, "WriteImage", fill_the_disk)
    with pytest.raises(VolumeError, match=r"labels\.nrrd cannot be written: its folder is not writable, or the disk is full"):
        write_label_map(path, np.zeros(GRID.shape, int), GRID)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable_is_named_as_the_reason(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(VolumeError, match="not writable"):
        write_label_map(tmp_path / "labels.nii.gz", np.ones(GRID.shape, int), GRID)


def test_a_name_that_is_a_folder_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "labels.nrrd").mkdir()
    with pytest.raises(VolumeError, match="cannot be written"):
        write_label_map(tmp_path / "labels.nrrd", np.ones(GRID.shape, int), GRID)
    assert [item.name for item in tmp_path.iterdir()] == ["labels.nrrd"]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    write_label_map(tmp_path / "labels.nii.gz", np.ones(GRID.shape, int), GRID)
    assert (tmp_path / "labels.nii.gz").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_reading_volumes_needs_neither_torch_nor_monai():
    code = "import sys, wordmask.data.slices; sys.exit(any(name in sys.modules for name in ('torch', 'monai')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def plain(array) -> Geometry:
    return replace(PLAIN, size=array.shape[::-1])


def write_mha(path: Path, **changes: str) -> Path:
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": "1 1 1",
        "DimSize": "2 2 2",
        "ElementType": "MET_SHORT",
    } | changes
    lines = [f"{key} = {value}" for key, value in header.items()]
    path.write_bytes("\n".join([*lines, "ElementDataFile = LOCAL\n"]).encode() + bytes(16))
    return path


@pytest.mark.parametrize("name", ["labels.nii", "labels.nii.gz", "labels.nrrd", "labels.mha"])
def test_a_label_map_that_the_disk_did_not_take_whole_is_not_called_written(tmp_path, monkeypatch, name):
    write = sitk.WriteImage

    def write_half(image: sitk.Image, path: str, compress: bool) -> None:
        write(image, path, compress)
        os.truncate(path, os.path.getsize(path) // 2)  # as ITK leaves it when the disk is full

    monkeypatch.setattr(sitk, "WriteImage", write_half)
    labels = np.random.default_rng(0).integers(0, 9, (20, 30, 40)).astype(np.uint8)
    geometry = Geometry((40, 30, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    with pytest.raises(VolumeError, match="disk is full"):
        write_label_map(tmp_path / name, labels, geometry)
    assert list(tmp_path.iterdir()) == []
