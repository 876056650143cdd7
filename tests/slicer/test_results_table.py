"""The table of results, where it leads, overlays of model outputs, and hints out of Markups nodes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from tests.slicer.scenes import (
    SHAPE,
    add_bent_transform,
    add_transform,
    add_volume,
    affine,
    box,
    labels_of,
    paint,
    scene_state,
    write_file,
)
from tests.slicer.views import SliceView
from WordMaskLib.client.job_answers import WordStatistics
from WordMaskLib.flows import results_table
from WordMaskLib.scene import hints, overlay
from WordMaskLib.scene.export import export_volume
from WordMaskLib.scene.geometry import grid_of, to_voxels, to_world
from WordMaskLib.scene.masks import crop
from WordMaskLib.scene.segments import GeometryError, SegmentsError, Word, import_labels

from wordmask.data.geometry import Plane, slicing_for
from wordmask.data.volumes import read_volume

LIVER, SPLEEN = box(SHAPE, (1, 3), (1, 6), (2, 6)), box(SHAPE, (4, 6), (0, 2), (0, 2))
LIVER[2, 0, 2:6] = True  # so that slice 2 is the largest one
STATISTICS = {
    "liver": WordStatistics(0.9, 44, 0.5, 0.8, 0.1),
    "spleen": WordStatistics(0.7, 8, 0.1, 0.6, 0.2),
    "polyp": WordStatistics(0.01, 0, 0.0, None, None),
}
GRIDS = {
    "oblique": affine(),
    "left-handed": affine(left=True),
    "sagittal": affine() @ np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float),
    "upside down": affine() @ np.array([[-1, 0, 0, 7], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, 1]], float),
}


def _put_under(volume: Any, transform: str) -> None:
    if transform != "none":
        node = (
            add_bent_transform()
            if transform == "bent"
            else add_transform(affine((40, -30), (1, 1, 1), (50, 9, 2)))
        )
        volume.SetAndObserveTransformNodeID(node.GetID())


@pytest.fixture
def a_result(an_oblique_ct: Any, tmp_path: Path) -> Any:
    path = write_file(tmp_path / "labels.nii.gz", labels_of([LIVER, SPLEEN]), affine())
    return import_labels(path, [Word("liver", 1), Word("spleen", 2), Word("polyp", 3)], an_oblique_ct)


def test_the_table_has_a_row_for_each_word_found_or_not(an_oblique_ct: Any, a_result: Any) -> None:
    rows = results_table.result_rows(
        list(STATISTICS), a_result.segmentation, an_oblique_ct, STATISTICS, "axial"
    )
    assert [(row.word, row.voxels, row.presence, row.mean_probability, row.edited) for row in rows] == [
        ("liver", 44, 0.9, 0.8, False),
        ("spleen", 8, 0.7, 0.6, False),
        ("polyp", 0, 0.01, None, False),
    ]
    assert rows[0].millilitres == pytest.approx(44 * 1.5 * 2 * 4 / 1000)
    assert (rows[0].segment_id, rows[0].largest.index) == (a_result.ids["liver"], 2)
    assert (rows[2].segment_id, rows[2].largest) == (None, None)


def test_an_edited_segment_is_counted_anew_and_loses_the_means_of_the_server(
    an_oblique_ct: Any, a_result: Any
) -> None:
    paint(a_result.segmentation, a_result.ids["liver"], SPLEEN, an_oblique_ct)
    row = results_table.result_rows(["liver"], a_result.segmentation, an_oblique_ct, STATISTICS, "axial")[0]
    assert (row.voxels, row.mean_probability, row.mean_uncertainty, row.edited, row.largest.index) == (
        8,
        None,
        None,
        True,
        4,
    )


def test_a_surface_without_a_mask_is_an_edited_row(an_oblique_ct: Any, a_result: Any) -> None:
    a_result.segmentation.CreateClosedSurfaceRepresentation()
    a_result.segmentation.SetSourceRepresentationToClosedSurface()
    a_result.segmentation.RemoveBinaryLabelmapRepresentation()
    row = results_table.result_rows(["liver"], a_result.segmentation, an_oblique_ct, STATISTICS, "axial")[0]
    assert (row.edited, row.voxels, row.largest) == (True, 0, None)


@pytest.mark.parametrize("plane", list(Plane))
@pytest.mark.parametrize("grid", GRIDS)
def test_slices_are_counted_as_the_server_counts_them(grid: str, plane: Plane, tmp_path: Path) -> None:
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS[grid])
    library = slicing_for(read_volume(export_volume(volume, tmp_path).path).geometry, plane)
    slicing = grid_of(volume).slicing(str(plane))
    assert slicing.count == library.cut_shape[0]
    for index in range(slicing.count):
        stack = np.zeros(library.cut_shape, np.uint8)
        stack[index] = 1
        expected = library.restack(stack)
        entries = [slice(None)] * 3
        entries[slicing.axis] = slicing.entries(index, index)
        ours = np.zeros(SHAPE, np.uint8)
        ours[tuple(entries)] = 1
        np.testing.assert_array_equal(ours, expected)
    with pytest.raises(SegmentsError, match="no plane 'oblique'"):
        grid_of(volume).slicing("oblique")


@pytest.mark.parametrize("transform", ["none", "linear", "bent"])
def test_a_position_is_where_the_views_show_the_voxel_and_inside_of_the_mask(
    transform: str, tmp_path: Path
) -> None:
    volume = add_volume(np.zeros(SHAPE, np.int16), affine())
    _put_under(volume, transform)
    ring = box(SHAPE, (3, 4), (1, 6), (1, 7)) & ~box(SHAPE, (3, 4), (2, 5), (2, 6))  # its centre is not in it
    cropped = crop(ring)
    assert cropped is not None
    position = results_table.largest_slice(cropped, volume, grid_of(volume).slicing("axial"))
    i, j, k = np.round(to_voxels(volume, [position.position])[0]).astype(int)
    assert ring[k, j, i]
    image = sitk.ReadImage(str(export_volume(volume, tmp_path).path))
    local = np.array(image.TransformIndexToPhysicalPoint((int(i), int(j), int(k)))) * (-1, -1, 1)
    through = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(volume.GetParentTransformNode(), None, through)
    np.testing.assert_allclose(position.position, through.TransformPoint(local), atol=1e-6)
    np.testing.assert_allclose(
        to_voxels(volume, to_world(volume, [(1, 2, 3), (0, 0, 0)])), [(1, 2, 3), (0, 0, 0)], atol=1e-3
    )


def test_jumping_moves_every_slice_view(an_oblique_ct: Any, rendering: None) -> None:
    views = [SliceView("Red", "Axial"), SliceView("Yellow", "Sagittal")]
    results_table.jump_to((11.0, -7.5, 23.25))
    assert views[0].node.GetSliceToRAS().GetElement(2, 3) == pytest.approx(23.25)
    assert views[1].node.GetSliceToRAS().GetElement(0, 3) == pytest.approx(11.0)


@pytest.mark.parametrize("transform", ["none", "linear"])
def test_an_overlay_lies_on_the_volume_in_colour(transform: str, an_oblique_ct: Any, tmp_path: Path) -> None:
    _put_under(an_oblique_ct, transform)
    values = np.random.default_rng(4).random(SHAPE).astype(np.float32) * 0.6
    path = write_file(tmp_path / "u.nii.gz", values, affine())
    node = overlay.load_overlay(path, an_oblique_ct, "uncertainty", "liver")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), values)
    np.testing.assert_array_equal(
        to_world(node, [(0, 0, 0), (7, 6, 5)]), to_world(an_oblique_ct, [(0, 0, 0), (7, 6, 5)])
    )
    assert node.GetParentTransformNode() is an_oblique_ct.GetParentTransformNode()
    display = node.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx((0, math.log(2)))
    assert display.GetColorNode() is not None
    assert display.GetApplyThreshold()


def test_an_overlay_of_the_same_word_is_replaced_and_removed_whole(
    an_oblique_ct: Any, tmp_path: Path
) -> None:
    before = scene_state(an_oblique_ct)
    first = overlay.load_overlay(
        write_file(tmp_path / "a.nrrd", np.full(SHAPE, 0.25), affine()), an_oblique_ct, "probability", "liver"
    )
    kept = scene_state(an_oblique_ct)
    again = overlay.load_overlay(
        write_file(tmp_path / "b.nrrd", np.full(SHAPE, 0.75), affine()), an_oblique_ct, "probability", "liver"
    )
    assert again is first
    assert (slicer.util.arrayFromVolume(first) == 0.75).all()
    assert scene_state(an_oblique_ct) == kept
    assert overlay.find_overlay(an_oblique_ct, "probability", "spleen") is None
    bad = [
        (
            write_file(tmp_path / "bad.nrrd", np.full(SHAPE, np.nan), affine()),
            SegmentsError,
            "values that are not numbers",
        ),
        (
            write_file(tmp_path / "off.nrrd", np.ones(SHAPE), affine(origin=(0, 0, 0))),
            GeometryError,
            "does not lie on 'CT'",
        ),
        (tmp_path / "none.nrrd", SegmentsError, "missing or empty"),
    ]
    for path, error, sentence in bad:
        for word in ("liver", "spleen"):
            with pytest.raises(error, match=sentence):
                overlay.load_overlay(path, an_oblique_ct, "probability", word)
    assert scene_state(an_oblique_ct) == kept
    assert (slicer.util.arrayFromVolume(first) == 0.75).all()
    overlay.remove_overlay(first)
    assert scene_state(an_oblique_ct) == before


@pytest.mark.parametrize("grid", GRIDS)
def test_the_most_uncertain_slice_is_the_one_with_the_largest_sum(grid: str, tmp_path: Path) -> None:
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS[grid])
    library = slicing_for(read_volume(export_volume(volume, tmp_path).path).geometry, Plane.CORONAL)
    stack = np.full(library.cut_shape, 0.01, np.float32)
    stack[3] = 0.2
    stack[3, 1, 2] = 0.5
    stack[1, 0, 0] = 0.6
    values = library.restack(stack)
    node = overlay.load_overlay(
        write_file(tmp_path / "u.nrrd", values, GRIDS[grid]), volume, "uncertainty", "liver"
    )
    found = overlay.most_uncertain_slice(node, "coronal")
    assert found.index == 3
    i, j, k = np.round(to_voxels(volume, [found.position])[0]).astype(int)
    assert values[k, j, i] == np.float32(0.5)
    asked = overlay.strongest_in(node, "coronal", 1)
    assert asked.index == 1
    i, j, k = np.round(to_voxels(volume, [asked.position])[0]).astype(int)
    assert values[k, j, i] == np.float32(0.6)
    with pytest.raises(SegmentsError, match="has no slice 99"):
        overlay.strongest_in(node, "coronal", 99)
    slicer.util.updateVolumeFromArray(node, np.zeros(SHAPE, np.float32))
    with pytest.raises(SegmentsError, match="0 everywhere"):
        overlay.most_uncertain_slice(node, "coronal")


def test_an_overlay_is_shown_in_front_and_taken_away(an_oblique_ct: Any, tmp_path: Path) -> None:
    composite = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode", "Red")
    node = overlay.load_overlay(
        write_file(tmp_path / "p.nrrd", np.ones(SHAPE), affine()), an_oblique_ct, "attribution", "liver"
    )
    overlay.show_overlay(node, 0.7)
    assert (composite.GetForegroundVolumeID(), composite.GetForegroundOpacity()) == (node.GetID(), 0.7)
    overlay.hide_overlay(node)
    assert composite.GetForegroundVolumeID() is None


@pytest.mark.parametrize("transform", ["none", "linear", "bent"])
@pytest.mark.parametrize("grid", GRIDS)
def test_points_come_back_as_the_voxels_they_were_placed_on(grid: str, transform: str) -> None:
    volume = add_volume(np.zeros(SHAPE, np.int16), GRIDS[grid])
    _put_under(volume, transform)
    voxels = [(0, 0, 0), (7, 6, 5), (3, 2, 4)]
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
    for world in to_world(volume, voxels):
        points.AddControlPointWorld(vtk.vtkVector3d(*world))
    np.testing.assert_allclose(hints.points_in_voxels(points, volume), voxels, atol=1e-3)


def test_points_that_cannot_be_used_are_a_sentence(an_oblique_ct: Any) -> None:
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
    with pytest.raises(SegmentsError, match="'F' has no placed point"):
        hints.points_in_voxels(points, an_oblique_ct)
    points.AddControlPointWorld(vtk.vtkVector3d(*to_world(an_oblique_ct, [(3, 3, 9)])[0]), "far")
    with pytest.raises(GeometryError, match="'far' lies outside of 'CT'"):
        hints.points_in_voxels(points, an_oblique_ct)


@pytest.mark.parametrize("transform", ["none", "linear"])
def test_a_box_covers_the_voxels_whose_centres_are_in_it(transform: str) -> None:
    volume = add_volume(np.zeros(SHAPE, np.int16), affine((0, 0), (2, 2, 2), (0, 0, 0)))
    _put_under(volume, transform)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    with pytest.raises(SegmentsError, match="'R' has no size"):
        hints.box_in_voxels(roi, volume)
    roi.SetCenter(6, 6, 4)
    roi.SetSize(5, 5, 30)  # voxels 1.75 to 4.25 in i and j; beyond the volume in k
    roi.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    box_of_voxels = hints.box_in_voxels(roi, volume)
    assert (box_of_voxels.first, box_of_voxels.last) == ((2, 2, 0), (4, 4, 5))
    roi.SetCenter(600, 6, 4)
    with pytest.raises(GeometryError, match="does not contain a voxel of 'CT'"):
        hints.box_in_voxels(roi, volume)
