"""Trainings and versions on scripted servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from tests.slicer.fault_server import fault_server, is_a_sentence, says_json
from tests.slicer.panel_servers import connected_panel
from tests.slicer.person import MODEL, click, message, routes, until, until_done, write
from tests.slicer.person import panels_are_closed as panels_are_closed
from tests.slicer.scenes import SHAPE, affine, box, paint, write_file


def version(number: int, *, served: bool = False) -> dict[str, Any]:
    card = {
        "date": "2026-11-01T10:20:30",
        "learned": ["liver"],
        "validation_dice": {"liver": 0.5 + number / 10},
    }
    return {"number": number, "served": served, "card": card}


@pytest.fixture
def watched_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings are asked about more often than those of a real server need it."""
    monkeypatch.setattr("WordMaskLib.flows.learning.WATCH_SECONDS", 0.05)


def test_a_training_shows_its_metric_and_its_new_version_and_an_earlier_one_can_be_chosen(
    a_labelled_scene: Any, watched_often: None
) -> None:
    running = {"state": "running", "stage": "learning", "done": 3, "total": 12, "seconds": 106, "loss": 0.25}
    running.update(dice=0.61, dice_before=0.5)
    states = [{"state": "none"}, {**running, "done": 1, "seconds": 102}, running]
    done = {
        "state": "done",
        "message": "Version 2 was published.",
        "version": 2,
        "dice": {"liver": 0.7},
        "dice_before": {"liver": 0.5},
    }
    done.update(mean=0.7, mean_before=0.5)
    served = {"number": 1}

    def training(caller: Any) -> None:
        says_json(states.pop(0) if len(states) > 1 else states[0])(caller)

    def models(caller: Any) -> None:
        versions = [version(number, served=number == served["number"]) for number in (0, 1, 2)]
        says_json({"models": [{**MODEL, "version": str(served["number"]), "versions": versions}]})(caller)

    def rollback(caller: Any) -> None:
        served["number"] = 1
        says_json({"version": 1})(caller)

    with fault_server(
        routes(training=training, models=models, train=says_json({}), rollback=rollback)
    ) as server:
        widget = connected_panel(server.url)
        until(lambda: not widget.panel.sections[-1].training)
        click(widget.ui.trainButton)
        until(lambda: widget.ui.trainingLabel.property("text").startswith("learning, 3 "))
        text = widget.ui.trainingLabel.property("text")
        assert text == "learning, 3 of 12, about 18 s left in this stage, loss 0.250, Dice 0.61 (0.50 before)"
        served["number"] = 2
        states[:] = [done]
        until(lambda: not widget.ui.trainingBar.isVisible())
        assert widget.ui.trainingLabel.property("text") == "Version 2 was published. Dice 0.70, before 0.50."
        versions = widget.ui.versionTable
        until(lambda: versions.item(0, 0).text() == "2 (in use)")
        assert [versions.item(0, column).text() for column in (1, 2, 3)] == [
            "2026-11-01 10:20",
            "liver",
            "0.70",
        ]
        versions.selectRow(0)
        assert not widget.ui.versionButton.isEnabled()
        versions.selectRow(1)
        click(widget.ui.versionButton)
        until_done(widget)
        assert message(widget) == "Version 1 is now in use."
        assert versions.item(1, 0).text() == "1 (in use)"
    assert any(
        request.line.startswith("POST /wordmask/models/m/rollback?to=1 ") for request in server.requests
    )
    assert (
        next(request for request in server.requests if "/train/" in request.line).body
        == b'{"recipe": "few_shot"}'
    )


def test_models_are_trained_as_each_of_them_is(a_labelled_scene: Any) -> None:
    """By its own recipes, with the typed words where it learns without labels, or not at all."""
    weak = {
        **MODEL,
        "name": "w",
        "title": "Weak",
        "training": {"recipes": ["small", "paper", "smoke"], "words": True},
    }
    fixed = {**MODEL, "name": "f", "title": "Fixed", "training": None}
    with fault_server(routes(models=says_json({"models": [weak, fixed]}), train=says_json({}))) as server:
        widget = connected_panel(server.url)
        until(lambda: not widget.panel.sections[-1].training)
        recipes = widget.ui.recipeBox
        assert [recipes.itemText(number) for number in range(recipes.count())] == [
            "quick",
            "as published, on a GPU",
        ]
        write(widget.ui.wordsLine, "polyp")
        click(widget.ui.trainButton)
        until_done(widget)
        sent = next(request for request in server.requests if "/train/" in request.line)
        assert sent.body == b'{"recipe": "small", "words": "polyp"}'
        until(lambda: not widget.panel.sections[-1].training)
        widget.ui.modelBox.setCurrentIndex(1)
        widget.ui.modelBox.activated.emit(1)
        until_done(widget)
        assert recipes.count() == 0
        assert not widget.ui.trainButton.isEnabled()


def test_a_training_that_is_refused_or_a_server_that_vanishes_meanwhile_is_a_sentence(
    a_labelled_scene: Any, watched_often: None
) -> None:
    busy = says_json(
        {"detail": "A training runs already; stop it, or wait for its end."}, "429 Too Many Requests"
    )
    with fault_server(routes(train=busy)) as server:
        widget = connected_panel(server.url)
        until(lambda: not widget.panel.sections[-1].training)
        click(widget.ui.trainButton)
        until_done(widget)
        assert message(widget) == "A training runs already; stop it, or wait for its end."
    with fault_server(
        routes(training=says_json({"state": "running", "stage": "learning", "done": 1, "total": 5}))
    ) as server:
        widget = connected_panel(server.url)
        until(lambda: widget.ui.trainingBar.isVisible())
    until(lambda: not widget.ui.trainingBar.isVisible())
    assert is_a_sentence(ValueError(widget.ui.trainingLabel.property("text")))


def test_corrections_that_were_not_submitted_are_asked_about_before_a_training(
    a_labelled_scene: Any, tmp_path: Path
) -> None:
    volume, segmentation = a_labelled_scene
    from WordMaskLib.scene.segments import import_labels
    from WordMaskLib.scene.terminology import Word

    slicer.mrmlScene.RemoveNode(segmentation)
    path = write_file(
        tmp_path / "answer.nii.gz", box(SHAPE, (0, 3), (0, 4), (0, 4)).astype(np.uint8), affine()
    )
    result = import_labels(path, [Word("liver", 1)], volume).segmentation
    paint(result, result.GetSegmentation().GetNthSegmentID(0), box(SHAPE, (0, 2), (0, 4), (0, 4)), volume)
    with fault_server(routes(train=says_json({}))) as server:
        widget = connected_panel(server.url)
        until(lambda: not widget.panel.sections[-1].training)
        click(widget.ui.trainButton)
        until(lambda: widget.ui.questionRow.isVisible())
        assert "You edited liver by hand and have not submitted it" in widget.ui.questionLabel.property(
            "text"
        )
        click(widget.ui.noButton)
        until_done(widget)
        assert not any("/train/" in request.line for request in server.requests)
