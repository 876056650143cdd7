"""What every format of volumes and pictures gives when it is read."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from tests.support.volume_files import GRID, cut_off, plain, refusal, save

from wordmask.data.volumes import Volume, read_volume
from wordmask.errors import RequestError, VolumeError

# ---- what is read


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".NII.GZ"])
def test_volumes_are_read_as_another_reader_reads_them(tmp_path, grey_values, suffix):
    path = tmp_path / f"scan{suffix}"
    save(tmp_path / f"scan{suffix.lower()}", grey_values, compress=True).rename(path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, grey_values)
    np.testing.assert_allclose(volume.geometry.direction, GRID.direction, atol=1e-7)
    assert (volume.geometry.size, volume.geometry.spacing, volume.geometry.origin) == (
        GRID.size,
        GRID.spacing,
        GRID.origin,
    )
    assert (volume.modality, volume.name, volume.is_picture) == ("unknown", f"scan{suffix}", False)


def test_the_affine_is_that_of_nibabel(tmp_path, grey_values):
    path = save(tmp_path / "scan.nii.gz", grey_values)
    np.testing.assert_allclose(read_volume(path).geometry.affine_ras, nib.load(path).affine, atol=1e-6)


def test_the_digest_is_the_same_in_every_format_and_number_type(tmp_path, grey_values):
    files = [save(tmp_path / f"scan{suffix}", grey_values) for suffix in (".nii", ".nii.gz", ".nrrd", ".mha")]
    files += [
        save(tmp_path / f"{kind}.nrrd", grey_values.astype(kind))
        for kind in ("int32", "float32", "float64", "uint16")
    ]
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


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("<i2", ".nii"), (">i2", ".nii.gz"), ("<f4", ".nii.gz"), (">f4", ".nii"), (">f8", ".nii.gz")],
)
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
        assert (
            read_volume(
                save(tmp_path / f"{kind}.nrrd", hounsfield_units.astype(kind), plain(hounsfield_units))
            ).modality
            == "CT"
        )


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
        sitk.WriteImage(
            sitk.GetImageFromArray(a_colour_picture[None], isVector=True), str(tmp_path / f"skin{suffix}")
        )
        volume = read_volume(tmp_path / f"skin{suffix}")
        np.testing.assert_array_equal(volume.array[0], a_colour_picture)
        assert volume.modality == "picture"
