"""The panel while a job runs: it can be cancelled at any stage, and what a person does meanwhile counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from tests.slicer.fault_server import fault_server, job_status, says_json, silent
from tests.slicer.panel_servers import a_good_server, check_untouched
from tests.slicer.person import click, message, open_panel, until, until_done, write
from tests.slicer.person import panels_are_closed as panels_are_closed
from tests.slicer.scenes import SHAPE, add_volume, affine, box, paint, scene_state, segment_state


@pytest.mark.parametrize("stage", ["health", "start", "job", "result"])
def test_cancel_at_any_stage_leaves_the_scene_as_it_was(
    stage: str, a_scene: Any, tmp_path: Path, temporary_files: Path
) -> None:
    volume, mine = a_scene
    before = scene_state(volume)
    with fault_server(a_good_server(tmp_path, **{stage: silent})) as server:
        widget = open_panel(server.url)
        widget.ui.segmentationSelector.setCurrentNode(mine)
        write(widget.ui.wordsLine, "liver")
        click(widget.ui.segmentButton)
        wanted = {
            "health": "/wordmask/health",
            "start": "POST",
            "job": "/wordmask/jobs/0123 ",
            "result": "/result",
        }[stage]
        until(lambda: any(wanted in request.line for request in server.requests))
        click(widget.ui.cancelButton)
        assert not widget.panel.busy
        assert message(widget) == "Cancelled at your request; nothing was changed."
        if stage == "job":
            until(lambda: server.requests[-1].line.startswith("DELETE /wordmask/jobs/0123"))
            until(lambda: not list(temporary_files.iterdir()))
        check_untouched(widget, volume, before, temporary_files)


def test_a_volume_that_is_removed_meanwhile_gets_no_segments(a_scene: Any, tmp_path: Path) -> None:
    volume, mine = a_scene
    before = segment_state(mine, volume)
    other = add_volume(np.zeros(SHAPE, np.int16), affine(), "another")
    slow = [says_json(job_status("running", done=1))] * 2 + [says_json(job_status("done"))]

    def job(caller: Any) -> None:
        slow[0 if slicer.mrmlScene.IsNodePresent(volume) else 2](caller)

    with fault_server(a_good_server(tmp_path, job=job)) as server:
        widget = open_panel(server.url)
        widget.ui.volumeSelector.setCurrentNode(volume)
        widget.ui.segmentationSelector.setCurrentNode(mine)
        write(widget.ui.wordsLine, "liver")
        click(widget.ui.segmentButton)
        until(lambda: "slice 1 of 10" in widget.ui.progressLabel.property("text"))
        slicer.mrmlScene.RemoveNode(volume)
        until_done(widget)
    assert "was removed from the scene meanwhile" in message(widget)
    assert segment_state(mine, other) == before


def test_the_window_works_while_a_server_does_not(a_scene: Any, qt: Any) -> None:
    ticks: list[bool] = []
    timer = qt.QTimer()
    with fault_server(silent) as server:
        widget = open_panel(server.url)
        click(widget.ui.connectButton)
        until(lambda: server.requests)
        timer.timeout.connect(lambda *_: ticks.append(widget.panel.busy))
        timer.start(1)
        until(lambda: len(ticks) > 20)
        timer.stop()
        assert all(ticks), "the server has not answered yet"
        click(widget.ui.cancelButton)
        assert not widget.panel.busy


def test_who_keeps_a_corrected_segment_cancels_the_job(a_scene: Any, tmp_path: Path) -> None:
    volume, mine = a_scene
    running = says_json(job_status("running", words=["Hepar"]))
    with fault_server(lambda caller: script(caller)) as server:
        script = a_good_server(tmp_path)
        widget = open_panel(server.url)
        widget.ui.segmentationSelector.setCurrentNode(mine)
        write(widget.ui.wordsLine, "liver")
        click(widget.ui.segmentButton)
        until_done(widget)
        liver = mine.GetSegmentation().GetNthSegmentID(2)
        paint(mine, liver, box(SHAPE, (0, 2), (0, 2), (0, 2)), volume)
        before = scene_state(volume)
        script = a_good_server(tmp_path, start=running, job=running)
        write(widget.ui.wordsLine, "Hepar")
        click(widget.ui.segmentButton)
        until(lambda: widget.ui.questionRow.isVisible())
        click(widget.ui.noButton)
        until_done(widget)
        assert server.requests[-1].line == "DELETE /wordmask/jobs/0123 HTTP/1.1"
    assert scene_state(volume) == before
