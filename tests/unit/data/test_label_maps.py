"""Label maps keep the numbers that are stored, in whatever file, or are refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from wordmask.data.label_maps import check_same_grid, read_label_map
from wordmask.data.volumes import read_volume
from wordmask.errors import VolumeError

VALUES = np.zeros((9, 12), np.uint8)
VALUES[2:5, 3:7], VALUES[5:8, 8:11] = 1, 2
MASK = (VALUES > 0).astype(np.uint8)


def palette(values: np.ndarray, bits: int) -> Image.Image:
    image = Image.fromarray(values, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759)
    image.encoderinfo = {"bits": bits}
    return image


def grey_png(path: Path, values: np.ndarray, bits: int) -> None:
    """A grey PNG of 2 or 4 bits, which Pillow does not write."""
    height, width = values.shape
    rows = b""
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


WRITERS = {
    "8.png": lambda path: Image.fromarray(VALUES).save(path),
    "16.png": lambda path: Image.fromarray(VALUES.astype(np.uint16)).save(path),
    "16.tif": lambda path: Image.fromarray(VALUES.astype(np.uint16)).save(path),
    "32.tif": lambda path: Image.fromarray(VALUES.astype(np.int32)).save(path),
    "float.tif": lambda path: Image.fromarray(VALUES.astype(np.float32)).save(path),
    "palette.png": lambda path: palette(VALUES, 8).save(path),
    "palette4.png": lambda path: palette(VALUES, 4).save(path, bits=4),
    "grey2.png": lambda path: grey_png(path, VALUES, 2),
    "grey4.png": lambda path: grey_png(path, VALUES, 4),
    "rgb.png": lambda path: Image.fromarray(np.dstack([VALUES] * 3)).save(path),
    "rgba.png": lambda path: Image.fromarray(np.dstack([VALUES] * 3 + [VALUES * 0 + 255])).save(path),
    "la.png": lambda path: Image.fromarray(np.dstack([VALUES, VALUES * 0 + 255]), "LA").save(path),
    "8.bmp": lambda path: Image.fromarray(VALUES).save(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_pictures_keep_the_numbers_that_are_stored(tmp_path, name):
    WRITERS[name](tmp_path / name)
    np.testing.assert_array_equal(read_label_map(tmp_path / name).array[0], VALUES)


def test_one_bit_is_0_and_1(tmp_path):
    for name in ("mask.png", "mask.tif", "mask.bmp"):
        Image.fromarray(MASK.astype(bool)).save(tmp_path / name)
        np.testing.assert_array_equal(read_label_map(tmp_path / name).array[0], MASK)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("slope", [1.0, 1.0000001])
def test_volumes_keep_the_numbers_that_are_stored(tmp_path, dtype, slope):
    values = np.random.default_rng(1).integers(0, 9, (4, 5, 6)).astype(dtype)
    image = nib.Nifti1Image(values, np.eye(4))
    image.header.set_slope_inter(slope, 0)
    nib.save(image, tmp_path / "labels.nii.gz")
    labels = read_label_map(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(labels.array, values.transpose(2, 1, 0))
    assert labels.array.dtype.kind in "iu"


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (Image.fromarray(np.dstack([VALUES, VALUES * 0, VALUES * 0])), "has colours"),
        (Image.fromarray(np.dstack([VALUES * 0 + 255] * 3 + [MASK * 255])), "partly transparent"),
        (Image.fromarray(np.dstack([VALUES * 0 + 255, MASK * 255]), "LA"), "partly transparent"),
        (Image.fromarray(VALUES.astype(np.float32) / 3), "holds fractions"),
        (Image.fromarray(np.where(MASK, np.nan, 0).astype(np.float32)), "NaN"),
    ],
)
def test_what_is_not_one_channel_of_whole_numbers_is_refused(tmp_path, picture, reason):
    path = tmp_path / ("labels.tif" if picture.mode == "F" else "labels.png")
    picture.save(path)
    with pytest.raises(VolumeError, match=reason):
        read_label_map(path)


def big(values: np.ndarray) -> np.ndarray:
    return np.kron(values, np.ones((8, 8), np.uint8))


def test_a_jpeg_mask_is_cut_in_the_middle(tmp_path):
    Image.fromarray(big(MASK) * 255).save(tmp_path / "mask.jpg", quality=80)
    labels = read_label_map(tmp_path / "mask.jpg")
    assert labels.is_lossy
    assert ((labels.array[0] > 0) != big(MASK)).mean() < 0.01
    Image.fromarray(big(MASK) * 0).save(tmp_path / "empty.jpg")
    assert not read_label_map(tmp_path / "empty.jpg").array.any()


@pytest.mark.parametrize("values", [big(MASK), big(VALUES) * 100, big(MASK) * 120])
def test_a_jpeg_that_is_not_black_and_white_is_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "mask.jpg", quality=95)
    with pytest.raises(VolumeError, match="is not black and white"):
        read_label_map(tmp_path / "mask.jpg")


def turned(path: Path, values: np.ndarray, tag: int | None) -> Path:
    exif = Image.Exif()
    if tag is not None:
        exif[274] = tag
    Image.fromarray(values).save(path, exif=exif)
    return path


@pytest.mark.parametrize("tags", [(6, None), (None, 6), (3, 1), (6, 8)])
@pytest.mark.parametrize("size", [(9, 9), (9, 12)])
def test_a_picture_and_a_mask_that_are_turned_differently_are_refused(tmp_path, tags, size):
    image = turned(tmp_path / "photo.jpg", np.zeros((*size, 3), np.uint8), tags[0])
    label = turned(tmp_path / "mask.png", np.zeros(size, np.uint8), tags[1])
    with pytest.raises(VolumeError, match="orientation tag") as caught:
        check_same_grid(read_label_map(label), label, read_volume(image), image)
    assert "photo.jpg" in str(caught.value)
    assert "mask.png" in str(caught.value)


@pytest.mark.parametrize("tags", [(None, None), (1, None), (6, 6), (3, 3)])
def test_a_picture_and_a_mask_that_are_turned_alike_fit(tmp_path, tags):
    image = turned(tmp_path / "photo.jpg", np.zeros((9, 12, 3), np.uint8), tags[0])
    label = turned(tmp_path / "mask.png", VALUES, tags[1])
    labels = read_label_map(label)
    check_same_grid(labels, label, read_volume(image), image)
    np.testing.assert_array_equal(labels.array[0], VALUES)


def test_a_small_shift_over_many_voxels_is_still_a_shift(tmp_path):
    for name, scale in (("image.nii.gz", 1.0), ("labels.nii.gz", 1.008)):
        nib.save(nib.Nifti1Image(np.zeros((200, 4, 4), np.uint8), np.diag([scale, 1, 1, 1])), tmp_path / name)
    image, label = tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz"
    with pytest.raises(VolumeError, match=r"lies elsewhere .* \(up to 1.59 mm apart\)"):
        check_same_grid(read_label_map(label), label, read_volume(image), image)
