"""The overlay section: what the model thought, in colour over the image, on a real server and on servers that
fail.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from tests.slicer.fault_server import (
    MULTIPART,
    Script,
    fault_server,
    hangs_up,
    is_a_sentence,
    job_status,
    result_body,
    says,
    says_json,
    sends,
)
from tests.slicer.person import click, message, open_panel, routes, until, until_done, write
from tests.slicer.person import panels_are_closed as panels_are_closed
from tests.slicer.real_server import CT, REPOSITORY, Running
from tests.slicer.scenes import add_volume, affine, box, scene_state, write_file
from tests.slicer.views import SliceView

SHAPE = (6, 7, 8)
WORTH_A_LOOK = r"Shown over the image: uncertainty of spleen\. (\d+) of 40 slices are worth a look\."


def overlays() -> list[Any]:
    return [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        if node.GetAttribute("WordMask.overlay")
    ]


@pytest.mark.server
def test_the_uncertainty_of_a_result_is_shown_in_colour_and_its_worst_slice_is_found(
    server: Running, rendering: None
) -> None:
    path = REPOSITORY / "sample_data" / "studies" / f"{CT}.nii.gz"
    volume = slicer.modules.volumes.logic().AddArchetypeVolume(str(path), "CT")
    view = SliceView("Red", "Axial")
    view.show(volume)
    widget = open_panel(server.url, server.token)
    widget.ui.overlaySection.setCollapsed(False)
    assert not widget.ui.overlayButton.isEnabled()
    write(widget.ui.wordsLine, "liver, spleen")
    widget.ui.wordsLine.completer().popup().hide()
    click(widget.ui.segmentButton)
    until_done(widget)
    assert [widget.ui.overlayWordBox.itemText(row) for row in range(widget.ui.overlayWordBox.count())] == [
        "liver",
        "spleen",
    ]
    assert widget.ui.kindBox.currentText() == "Uncertainty"
    plain = view.picture()
    widget.ui.overlayWordBox.setCurrentIndex(1)
    click(widget.ui.overlayButton)
    until_done(widget)
    found = re.fullmatch(WORTH_A_LOOK, message(widget))
    assert found, message(widget)
    count = int(found.group(1))
    assert count > 1
    (overlay,) = overlays()
    values = slicer.util.arrayFromVolume(overlay)
    assert values.shape == slicer.util.arrayFromVolume(volume).shape
    assert 0 <= values.min() < values.max() < 0.7
    assert view.composite.GetForegroundVolumeID() == overlay.GetID()
    offsets = []
    for number in range(count):
        click(widget.ui.jumpButton)
        assert message(widget).startswith(f"Slice {number + 1} of {count} that are worth a look;")
        offsets.append(view.node.GetSliceOffset())
    assert len(set(offsets)) == count
    click(widget.ui.jumpButton)  # from the beginning
    assert view.node.GetSliceOffset() == offsets[0]
    assert (view.picture() != plain).any()
    widget.ui.opacitySlider.setValue(0.25)
    assert view.composite.GetForegroundOpacity() == pytest.approx(0.25)
    click(widget.ui.hideButton)
    assert overlays() == []
    assert message(widget) == ""
    assert not widget.ui.opacitySlider.isEnabled()


@pytest.fixture
def a_panel_with_a_result(tmp_path: Path) -> Any:
    """A volume whose liver was found by a server that then does what a test says: (widget, volume, change the
    routes).
    """
    volume = add_volume(
        np.random.default_rng(5).integers(-1000, 1000, SHAPE).astype(np.int16), affine(), "CT"
    )
    fields = {
        "label_names": {"liver": 1},
        "not_found": [],
        "plane": "axial",
        "statistics": {"liver": {"voxels": 1}},
    }
    mask = write_file(tmp_path / "mask.nii.gz", box(SHAPE, (1, 3), (1, 3), (1, 3)).astype(np.uint8), affine())
    now: dict[str, Script] = {
        "start": says_json(job_status()), "job": says_json(job_status("done")),
        "result": says(result_body(mask.read_bytes(), params=fields), Content_Type=MULTIPART),
    }  # fmt: skip
    with fault_server(lambda caller: routes(**now)(caller)) as server:
        widget = open_panel(server.url)
        widget.ui.overlaySection.setCollapsed(False)
        write(widget.ui.wordsLine, "liver")
        click(widget.ui.segmentButton)
        until_done(widget)
        yield widget, volume, now


def numbers(folder: Path, values: np.ndarray, matrix: np.ndarray | None = None, **statistics: Any) -> Script:
    path = write_file(
        folder / "numbers.nii.gz", values.astype(np.float32), affine() if matrix is None else matrix
    )
    return says(
        result_body(
            path.read_bytes(),
            params={
                "label_names": {"liver": 1},
                "plane": "axial",
                "slices": len(values),
                "statistics": {"liver": {"voxels": 1, **statistics}},
            },
        ),
        Content_Type=MULTIPART,
    )


def test_an_overlay_goes_when_another_volume_is_chosen(a_panel_with_a_result: Any, tmp_path: Path) -> None:
    widget, volume, now = a_panel_with_a_result
    now["result"] = numbers(tmp_path, np.full(SHAPE, 0.3))
    click(widget.ui.overlayButton)
    until_done(widget)
    assert len(overlays()) == 1
    other = add_volume(np.zeros(SHAPE, np.int16), affine(), "another")
    widget.ui.volumeSelector.setCurrentNode(other)
    until(lambda: overlays() == [])
    assert not widget.ui.hideButton.isEnabled()
    assert volume.GetImageData() is not None


def test_an_overlay_that_fails_or_does_not_fit_changes_nothing(
    a_panel_with_a_result: Any, tmp_path: Path
) -> None:
    widget, volume, now = a_panel_with_a_result
    before, good = scene_state(volume), dict(now)
    broken, garbage = says("x", "500 Internal Server Error"), sends(b"\x00\xffwhat\r\n\r\n")
    another_size = numbers(tmp_path, np.full((3, 7, 8), 0.1))
    another_place = numbers(tmp_path, np.full(SHAPE, 0.1), affine(origin=(0, 0, 0)))
    for stage, script in (
        *(("health", broken), ("start", garbage), ("job", hangs_up)),
        *(("result", script) for script in (broken, garbage, hangs_up, another_size, another_place)),
    ):
        now.update({**good, stage: script})
        click(widget.ui.overlayButton)
        until_done(widget)
        assert is_a_sentence(ValueError(message(widget))), f"{stage}: {message(widget)}"
        assert scene_state(volume) == before, stage
        now.pop("health", None)


def test_an_overlay_of_zeros_has_no_slice_that_stands_out(a_panel_with_a_result: Any, tmp_path: Path) -> None:
    widget, _, now = a_panel_with_a_result
    now["result"] = numbers(tmp_path, np.zeros(SHAPE))
    click(widget.ui.overlayButton)
    until_done(widget)
    click(widget.ui.jumpButton)
    assert "is 0 everywhere" in message(widget)


def distance_to_slice(view: SliceView, volume: Any, voxel: tuple[int, int, int]) -> float:
    """Of a voxel (i, j, k) from the slice that is shown, mm."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    point = np.array(matrix.MultiplyPoint((*voxel, 1)))
    plane = slicer.util.arrayFromVTKMatrix(view.node.GetSliceToRAS())
    return abs(float((point - plane[:, 3]) @ plane[:, 2]))


def test_without_slices_to_check_it_goes_to_the_slice_where_the_overlay_is_strongest(
    a_panel_with_a_result: Any, tmp_path: Path
) -> None:
    widget, volume, now = a_panel_with_a_result
    view = SliceView("Red", "Axial")
    view.show(volume)
    values = np.full(SHAPE, 0.1)
    values[4, 3, 2] = 0.6
    now["result"] = numbers(tmp_path, values)
    click(widget.ui.overlayButton)
    until_done(widget)
    for _ in range(2):
        click(widget.ui.jumpButton)
        assert message(widget) == "Shown over the image: uncertainty of liver."
        assert distance_to_slice(view, volume, (2, 3, 4)) < 0.01


@pytest.mark.parametrize("listed", [[7], [-1], ["x"], 3])
def test_slices_to_check_that_do_not_exist_are_said(
    a_panel_with_a_result: Any, tmp_path: Path, listed: Any
) -> None:
    widget, _, now = a_panel_with_a_result
    now["result"] = numbers(tmp_path, np.full(SHAPE, 0.1), slices_to_check=listed)
    click(widget.ui.overlayButton)
    until_done(widget)
    if widget.ui.jumpButton.isEnabled():
        click(widget.ui.jumpButton)
    assert is_a_sentence(ValueError(message(widget))), message(widget)
    assert "Shown" not in message(widget)
