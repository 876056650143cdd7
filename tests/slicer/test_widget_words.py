"""The words and points of a person on their way to a server, and the hints about them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from tests.slicer.fault_server import fault_server, says, says_json
from tests.slicer.panel_servers import a_good_server, an_answer, check_untouched
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
from tests.slicer.scenes import SHAPE, scene_state
from WordMaskLib.scene.geometry import to_world


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
            assert widget.ui.markupsSelector.isVisible()
            widget.ui.markupsSelector.setCurrentNode(points)
            write(widget.ui.wordsLine, "liver")
            click(widget.ui.segmentButton)
            until_done(widget)
        jobs = [request.body for request in server.requests if request.line.startswith("POST /wordmask/jobs")]
        sent.append([re.findall(rb'"points": \[\[([^\]]*)\]\]', body) for body in jobs])
        if "points" not in taken:
            assert message(widget) == (
                "'F' cannot be used: this model does not take points; choose a region of interest, or none."
            )
    without, ((place,),), refused = sent
    assert (without, refused) == ([], [])
    np.testing.assert_allclose([float(number) for number in place.split(b",")], (3, 2, 4), atol=1e-6)


@pytest.mark.parametrize(("taken", "name"), [([], b"roi"), (["points"], b"roi"), (["box"], b"box")])
def test_a_region_is_a_box_for_models_that_take_one_and_limits_all_others(
    a_scene: Any, tmp_path: Path, taken: list[str], name: bytes
) -> None:
    volume, _ = a_scene
    region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    region.SetCenter(*to_world(volume, [(3, 2, 4)])[0])
    region.SetSize(3.0, 4.0, 8.0)
    models = says_json({"models": [{**MODEL, "hints": taken}]})
    with fault_server(a_good_server(tmp_path, models=models)) as server:
        widget = open_panel(server.url)
        click(widget.ui.connectButton)
        until_done(widget)
        widget.ui.markupsSelector.setCurrentNode(region)
        write(widget.ui.wordsLine, "liver")
        click(widget.ui.segmentButton)
        until_done(widget)
    (body,) = [r.body for r in server.requests if r.line.startswith("POST /wordmask/jobs")]
    (corners,) = re.findall(rb'"%s": \[\[([^\]]*)\], \[([^\]]*)\]\]' % name, body)
    first, last = (np.array(corner.split(b","), float) for corner in corners)
    assert ((first <= (3, 2, 4)) & (last >= (3, 2, 4))).all()
    assert (b'"roi"' in body, b'"box"' in body) == (name == b"roi", name == b"box")


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


def test_a_word_that_is_not_found_makes_no_segment_and_no_segmentation(a_scene: Any, tmp_path: Path) -> None:
    volume, mine = a_scene
    slicer.mrmlScene.RemoveNode(mine)
    before = scene_state(volume)
    with fault_server(a_good_server(tmp_path, result=an_answer(tmp_path, np.zeros(SHAPE, bool)))) as server:
        widget = open_panel(server.url)
        write(widget.ui.wordsLine, "liver")
        click(widget.ui.segmentButton)
        until_done(widget)
    assert message(widget) == "Not found: liver."
    assert table(widget) == [["liver: not found", "", "", "90 %"]]
    assert scene_state(volume) == before
    assert not widget.ui.undoButton.isEnabled()
