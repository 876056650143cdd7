"""Images that announce too much, or point to other files, are refused before a voxel is read."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from tests.support.dicom_writer import write_series

from wordmask.data.volumes import read_volume, write_label_map
from wordmask.errors import TooLargeError, VolumeError

HUGE = 30_000


def a_nifti_that_announces(path: Path, side: int) -> Path:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((4, 4, 4))
    raw = bytearray(header.binaryblock)
    raw[40:48] = struct.pack("<4h", 3, side, side, side)
    raw[344:348] = b"n+1\0"
    path.write_bytes(gzip.compress(bytes(raw) + bytes(4)) if path.suffix == ".gz" else bytes(raw) + bytes(4))
    return path


def a_png_that_announces(path: Path, side: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("name", ["big.nii", "big.nii.gz"])
def test_a_nifti_header_is_believed_before_its_voxels_are_read(tmp_path, name):
    with pytest.raises(TooLargeError, match="27,000,000,000,000 voxels, and at most 1,000,000"):
        read_volume(a_nifti_that_announces(tmp_path / name, HUGE), max_voxels=10**6)


@pytest.mark.parametrize("name", ["big.nrrd", "big.mha"])
def test_an_nrrd_or_metaimage_header_is_believed(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".nrrd":
        text = (
            f"NRRD0004\ntype: short\ndimension: 3\nsizes: {HUGE} {HUGE} {HUGE}\nencoding: raw\nendian: "
            "little\n\n"
        )
    else:
        text = (
            f"ObjectType = Image\nNDims = 3\nDimSize = {HUGE} {HUGE} {HUGE}\nElementType = "
            "MET_SHORT\nElementDataFile = LOCAL\n"
        )
    path.write_bytes(text.encode() + bytes(8))
    with pytest.raises(TooLargeError):
        read_volume(path, max_voxels=10**6)


def test_a_picture_header_is_believed(tmp_path):
    with pytest.raises(TooLargeError):
        read_volume(a_png_that_announces(tmp_path / "big.png", 5000), max_voxels=10**6)


def test_a_dicom_series_counts_as_a_whole(tmp_path):
    positions = [(0.0, 0.0, float(z)) for z in range(4)]
    write_series(tmp_path / "ct", np.zeros((4, 8, 8), dtype=np.int16), positions=positions)
    assert read_volume(tmp_path / "ct", max_voxels=256).array.shape == (4, 8, 8)
    with pytest.raises(TooLargeError, match="256 voxels"):
        read_volume(tmp_path / "ct", max_voxels=255)


@pytest.mark.parametrize("name", ["evil.nrrd", "evil.mha"])
def test_an_image_cannot_take_its_voxels_from_another_file(tmp_path, name):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(range(64)))
    path = tmp_path / name
    headers = {
        ".nrrd": f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: {secret}\n",
        ".mha": "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\n"
        f"ElementType = MET_UCHAR\nElementDataFile = {secret}\n",
    }
    path.write_text(headers[path.suffix])
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).ravel()[63] == 63, (
        "the hole is there in SimpleITK"
    )
    with pytest.raises(VolumeError, match="from another file"):
        read_volume(path)


@pytest.mark.parametrize("name", ["whole.nrrd", "whole.mha"])
def test_an_image_in_one_piece_is_read(tmp_path, name):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((2, 3, 4), dtype=np.int16)), str(tmp_path / name))
    assert read_volume(tmp_path / name, max_voxels=24).array.shape == (2, 3, 4)


def test_a_label_map_has_the_type_that_was_asked_for(tmp_path):
    volume = read_volume(write(tmp_path / "image.nii"))
    labels = np.zeros(volume.geometry.shape, dtype=np.uint16)
    labels[0, 0, 0] = 300
    write_label_map(tmp_path / "labels.nii", labels, volume.geometry, dtype="int32")
    assert sitk.ReadImage(tmp_path / "labels.nii").GetPixelIDTypeAsString() == "32-bit signed integer"
    with pytest.raises(VolumeError, match="300 do not fit into uint8"):
        write_label_map(tmp_path / "labels.nii", labels, volume.geometry, dtype="uint8")


def write(path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), dtype=np.int16)), str(path))
    return path
