"""Label maps and scalar maps as they are written: nothing is left half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from tests.support.volume_files import GRID

from wordmask.data import volumes
from wordmask.data.geometry import Geometry
from wordmask.data.volumes import write_label_map, write_scalar_map
from wordmask.errors import VolumeError


@pytest.mark.parametrize(
    ("suffix", "largest", "kind"),
    [
        (".nii", 1, "uint8"),
        (".nii.gz", 255, "uint8"),
        (".nrrd", 256, "uint16"),
        (".mha", 65535, "uint16"),
        (".nii", 256, "uint16"),
    ],
)
def test_labels_are_written_in_the_smallest_type_on_the_same_grid(tmp_path, suffix, largest, kind):
    labels = np.random.default_rng(9).integers(0, largest + 1, GRID.shape)
    labels[0, 0, 0] = largest
    write_label_map(tmp_path / f"labels{suffix}", labels, GRID)
    image = sitk.ReadImage(str(tmp_path / f"labels{suffix}"))
    array = sitk.GetArrayFromImage(image)
    np.testing.assert_array_equal(array, labels)
    assert array.dtype == kind
    np.testing.assert_allclose(
        [*image.GetSpacing(), *image.GetOrigin()], [*GRID.spacing, *GRID.origin], atol=1e-6
    )
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
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "labels.nrrd"))), grey_values[:, ::-1, ::-1]
    )


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
    with pytest.raises(
        VolumeError, match=r"labels\.nrrd cannot be written: its folder is not writable, or the disk is full"
    ):
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
    code = (
        "import sys, wordmask.data.slices; sys.exit(any(name in sys.modules for name in ('torch', 'monai')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


@pytest.mark.parametrize("name", ["labels.nii", "labels.nii.gz", "labels.nrrd", "labels.mha"])
def test_a_label_map_that_the_disk_did_not_take_whole_is_not_called_written(tmp_path, monkeypatch, name):
    write = sitk.WriteImage

    def write_half(image: sitk.Image, path: str, compress: bool) -> None:
        write(image, path, compress)
        os.truncate(path, os.path.getsize(path) // 2)  # as ITK leaves it when the disk is full

    monkeypatch.setattr(sitk, "WriteImage", write_half)
    labels = np.random.default_rng(0).integers(0, 9, (20, 30, 40)).astype(np.uint8)
    geometry = Geometry(
        (40, 30, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    )
    with pytest.raises(VolumeError, match="disk is full"):
        write_label_map(tmp_path / name, labels, geometry)
    assert list(tmp_path.iterdir()) == []
