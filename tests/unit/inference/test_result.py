"""What a segmentation gives to files and messages."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from wordmask.data.geometry import Geometry
from wordmask.errors import VolumeError
from wordmask.inference.result import Segmentation, WordStatistics, write_labels
from wordmask.words.prompts import parse_prompts

TURN = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def a_segmentation() -> Segmentation:
    labels = np.zeros((3, 4, 5), dtype=np.uint8)
    labels[1, 2, 1:4] = 1
    return Segmentation(
        labels=labels,
        names={"liver": 1, "spleen": 2},
        statistics={
            "liver": WordStatistics(0.9, 3, 0.036, 0.8, 0.4, 1, (2, 0)),
            "spleen": WordStatistics(0.1, 0, 0.0, None, None, None),
        },
        not_found=["spleen"],
        warnings=["Nothing was marked for 'spleen': it does not seem to be in this image."],
        model="simple_vilmedsam",
        preset="tiny",
        version="bundled",
        window={"liver": "soft_tissue", "spleen": "soft_tissue"},
        plane="axial",
        geometry=Geometry((5, 4, 3), (2.0, 2.0, 3.0), (10.5, -20.25, 30.0), TURN),
        prompts=tuple(parse_prompts("liver, spleen")),
    )


@pytest.mark.parametrize("name", ["labels.nii.gz", "labels.nrrd", "labels.mha"])
def test_a_written_label_map_has_the_values_and_the_geometry(a_segmentation, tmp_path, name):
    write_labels(tmp_path / name, a_segmentation)
    image = sitk.ReadImage(tmp_path / name)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), a_segmentation.labels)
    np.testing.assert_allclose(image.GetSpacing(), (2.0, 2.0, 3.0), atol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), (10.5, -20.25, 30.0), atol=1e-5)
    np.testing.assert_allclose(image.GetDirection(), TURN, atol=1e-6)


def test_a_label_map_that_cannot_be_written_leaves_nothing_behind(a_segmentation, tmp_path):
    with pytest.raises(VolumeError, match=r"labels\.docx"):
        write_labels(tmp_path / "labels.docx", a_segmentation)
    with pytest.raises(VolumeError, match="folder"):
        write_labels(tmp_path / "missing" / "labels.nii.gz", a_segmentation)
    assert list(tmp_path.iterdir()) == []


def test_the_summary_is_json_with_everything_but_the_arrays(a_segmentation):
    summary = json.loads(json.dumps(a_segmentation.summary(), allow_nan=False))
    assert summary["label_names"] == {"liver": 1, "spleen": 2}
    assert summary["statistics"]["liver"] == {
        "presence": 0.9,
        "voxels": 3,
        "millilitres": 0.036,
        "mean_probability": 0.8,
        "mean_uncertainty": 0.4,
        "largest_slice": 1,
        "slices_to_check": [2, 0],
    }
    assert summary["statistics"]["spleen"]["mean_probability"] is None
    assert summary["not_found"] == ["spleen"]
    assert {key: summary[key] for key in ("model", "preset", "version", "plane")} == {
        "model": "simple_vilmedsam",
        "preset": "tiny",
        "version": "bundled",
        "plane": "axial",
    }
    assert len(summary["warnings"]) == 1
    assert summary["window"]["spleen"] == "soft_tissue"


def test_a_mask_is_the_voxels_of_one_word(a_segmentation):
    assert a_segmentation.mask("liver").sum() == 3
    assert not a_segmentation.mask("spleen").any()
    with pytest.raises(KeyError, match="aorta"):
        a_segmentation.mask("aorta")


def test_a_summary_does_not_share_its_lists_with_the_segmentation(a_segmentation):
    summary = a_segmentation.summary()
    summary["warnings"].clear()
    summary["label_names"].clear()
    assert a_segmentation.warnings
    assert replace(a_segmentation).names == {"liver": 1, "spleen": 2}
