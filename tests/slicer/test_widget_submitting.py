"""Submitting segments to scripted servers that fail, or that have another person's label map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.slicer.fault_server import a_closed_port, fault_server, is_a_sentence, says_json, silent
from tests.slicer.panel_servers import FAULTS, NO_IMAGES, an_image, connected_panel
from tests.slicer.person import MemoryStore, click, message, open_panel, routes, until, until_done
from tests.slicer.person import panels_are_closed as panels_are_closed
from tests.slicer.scenes import scene_state


def test_a_submission_that_fails_changes_nothing(a_labelled_scene: Any, temporary_files: Path) -> None:
    volume, segmentation = a_labelled_scene
    good = {"images": NO_IMAGES, "upload": says_json({"image": "slicer-1"}),
            "image": an_image(temporary_files.parent), "label": says_json({"image": "slicer-1"})}  # fmt: skip
    now = dict(good)
    with fault_server(lambda caller: routes(**now)(caller)) as server:
        widget = connected_panel(server.url)
        widget.ui.segmentationSelector.setCurrentNode(segmentation)
        before = scene_state(volume)
        for stage, fault in (
            ("images", "500"),
            ("upload", "hangs up"),
            *(("label", fault) for fault in FAULTS),
        ):
            now.update({**good, stage: FAULTS[fault]})
            click(widget.ui.submitButton)
            until_done(widget)
            assert is_a_sentence(ValueError(message(widget))), f"{fault} at {stage}: {message(widget)}"
            assert scene_state(volume) == before, f"{fault} at {stage}"
            assert list(temporary_files.iterdir()) == []
            assert widget.ui.submitButton.isEnabled()


def test_another_persons_label_map_is_replaced_only_after_a_yes(
    a_labelled_scene: Any, temporary_files: Path
) -> None:
    volume, segmentation = a_labelled_scene
    labelled = says_json({"objects": {"case": {"image": {"ext": ".nii.gz"}, "labels": {"final": {}}}}})
    routes_ = routes(images=labelled, label=says_json({"image": "case"}))
    with fault_server(routes_) as server:
        volume.SetAttribute("WordMask.image", "case")
        volume.SetAttribute("WordMask.server", server.url)
        widget = connected_panel(server.url)
        widget.ui.segmentationSelector.setCurrentNode(segmentation)
        click(widget.ui.submitButton)
        until(lambda: widget.ui.questionRow.isVisible())
        assert "already has a final label map of this image" in widget.ui.questionLabel.property("text")
        click(widget.ui.noButton)
        until_done(widget)
    assert not any("PUT" in request.line for request in server.requests)


@pytest.mark.parametrize("replaces", [True, False])
def test_a_label_map_of_a_person_with_another_name_is_replaced_or_stays_the_final_one(
    a_labelled_scene: Any, temporary_files: Path, replaces: bool
) -> None:
    volume, segmentation = a_labelled_scene
    final = {"ext": ".nii.gz", "info": {"annotator": "Ben"}}
    labelled = says_json({"objects": {"case": {"image": {"ext": ".nii.gz"}, "labels": {"final": final}}}})
    stored = says_json({"label": "case", "tag": "final" if replaces else "final_by_Anna"})
    image = an_image(temporary_files.parent)
    with fault_server(routes(images=labelled, image=image, label=stored)) as server:
        volume.SetAttribute("WordMask.image", "case")
        volume.SetAttribute("WordMask.server", server.url)
        widget = connected_panel(server.url, store=MemoryStore(annotator="Anna"))
        widget.ui.segmentationSelector.setCurrentNode(segmentation)
        click(widget.ui.submitButton)
        until(lambda: widget.ui.questionRow.isVisible())
        assert "Ben has already submitted the final label map" in widget.ui.questionLabel.property("text")
        click(widget.ui.yesButton if replaces else widget.ui.noButton)
        until_done(widget)
        assert ("beside another person's final label map" in message(widget)) != replaces
    (sent,) = [request.line for request in server.requests if "PUT" in request.line]
    assert "annotator=Anna" in sent
    assert ("replace=true" in sent) == replaces


def test_a_server_that_is_down_or_silent_is_told_by_every_button(a_labelled_scene: Any) -> None:
    _, segmentation = a_labelled_scene
    before = scene_state(a_labelled_scene[0])
    widget = open_panel(f"127.0.0.1:{a_closed_port()}")
    widget.ui.segmentationSelector.setCurrentNode(segmentation)
    for button in (widget.ui.submitButton, widget.ui.nextButton):
        click(button)
        until_done(widget)
        assert "No server at" in message(widget)
    with fault_server(silent) as server:
        widget = open_panel(server.url, timeout=0.5)
        widget.ui.segmentationSelector.setCurrentNode(segmentation)
        for button in (widget.ui.submitButton, widget.ui.nextButton):
            click(button)
            until_done(widget)
            assert "does not answer" in message(widget)
    assert scene_state(a_labelled_scene[0]) == before
