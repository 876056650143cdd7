"""The off-screen views draw what Slicer draws: masks where they are, hidden ones not, overlays in colour,
surfaces in 3-D.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from tests.slicer.scenes import add_volume, affine, write_file
from tests.slicer.views import SliceView, ThreeDView, four_up, save_png
from WordMaskLib.flows import results_table
from WordMaskLib.scene import overlay, segments
from WordMaskLib.scene.segments import Word, import_labels

pytestmark = pytest.mark.usefixtures("rendering")

SHAPE = (24, 40, 40)
MATRIX = affine((0, 0), (2, 2, 4), (-40, -40, -50))
RED = (255, 0, 0)


def _ball(center: tuple[int, int, int], radius: float) -> np.ndarray:
    k, j, i = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return ((k - center[0]) * 2) ** 2 + (j - center[1]) ** 2 + (i - center[2]) ** 2 < radius**2


@pytest.fixture
def a_ct() -> Any:
    values = np.where(_ball((12, 20, 20), 19), 40, -1000).astype(np.int16)
    volume = add_volume(values, MATRIX)
    volume.CreateDefaultDisplayNodes()
    display = volume.GetScalarVolumeDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevel(500, 60)
    return volume


@pytest.fixture
def a_result(a_ct: Any, tmp_path: Path) -> Any:
    labels = _ball((12, 20, 10), 7).astype(np.uint8) + 2 * _ball((12, 20, 30), 6)
    path = write_file(tmp_path / "labels.nii.gz", labels.astype(np.uint8), MATRIX)
    return import_labels(path, [Word("liver", 1, RED), Word("spleen", 2, (0, 0, 255))], a_ct)


@pytest.fixture
def a_slice_view(a_ct: Any) -> SliceView:
    view = SliceView(size=(240, 240))
    view.show(a_ct)
    return view


@pytest.fixture
def a_3d_view() -> ThreeDView:
    return ThreeDView(size=(240, 240))


def _reddish(picture: np.ndarray) -> np.ndarray:
    pixels = picture.astype(int)
    return (pixels[..., 0] > pixels[..., 1] + 60) & (pixels[..., 0] > pixels[..., 2] + 60)


def test_hiding_a_segmentation_changes_the_picture_and_showing_it_brings_it_back(
    a_slice_view: SliceView, a_result: Any
) -> None:
    shown = a_slice_view.picture()
    a_result.segmentation.GetDisplayNode().SetVisibility(False)
    hidden = a_slice_view.picture()
    assert (shown != hidden).any(axis=-1).sum() > 500
    assert not _reddish(hidden).any()
    a_result.segmentation.GetDisplayNode().SetVisibility(True)
    np.testing.assert_array_equal(a_slice_view.picture(), shown)


def test_the_patients_right_is_at_the_left_of_the_screen(a_slice_view: SliceView, a_result: Any) -> None:
    columns = np.flatnonzero(_reddish(a_slice_view.picture()).any(axis=0))
    assert columns.min() > 120, "low i is low R, the patient's left, which is at the right of the screen"


def test_a_replaced_segment_is_drawn_anew_and_undone_on_the_screen(
    a_slice_view: SliceView, a_result: Any, a_ct: Any, tmp_path: Path
) -> None:
    before = a_slice_view.picture()
    path = write_file(tmp_path / "again.nii.gz", _ball((12, 8, 20), 5).astype(np.uint8), MATRIX)
    again = import_labels(path, [Word("liver", 1, RED)], a_ct, a_result.segmentation)
    after = a_slice_view.picture()
    rows = np.flatnonzero(_reddish(after).any(axis=1))
    assert rows.min() > 120, "low j is low A, the patient's back, which is at the bottom of the screen"
    again.step.undo()
    np.testing.assert_array_equal(a_slice_view.picture(), before)


def test_a_segment_that_leaves_a_shared_image_is_drawn_right(
    a_slice_view: SliceView, a_result: Any, a_ct: Any, tmp_path: Path
) -> None:
    a_result.segmentation.GetSegmentation().CollapseBinaryLabelmaps(False)
    a_slice_view.picture()
    path = write_file(tmp_path / "again.nii.gz", _ball((12, 32, 20), 5).astype(np.uint8), MATRIX)
    import_labels(path, [Word("liver", 1, RED)], a_ct, a_result.segmentation)
    drawn = a_slice_view.picture()
    fresh = SliceView(name="Fresh", size=(240, 240))
    fresh.show(a_ct)
    np.testing.assert_array_equal(drawn, fresh.picture())


def test_jumping_to_a_finding_shows_it(a_slice_view: SliceView, a_result: Any, a_ct: Any) -> None:
    a_slice_view.node.SetSliceOffset(-45)
    assert not _reddish(a_slice_view.picture()).any()
    row = results_table.result_rows(["liver"], a_result.segmentation, a_ct, {}, "axial")[0]
    results_table.jump_to(row.largest.position)
    assert _reddish(a_slice_view.picture()).any()


def test_an_overlay_is_seen_where_it_is_not_zero(a_slice_view: SliceView, a_ct: Any, tmp_path: Path) -> None:
    plain = a_slice_view.picture()
    values = _ball((12, 20, 20), 8).astype(np.float32)
    node = overlay.load_overlay(write_file(tmp_path / "p.nrrd", values, MATRIX), a_ct, "probability", "liver")
    overlay.show_overlay(node, 0.6)
    changed = (a_slice_view.picture() != plain).any(axis=-1)
    assert 0.3 * np.pi * 48**2 < changed.sum() < 1.5 * np.pi * 48**2, (
        "8 voxels of 3 pixels on 240 pixels for 80 mm"
    )
    overlay.hide_overlay(node)
    np.testing.assert_array_equal(a_slice_view.picture(), plain)


def test_segments_are_seen_in_3d_once_they_have_surfaces(a_3d_view: ThreeDView, a_result: Any) -> None:
    assert not _reddish(a_3d_view.picture()).any()
    segments.show_3d(a_result.segmentation)
    assert _reddish(a_3d_view.picture()).sum() > 200
    segments.show_3d(a_result.segmentation, False)
    assert not _reddish(a_3d_view.picture()).any()


def test_four_pictures_make_the_four_up_layout(
    a_slice_view: SliceView, a_3d_view: ThreeDView, a_result: Any, a_ct: Any, tmp_path: Path
) -> None:
    segments.show_3d(a_result.segmentation)
    others = [SliceView("Yellow", "Sagittal", (240, 240)), SliceView("Green", "Coronal", (240, 240))]
    for view in others:
        view.show(a_ct)
    pictures = [a_slice_view.picture(), a_3d_view.picture(), *(view.picture() for view in others)]
    for view in others:
        view.close()
    save_png(four_up(pictures), tmp_path / "four.png")
    assert four_up(pictures).shape == (480, 480, 3)
    assert (tmp_path / "four.png").read_bytes().startswith(b"\x89PNG")
    assert all(len(np.unique(picture.reshape(-1, 3), axis=0)) > 3 for picture in pictures)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSliceNode") == 1, (
        "a closed view leaves its nodes in the scene"
    )
