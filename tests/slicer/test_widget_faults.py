"""The panel with servers that are down, slow, broken, or gone in the middle: one sentence, and a scene that
is as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.slicer.fault_server import (
    HTML,
    MULTIPART,
    Script,
    a_closed_port,
    hangs_up,
    hangs_up_during_upload,
    head,
    health,
    job_status,
    result_body,
    says,
    says_json,
    sends,
    silent,
)
from tests.slicer.panel_servers import a_good_server, an_answer, check_untouched, segment_with
from tests.slicer.person import click, message, open_panel, table, until_done, write
from tests.slicer.person import panels_are_closed as panels_are_closed
from tests.slicer.scenes import SHAPE, affine, scene_state, segment_state

STAGES = ("health", "models", "vocabulary", "start", "job", "result")


def test_a_result_is_shown_beside_what_is_there(a_scene: Any, tmp_path: Path, temporary_files: Path) -> None:
    volume, mine = a_scene
    before = segment_state(mine, volume)
    widget, server = segment_with(a_good_server(tmp_path), a_scene)
    after = segment_state(mine, volume)
    assert message(widget).startswith("Found: liver (")
    assert [row[0] for row in table(widget)] == ["liver (2)"]
    assert table(widget)[0][2:] == ["80 %", "90 %"]
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 1
    assert [request.line.split(" ")[0] for request in server.requests] == [
        "GET",
        "GET",
        "GET",
        "POST",
        "GET",
        "GET",
    ]
    click(widget.ui.undoButton)
    assert segment_state(mine, volume) == before
    assert list(temporary_files.iterdir()) == []


def test_a_server_that_is_down_is_told_with_the_command_that_starts_it(
    a_scene: Any, temporary_files: Path
) -> None:
    volume, _ = a_scene
    before = scene_state(volume)
    widget = open_panel(f"127.0.0.1:{a_closed_port()}")
    for button in (widget.ui.connectButton, widget.ui.segmentButton):
        write(widget.ui.wordsLine, "liver")
        click(button)
        until_done(widget)
        assert "start it with: wordmask serve --studies FOLDER" in message(widget)
    check_untouched(widget, volume, before, temporary_files)


def test_an_address_that_is_none_is_a_sentence(a_scene: Any, temporary_files: Path) -> None:
    volume, _ = a_scene
    before = scene_state(volume)
    widget = open_panel("")
    write(widget.ui.wordsLine, "liver")
    for address in ("", "ftp://server", "http://:80", "my server", "name@server"):
        write(widget.ui.addressLine, address)
        click(widget.ui.segmentButton)
        until_done(widget)
        check_untouched(widget, volume, before, temporary_files)


BROKEN: dict[str, Script] = {
    "500": says("Internal Server Error", "500 Internal Server Error"),
    "a page": says(HTML, Content_Type="text/html"),
    "garbage": sends(b"\x00\xff what is this\r\n\r\n"),
    "half": sends(head(Content_Type="application/json", Content_Length="5000") + b'{"id'),
    "hangs up": hangs_up,
}


@pytest.mark.parametrize(
    ("fault", "stage"), [*zip(BROKEN, STAGES, strict=False), *((fault, "result") for fault in BROKEN)]
)
def test_a_fault_at_any_stage_changes_nothing(
    fault: str, stage: str, a_scene: Any, tmp_path: Path, temporary_files: Path
) -> None:
    volume, _ = a_scene
    before = scene_state(volume)
    widget, _ = segment_with(a_good_server(tmp_path, **{stage: BROKEN[fault]}), a_scene)
    check_untouched(widget, volume, before, temporary_files)


@pytest.mark.parametrize("stage", ["health", "start", "result"])
def test_a_silent_server_is_given_up(stage: str, a_scene: Any, tmp_path: Path, temporary_files: Path) -> None:
    volume, _ = a_scene
    before = scene_state(volume)
    widget, _ = segment_with(a_good_server(tmp_path, **{stage: silent}), a_scene, timeout=0.6)
    assert "does not answer" in message(widget)
    check_untouched(widget, volume, before, temporary_files)


RESULTS: dict[str, Any] = {
    "another grid": lambda folder: an_answer(folder, np.ones(SHAPE, bool), affine(origin=(0, 0, 0))),
    "another size": lambda folder: an_answer(folder, np.ones((3, 7, 8), bool)),
    "a stray value": lambda folder: an_answer(folder, np.ones(SHAPE, bool), label_names={"liver": 7}),
    "no names": lambda folder: an_answer(folder, np.ones(SHAPE, bool), label_names={}),
    "no image": lambda folder: says(
        result_body(b"no image", params={"label_names": {"liver": 1}, "statistics": {}}),
        Content_Type=MULTIPART,
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_that_does_not_fit_changes_nothing(
    name: str, a_scene: Any, tmp_path: Path, temporary_files: Path
) -> None:
    volume, _ = a_scene
    before = scene_state(volume)
    widget, _ = segment_with(a_good_server(tmp_path, result=RESULTS[name](tmp_path)), a_scene)
    check_untouched(widget, volume, before, temporary_files)


@pytest.mark.parametrize(
    ("stage", "script", "said"),
    [
        (
            "start",
            says_json({"detail": "The queue of the server is full."}, "503 Busy"),
            "The queue of the server is full.",
        ),
        ("start", hangs_up_during_upload, "was closed before the answer was complete"),
        ("start", says_json({"detail": "no"}, "401 Unauthorized"), "asks for a valid token"),
        (
            "job",
            says_json(job_status("failed", message="Too little memory for this.", status_code=503)),
            "Too little memory for this.",
        ),
        (
            "job",
            says_json(job_status("cancelled", message="Somebody cancelled it.")),
            "Somebody cancelled it.",
        ),
        ("health", says_json(health("9.0.0")), "too new for this module"),
        ("models", says_json({"models": []}), "does not offer a model"),
    ],
)
def test_what_the_server_says_is_shown(
    stage: str, script: Script, said: str, a_scene: Any, tmp_path: Path, temporary_files: Path
) -> None:
    volume, _ = a_scene
    before = scene_state(volume)
    widget, _ = segment_with(a_good_server(tmp_path, **{stage: script}), a_scene)
    assert said in message(widget)
    check_untouched(widget, volume, before, temporary_files)
