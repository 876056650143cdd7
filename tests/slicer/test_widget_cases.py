"""The next case: what the panel does with what is there already, and when the case cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
from tests.slicer.fault_server import fault_server, is_a_sentence, job_status, says, says_json
from tests.slicer.panel_servers import FAULTS, a_next, an_image, connected_panel
from tests.slicer.person import click, message, open_panel, routes, until_done
from tests.slicer.person import panels_are_closed as panels_are_closed
from tests.slicer.scenes import SHAPE, add_segmentation, add_volume, affine, box, scene_state, write_file
from WordMaskLib.flows.cases import mark_case
from WordMaskLib.scene.segments import import_labels
from WordMaskLib.scene.terminology import Word


def test_results_of_other_volumes_are_hidden_and_those_of_the_next_case_shown(tmp_path: Path) -> None:
    volumes = [add_volume(np.zeros(SHAPE, np.int16), affine(), name) for name in ("first", "second")]
    path = write_file(
        tmp_path / "answer.nii.gz", box(SHAPE, (0, 3), (0, 4), (0, 4)).astype(np.uint8), affine()
    )
    results = [import_labels(path, [Word("liver", 1)], volume).segmentation for volume in volumes]
    mine = add_segmentation(volumes[0], {"mine": box(SHAPE, (1, 2), (1, 2), (1, 2))})

    def shown() -> list[bool]:
        return [bool(segmentation.GetDisplayNode().GetVisibility()) for segmentation in (*results, mine)]

    found: dict[str, Any] = {
        "case": "second",
        "strategy": "first",
        "reason": "It is the first one.",
        "score": {},
        "scores": {},
    }
    with fault_server(routes(next=says_json(found))) as server:
        widget = open_panel(server.url)
        for volume in volumes:
            mark_case(volume, volume.GetName(), widget.panel.address())
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        click(widget.ui.nextButton)
        until_done(widget)
        assert widget.panel.volume is volumes[1]
        assert shown() == [False, True, True]
        assert (
            results[0].GetDisplayNode().GetSegmentVisibility(results[0].GetSegmentation().GetNthSegmentID(0))
        ), "hidden as a whole"
        assert slicer.mrmlScene.GetNumberOfNodes() == nodes


def test_a_next_case_that_fails_changes_nothing(a_labelled_scene: Any, temporary_files: Path) -> None:
    good, before = (
        {"next": a_next(), "image": an_image(temporary_files.parent)},
        scene_state(a_labelled_scene[0]),
    )
    no_image = says(
        b"no image at all",
        Content_Type="application/octet-stream",
        Content_Disposition='attachment; filename="case.nii.gz"',
    )
    now = dict(good)
    with fault_server(lambda caller: routes(**now)(caller)) as server:
        widget = connected_panel(server.url)
        for stage, script in (
            ("next", FAULTS["500"]),
            *(("image", script) for script in FAULTS.values()),
            ("image", no_image),
        ):
            now.update({**good, stage: script})
            click(widget.ui.nextButton)
            until_done(widget)
            assert is_a_sentence(ValueError(message(widget))), f"{stage}: {message(widget)}"
            assert scene_state(a_labelled_scene[0]) == before, stage
            assert list(temporary_files.iterdir()) == []
    assert "cannot be read by Slicer" in message(widget)


def test_a_case_is_opened_also_when_its_preview_fails_and_never_twice(
    a_labelled_scene: Any, temporary_files: Path
) -> None:
    failed = says_json(job_status("failed", message="Too little memory for this."))
    image = an_image(temporary_files.parent)
    with fault_server(routes(next=a_next(preview=job_status()), image=image, job=failed)) as server:
        widget = connected_panel(server.url)
        click(widget.ui.nextButton)
        until_done(widget)
        assert message(widget) == "The case is open. Too little memory for this."
        volume = widget.ui.volumeSelector.currentNode()
        assert volume.GetName() == "case"
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        click(widget.ui.nextButton)
        until_done(widget)
        assert "skip=case" in [request.line for request in server.requests if "/next" in request.line][-1]
        assert slicer.mrmlScene.GetNumberOfNodes() == nodes


def test_no_case_is_left(a_labelled_scene: Any) -> None:
    with fault_server(routes(next=a_next(case=None, reason="All cases are labelled."))) as server:
        widget = connected_panel(server.url)
        click(widget.ui.nextButton)
        until_done(widget)
    assert message(widget) == "There is no case to open at the moment."
    assert widget.ui.caseLabel.property("text") == "All cases are labelled."
