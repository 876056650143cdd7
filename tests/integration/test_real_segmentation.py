"""The bundled model on real volumes.

It says nothing useful about them, but must neither crash nor move them nor give NaN.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from tests.support.real_images import COUNT, VOLUMES

from wordmask.data.volumes import read_volume
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.result import write_labels
from wordmask.models.loading import load_segmenter

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def a_pipeline():
    return VolumeSegmenter(load_segmenter("simple_vilmedsam", device="cpu"))


@pytest.mark.parametrize("number", VOLUMES)
def test_a_real_volume_is_segmented_where_it_lies(a_pipeline, real_data, tmp_path, number):
    cases = [case for case in json.loads((real_data / "index.json").read_text())["cases"] if "mask" in case]
    assert len(cases) == COUNT
    image = real_data / cases[number]["image"]
    result = a_pipeline.segment(read_volume(image), ["liver", "spine"], keep=("labels", "probability"))
    assert all(np.isfinite(values).all() for values in result.maps["probability"].values())
    assert all(np.isfinite(statistics.presence) for statistics in result.statistics.values())
    write_labels(tmp_path / "labels.nii.gz", result)
    labels, source = sitk.ReadImage(tmp_path / "labels.nii.gz"), sitk.ReadImage(image)
    assert labels.GetSize() == source.GetSize()
    for geometry in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(labels, geometry)(), getattr(source, geometry)(), atol=1e-6)
