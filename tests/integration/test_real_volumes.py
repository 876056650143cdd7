"""Geometry on the real volumes that WORDMASK_REAL_DATA names.

What goes out lies where it came in, and nothing is NaN.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from tests.support.real_images import COUNT, VOLUMES

from wordmask.data.geometry import Plane, slicing_for
from wordmask.data.slices import body_slices, choose_plane, to_unit_range
from wordmask.data.volumes import read_volume, write_label_map
from wordmask.data.windows import load_windows

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def real_cases(real_data: Path) -> list[dict]:
    return [case for case in json.loads((real_data / "index.json").read_text())["cases"] if case["dim"] == 3]


def test_all_volumes_are_there(real_cases):
    assert len(real_cases) == COUNT


@pytest.mark.parametrize("number", VOLUMES)
def test_a_real_label_map_keeps_the_geometry_of_its_image(real_data, real_cases, tmp_path, number):
    case = real_cases[number]
    image_file, label_file = real_data / case["image"], tmp_path / "labels.nii.gz"
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(real_data / case["mask"])))
    volume = read_volume(image_file)
    assert volume.array.shape == labels.shape

    for plane in Plane:
        slicing = slicing_for(volume.geometry, plane)
        stack = slicing.cut(labels)
        seen = to_unit_range(
            volume,
            slicing.cut(volume.array)[::7],
            load_windows()["soft_tissue"] if volume.modality == "CT" else None,
        )
        assert np.isfinite(seen).all()
        assert (seen.min(), seen.max()) >= (0, 0)
        assert seen.max() <= 1
        assert seen.std() > 0.01, "there is something to see"
        labelled = np.flatnonzero(stack.any(axis=(1, 2)))
        assert body_slices(volume, slicing)[labelled].all(), "no slice with a label is taken for air"
        np.testing.assert_array_equal(slicing.restack(stack), labels)

    slicing = slicing_for(volume.geometry, choose_plane(volume))
    write_label_map(label_file, slicing.restack(slicing.cut(labels)), volume.geometry)
    written, image = sitk.ReadImage(str(label_file)), sitk.ReadImage(str(image_file))
    assert written.GetSize() == image.GetSize()
    np.testing.assert_allclose(written.GetSpacing(), image.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(written.GetOrigin(), image.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(written.GetDirection(), image.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(nib.load(label_file).affine, nib.load(image_file).affine, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(nib.load(label_file).dataobj), labels.T)


def test_ct_is_told_from_mr(real_data, real_cases):
    for case in real_cases:
        expected = "CT" if case["modality"].startswith("CT") else "unknown"
        assert read_volume(real_data / case["image"]).modality == expected, case["id"]
