"""The panel with servers that are down, slow, broken, or gone in the middle: one sentence, and a scene that
is as it was.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from tests.slicer.fault_server import (
    HTML,
    MULTIPART,
    Script,
    a_closed_port,
    fault_server,
    hangs_up,
    hangs_up_during_upload,
    head,
    health,
    is_a_sentence,
    job_status,
    result_body,
    says,
    says_json,
    sends,
    silent,
)
from tests.slicer.person import (
    LIVER,
    MODEL,
    click,
    message,
    open_panel,
    routes,
    table,
    until,
    until_done,
    write,
)
from tests.slicer.person import panels_are_closed as panels_are_closed
from tests.slicer.scenes import (
    add_segmentation,
    add_volume,
    affine,
    box,
    labels_of,
    paint,
    scene_state,
    segment_state,
    write_file,
)
from WordMaskLib.scene.geometry import to_world

SHAPE = (6, 7, 8)
STAGES = ("health", "models", "vocabulary", "start", "job", "result")
ENOUGH = {
    "statistics": {
        "liver": {
            "presence": 0.9,
            "voxels": 12,
            "millilitres": 0.1,
            "mean_probability": 0.8,
            "largest_slice": 1,
        }
    }
}


@pytest.fixture
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where flows put their files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def a_scene() -> Any:
    """A volume, and a person's two segments that overlap, the segmentation of which is chosen."""
    volume = add_volume(
        np.random.default_rng(5).integers(-1000, 1000, SHAPE).astype(np.int16), affine(), "CT"
    )
    masks = {"mine": box(SHAPE, (1, 4), (1, 5), (2, 6)), "liver": box(SHAPE, (0, 3), (0, 4), (0, 4))}
    return volume, add_segmentation(volume, masks)


def a_result(folder: Path, mask: np.ndarray, matrix: np.ndarray | None = None, **params: Any) -> Script:
    """A server's answer with this mask as the liver."""
    path = write_file(folder / "answer.nii.gz", labels_of([mask]), affine() if matrix is None else matrix)
    fields = {
        "label_names": {"liver": 1},
        "not_found": [],
        "plane": "axial",
        "model": "m",
        "version": "1",
        **ENOUGH,
        **params,
    }
    body = result_body(path.read_bytes(), name="x.nii.gz", params=fields)
    return says(body, Content_Type=MULTIPART)


def a_good_server(folder: Path, **changed: Script) -> Script:
    good = {
        "start": says_json(job_status(), "202 Accepted"),
        "job": says_json(job_status("done", done=10)),
        "result": a_result(folder, box(SHAPE, (2, 5), (2, 6), (3, 7))),
        "cancel": says_json(job_status("cancelled")),
    }  # fmt: skip
    return routes(**{**good, **changed})


def segment_with(script: Script, scene: Any, *, timeout: float = 20.0) -> tuple[Any, Any]:
    """Ask a server for the liver; the panel afterwards, and the server."""
    with fault_server(script) as server:
        widget = open_panel(server.url, timeout=timeout)
        widget.ui.segmentationSelector.setCurrentNode(scene[1])
        write(widget.ui.wordsLine, "liver")
        click(widget.ui.segmentButton)
        until_done(widget)
    return widget, server


def check_untouched(widget: Any, volume: Any, before: Any, temporary_files: Path) -> None:
    """One sentence, nothing changed, nothing left, and everything can be tried again."""
    assert is_a_sentence(ValueError(message(widget))), message(widget)
    assert scene_state(volume) == before
    assert list(temporary_files.iterdir()) == []
    assert widget.ui.segmentButton.isEnabled()
    assert not widget.ui.progressRow.isVisible()
    assert not widget.ui.undoButton.isEnabled()
    assert table(widget) == []


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


def test_points_of_a_person_travel_with_the_words_for_models_that_take_them(
    a_scene: Any, tmp_path: Path
) -> None:
    volume, _ = a_scene
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
    points.AddControlPointWorld(*to_world(volume, [(3, 2, 4)])[0])
    sent = []
    for taken in ([], ["points"], ["box"]):
        models = says_json({"models": [{**MODEL, "hints": taken}]})
        with fault_server(a_good_server(tmp_path, models=models)) as server:
            widget = open_panel(server.url)
            click(widget.ui.connectButton)
            until_done(widget)
            assert widget.ui.markupsSelector.isVisible() == bool(taken)
            widget.ui.markupsSelector.setCurrentNode(points)
            write(widget.ui.wordsLine, "liver")
            click(widget.ui.segmentButton)
            until_done(widget)
        jobs = [request.body for request in server.requests if request.line.startswith("POST /wordmask/jobs")]
        sent.append([re.findall(rb'"points": \[\[([^\]]*)\]\]', body) for body in jobs])
        if taken == ["box"]:
            assert message(widget) == "'F' cannot be used: this model takes box; choose another one, or none."
    without, ((place,),), refused = sent
    assert (without, refused) == ([[]], [])
    np.testing.assert_allclose([float(number) for number in place.split(b",")], (3, 2, 4), atol=1e-6)


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
    "another grid": lambda folder: a_result(folder, np.ones(SHAPE, bool), affine(origin=(0, 0, 0))),
    "another size": lambda folder: a_result(folder, np.ones((3, 7, 8), bool)),
    "a stray value": lambda folder: a_result(folder, np.ones(SHAPE, bool), label_names={"liver": 7}),
    "no names": lambda folder: a_result(folder, np.ones(SHAPE, bool), label_names={}),
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


def test_a_word_that_is_not_found_makes_no_segment_and_no_segmentation(a_scene: Any, tmp_path: Path) -> None:
    volume, mine = a_scene
    slicer.mrmlScene.RemoveNode(mine)
    before = scene_state(volume)
    with fault_server(a_good_server(tmp_path, result=a_result(tmp_path, np.zeros(SHAPE, bool)))) as server:
        widget = open_panel(server.url)
        write(widget.ui.wordsLine, "liver")
        click(widget.ui.segmentButton)
        until_done(widget)
    assert message(widget) == "Not found: liver."
    assert table(widget) == [["liver: not found", "", "", "90 %"]]
    assert scene_state(volume) == before
    assert not widget.ui.undoButton.isEnabled()


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


def test_words_that_the_server_cannot_use_are_told_in_its_own_sentence(
    a_scene: Any, temporary_files: Path
) -> None:
    volume, _ = a_scene
    before = scene_state(volume)
    sentence = "'12' has no letter, so it does not name anything that can be looked for; type a word."
    with fault_server(routes(start=says_json({"detail": sentence}, "400 Bad Request"))) as server:
        widget = open_panel(server.url)
        write(widget.ui.wordsLine, "liver, 12")
        click(widget.ui.segmentButton)
        until_done(widget)
        assert message(widget) == sentence
        assert b'{"words": "liver, 12"}' in server.requests[-1].body, "as typed"
    check_untouched(widget, volume, before, temporary_files)


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


def test_hints_that_the_server_does_not_give_are_no_fault(a_scene: Any) -> None:
    answers = {"first": True}

    def vocabulary(caller: Any) -> None:
        script = (
            says_json({"words": [LIVER]})
            if answers.pop("first", False)
            else says("x", "500 Internal Server Error")
        )
        script(caller)

    with fault_server(routes(vocabulary=vocabulary)) as server:
        widget = open_panel(server.url)
        click(widget.ui.connectButton)
        until_done(widget)
        assert widget.ui.modelBox.itemText(0) == MODEL["title"]
        write(widget.ui.wordsLine, "unknown thing")
        until(lambda: any("q=unknown" in request.line for request in server.requests))
        until(lambda: not widget.panel._background)
        assert message(widget) == "The server is ready."
        assert not widget.ui.hintLabel.isVisible()


def test_a_word_that_the_server_was_taught_gets_no_hint_in_any_spelling(a_scene: Any) -> None:
    taught = says_json({"models": [{**MODEL, "trained_words": ["heart spine"]}]})
    with fault_server(routes(models=taught)) as server:
        widget = open_panel(server.url)
        click(widget.ui.connectButton)
        until_done(widget)
        for typed in ("Heart-Spine", "heart-spine", "Heart Spine", "heart_spine"):
            write(widget.ui.wordsLine, f"{typed}, heart lung")
            until(lambda: "heart lung" in widget.ui.hintLabel.property("text"))
            hint = widget.ui.hintLabel.property("text")
            assert hint == "'heart lung' is not in the vocabulary; did you mean 'liver'?", typed
            write(widget.ui.wordsLine, "")
            until(lambda: not widget.ui.hintLabel.property("text"))


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
