"""A result lies where the server marked it, on every grid and under every transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from tests.slicer.scenes import (
    LIVER,
    LIVER_MASK,
    SHAPE,
    WORDS,
    add_bent_transform,
    add_segmentation,
    add_transform,
    add_volume,
    affine,
    file_matrix,
    slicers_mask,
    write_file,
)
from WordMaskLib.scene.segments import import_labels

GRIDS = {
    "straight": affine((0, 0), (1, 1, 1)),
    "anisotropic": affine((0, 0), (0.5, 0.5, 5)),
    "oblique": affine((33, -21)),
    "left-handed": affine((12, 7), left=True),
    "axes in another order": affine((0, 0))
    @ np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float),
}


@pytest.mark.parametrize("transform", ["none", "linear", "bent"])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_ball_that_a_server_marks_by_position_lies_there_in_the_scene(
    grid: str, transform: str, tmp_path: Path
) -> None:
    from WordMaskLib.scene.export import export_volume

    values = np.random.default_rng(3).integers(-1000, 1000, SHAPE).astype(np.int16)
    volume = add_volume(values, GRIDS[grid])
    if transform != "none":
        moved = affine((20, 40), (1, 1, 1), (30, 5, -8)) if transform == "linear" else None
        node = add_transform(moved) if moved is not None else add_bent_transform()
        volume.SetAndObserveTransformNodeID(node.GetID())
    sent = sitk.ReadImage(str(export_volume(volume, tmp_path).path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sent), values)
    np.testing.assert_allclose(file_matrix(tmp_path / "volume.nrrd"), GRIDS[grid], atol=1e-9)

    center = np.array(sent.TransformIndexToPhysicalPoint((5, 2, 3)))
    near = np.zeros(SHAPE, np.uint8)
    for k, j, i in np.ndindex(SHAPE):
        near[k, j, i] = np.linalg.norm(np.array(sent.TransformIndexToPhysicalPoint((i, j, k))) - center) < 4.5
    answer = sitk.GetImageFromArray(near)
    answer.CopyInformation(sent)
    sitk.WriteImage(answer, str(tmp_path / "labels.nii.gz"))

    done = import_labels(tmp_path / "labels.nii.gz", [LIVER], volume)
    np.testing.assert_array_equal(slicers_mask(done.segmentation, done.ids["liver"], volume), near > 0)
    assert done.segmentation.GetParentTransformNode() is volume.GetParentTransformNode()
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(tmp_path / "kept.seg.nrrd"))
    assert storage.WriteData(done.segmentation)
    # Cut to the ball: compared by position, not by index.
    kept = sitk.ReadImage(str(tmp_path / "kept.seg.nrrd"))
    back = sitk.Resample(kept, sent, sitk.Transform(), sitk.sitkNearestNeighbor)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back) > 0, near > 0)


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_a_label_map_on_the_servers_left_handed_file_lies_on_the_volume_loaded_from_it(
    suffix: str, tmp_path: Path
) -> None:
    values = np.random.default_rng(3).integers(-1000, 1000, SHAPE).astype(np.int16)
    path = write_file(tmp_path / f"case{suffix}", values, affine(left=True))
    volume = slicer.modules.volumes.logic().AddArchetypeVolume(str(path), "case")
    assert not np.array_equal(slicer.util.arrayFromVolume(volume), values), (
        "Slicer no longer reverses left-handed files"
    )
    labels = write_file(tmp_path / f"labels{suffix}", (values > 500).astype(np.uint8), affine(left=True))
    done = import_labels(labels, [LIVER], volume)
    mask = slicers_mask(done.segmentation, done.ids["liver"], volume)
    np.testing.assert_array_equal(mask, slicer.util.arrayFromVolume(volume) > 500)


def test_a_reference_geometry_that_a_person_chose_stays(an_oblique_ct: Any, a_result: Path) -> None:
    mine = add_segmentation(an_oblique_ct, {"mine": LIVER_MASK})
    mine.GetSegmentation().SetConversionParameter(
        "Reference image geometry", "1;0;0;0;0;1;0;0;0;0;1;0;0;0;0;1;0;9;0;9;0;9;"
    )
    import_labels(a_result, WORDS, an_oblique_ct, mine)
    assert mine.GetSegmentation().GetConversionParameter("Reference image geometry").endswith("0;9;0;9;0;9;")
