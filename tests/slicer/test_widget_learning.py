"""Submit, train, next case and versions, as a person does it: on a real server, and on servers that fail in
the middle.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from tests.slicer.fault_server import (
    Script,
    a_closed_port,
    fault_server,
    hangs_up,
    is_a_sentence,
    job_status,
    says,
    says_json,
    sends,
    silent,
)
from tests.slicer.person import (
    MODEL,
    MemoryStore,
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
from tests.slicer.real_server import CT, PICTURE, REPOSITORY, Running
from tests.slicer.scenes import (
    add_segment,
    add_segmentation,
    add_volume,
    affine,
    box,
    paint,
    scene_state,
    slicers_mask,
    write_file,
)
from WordMaskLib.client import calls

SHAPE = (6, 7, 8)


@pytest.fixture
def a_panel(server: Running) -> Any:
    """Open, and connected to the real server."""
    widget = open_panel(server.url, server.token)
    click(widget.ui.connectButton)
    until_done(widget)
    return widget


@pytest.fixture
def a_scene() -> Any:
    """A volume, and a person's segmentation of it."""
    volume = add_volume(
        np.random.default_rng(time.time_ns()).integers(-1000, 1000, SHAPE).astype(np.int16), affine(), "CT"
    )
    return volume, add_segmentation(
        volume, {"liver": box(SHAPE, (0, 3), (0, 4), (0, 4)), "my mass": box(SHAPE, (4, 6), (1, 5), (2, 6))}
    )


def final_label(server: Running, case: str) -> Path:
    (path,) = (server.studies / "labels" / "final").glob(f"{case}.*")
    return path


def kept(server: Running, case: str) -> Any:
    """What the server keeps with the final label map of a case."""
    (image,) = [image for image in server.ask(calls.images()) if image.id == case]
    return image.labels["final"]


# --- on a real server ---


@pytest.mark.server
def test_a_volume_that_the_server_does_not_have_is_submitted_with_its_labels(
    a_panel: Any, a_scene: Any, server: Running
) -> None:
    volume, segmentation = a_scene
    a_panel.ui.segmentationSelector.setCurrentNode(segmentation)
    click(a_panel.ui.submitButton)
    until_done(a_panel)
    assert message(a_panel).startswith("Submitted: liver, my mass.")
    case = volume.GetAttribute("WordMask.image")
    assert case.startswith("slicer-")
    assert "CT" not in case, "names of volumes often hold those of patients"
    labels = sitk.ReadImage(final_label(server, case))
    image = sitk.ReadImage(next(server.studies.glob(f"{case}.*")))
    assert labels.GetSize() == image.GetSize()
    np.testing.assert_allclose(labels.GetDirection(), image.GetDirection(), atol=1e-5)
    found = sitk.GetArrayFromImage(labels)
    rows = {row["name"]: row["idx"] for row in kept(server, case)["label_info"]}
    for name, segment_id in (("liver", 0), ("my mass", 1)):
        mask = slicers_mask(segmentation, segmentation.GetSegmentation().GetNthSegmentID(segment_id), volume)
        assert np.array_equal(found == rows[name], mask)
    paint(
        segmentation,
        segmentation.GetSegmentation().GetNthSegmentID(1),
        box(SHAPE, (5, 6), (1, 3), (2, 4)),
        volume,
    )
    click(a_panel.ui.submitButton)
    until_done(a_panel)
    assert message(a_panel).startswith("Submitted:"), "one's own label map is replaced without a question"
    assert (
        int((sitk.GetArrayFromImage(sitk.ReadImage(final_label(server, case))) == rows["my mass"]).sum()) == 4
    )


@pytest.mark.server
def test_segments_that_overlap_are_submitted_only_after_a_yes(
    a_panel: Any, a_scene: Any, server: Running
) -> None:
    volume, segmentation = a_scene
    add_segment(segmentation, "cyst", box(SHAPE, (1, 2), (1, 2), (1, 3)), volume)
    a_panel.ui.segmentationSelector.setCurrentNode(segmentation)
    click(a_panel.ui.submitButton)
    until(lambda: a_panel.ui.questionRow.isVisible())
    assert "liver, cyst overlap" in a_panel.ui.questionLabel.property("text")
    click(a_panel.ui.noButton)
    until_done(a_panel)
    case = volume.GetAttribute("WordMask.image")
    assert list((server.studies / "labels" / "final").glob(f"{case}.*")) == []
    click(a_panel.ui.submitButton)
    until(lambda: a_panel.ui.questionRow.isVisible())
    click(a_panel.ui.yesButton)
    until_done(a_panel)
    found = sitk.GetArrayFromImage(sitk.ReadImage(final_label(server, case)))
    rows = {row["name"]: row["idx"] for row in kept(server, case)["label_info"]}
    assert (found[1, 1, 1:3] == rows["cyst"]).all()


@pytest.mark.server
def test_the_next_case_is_opened_with_a_preview_corrected_and_submitted(
    a_panel: Any, server: Running, tmp_path: Path
) -> None:
    image = sitk.ReadImage(REPOSITORY / "sample_data" / "studies" / f"{CT}.nii.gz")
    left_handed = sitk.Flip(image, (False, False, True))  # stored as Slicer does not keep it
    case = f"a_left_handed_{time.time_ns()}"
    sitk.WriteImage(left_handed, str(tmp_path / "left.nii.gz"))
    server.ask(calls.upload_image(case, tmp_path / "left.nii.gz"))
    write(a_panel.ui.wordsLine, "liver")
    box_ = a_panel.ui.strategyBox
    box_.setCurrentIndex([box_.itemData(row) for row in range(box_.count())].index("first"))
    click(a_panel.ui.nextButton)
    until_done(a_panel)
    volume = a_panel.ui.volumeSelector.currentNode()
    assert volume.GetName() == case
    assert a_panel.ui.caseLabel.property("text").startswith(f"{case}: ")
    assert message(a_panel) == "Correct the segments in the Segment Editor, then submit them."
    assert [row[0] for row in table(a_panel)] == ["liver"]
    assert volume.GetStorageNode() is None, "its file is a temporary one"
    (segmentation,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    liver = segmentation.GetSegmentation().GetNthSegmentID(0)
    corrected = slicers_mask(segmentation, liver, volume)
    corrected[2:5, 10:30, 20:50] = True
    paint(segmentation, liver, corrected, volume)
    click(a_panel.ui.submitButton)
    until_done(a_panel)
    assert message(a_panel).startswith("Submitted: liver.")
    labels = sitk.ReadImage(final_label(server, case))
    assert labels.GetDirection() == pytest.approx(left_handed.GetDirection(), abs=1e-5)
    assert labels.GetOrigin() == pytest.approx(left_handed.GetOrigin(), abs=1e-3)
    ijk = [25, 15, 3]  # in the corrected part: of the node's array, whose slices may be the other way round
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    ras = matrix.MultiplyPoint((*ijk, 1))
    assert labels[labels.TransformPhysicalPointToIndex((-ras[0], -ras[1], ras[2]))] == 1
    assert int(sitk.GetArrayFromImage(labels).sum()) == int(corrected.sum())


@pytest.mark.server
def test_a_picture_of_the_server_is_opened_corrected_and_submitted(
    a_panel: Any, server: Running, tmp_path: Path
) -> None:
    case = f"a_picture_{time.time_ns()}"
    server.ask(calls.upload_image(case, REPOSITORY / "sample_data" / "studies" / f"{PICTURE}.png"))
    write(a_panel.ui.wordsLine, "skin lesion")
    a_panel.ui.strategyBox.setCurrentIndex(4)
    click(a_panel.ui.nextButton)
    until_done(a_panel)
    volume = a_panel.ui.volumeSelector.currentNode()
    assert (volume.GetName(), volume.GetClassName()) == (case, "vtkMRMLVectorVolumeNode")
    original = sitk.GetArrayFromImage(
        sitk.ReadImage(REPOSITORY / "sample_data" / "studies" / f"{PICTURE}.png")
    )
    assert np.array_equal(slicer.util.arrayFromVolume(volume)[0], original[..., :3])
    mine = add_segmentation(volume, {"skin lesion": box((1, 256, 256), (0, 1), (10, 40), (20, 90))})
    a_panel.ui.segmentationSelector.setCurrentNode(mine)
    click(a_panel.ui.submitButton)
    until_done(a_panel)
    assert message(a_panel).startswith("Submitted: skin lesion.")
    found = sitk.GetArrayFromImage(sitk.ReadImage(final_label(server, case))).reshape(256, 256)
    assert np.array_equal(found > 0, box((256, 256), (10, 40), (20, 90)))


@pytest.mark.server
def test_a_training_is_started_watched_and_stopped(a_panel: Any, a_scene: Any, server: Running) -> None:
    a_panel.ui.segmentationSelector.setCurrentNode(a_scene[1])
    click(a_panel.ui.submitButton)
    until_done(a_panel)
    click(a_panel.ui.trainButton)
    until_done(a_panel)
    assert message(a_panel) == "The training has started; you can keep working."
    until(lambda: a_panel.ui.trainingBar.isVisible())
    assert not a_panel.ui.trainButton.isEnabled()
    click(a_panel.ui.stopButton)
    until(lambda: not a_panel.ui.trainingBar.isVisible())
    assert "the model in use is unchanged" in a_panel.ui.trainingLabel.property("text")
    until(lambda: a_panel.ui.trainButton.isEnabled())
    assert server.ask(calls.training(server.ask(calls.models())[0].name)).state == "stopped"


# --- on servers that fail ---

NO_IMAGES = says_json({"objects": {}})


@pytest.fixture
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where flows put their files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def connected_panel(url: str, **options: Any) -> Any:
    widget = open_panel(url, **options)
    click(widget.ui.connectButton)
    until_done(widget)
    assert message(widget) == "The server is ready."
    return widget


def an_image(folder: Path, shape: tuple[int, int, int] = SHAPE) -> Script:
    path = write_file(
        folder / "case.nii.gz",
        np.random.default_rng(2).integers(-1000, 900, shape).astype(np.int16),
        affine(),
    )
    return says(
        path.read_bytes(),
        Content_Type="application/octet-stream",
        Content_Disposition='attachment; filename="case.nii.gz"',
    )


def a_next(**changed: Any) -> Script:
    return says_json(
        {
            "case": "case",
            "strategy": "hybrid",
            "reason": "It is unlike the others.",
            "score": {},
            "scores": {},
            **changed,
        }
    )


FAULTS: dict[str, Script] = {
    "500": says("x", "500 Internal Server Error"),
    "garbage": sends(b"\x00\xffwhat\r\n\r\n"),
    "hangs up": hangs_up,
}


def test_a_submission_that_fails_changes_nothing(a_scene: Any, temporary_files: Path) -> None:
    volume, segmentation = a_scene
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


def test_a_next_case_that_fails_changes_nothing(a_scene: Any, temporary_files: Path) -> None:
    good, before = {"next": a_next(), "image": an_image(temporary_files.parent)}, scene_state(a_scene[0])
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
            assert scene_state(a_scene[0]) == before, stage
            assert list(temporary_files.iterdir()) == []
    assert "cannot be read by Slicer" in message(widget)


def test_a_case_is_opened_also_when_its_preview_fails_and_never_twice(
    a_scene: Any, temporary_files: Path
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


def test_no_case_is_left(a_scene: Any) -> None:
    with fault_server(routes(next=a_next(case=None, reason="All cases are labelled."))) as server:
        widget = connected_panel(server.url)
        click(widget.ui.nextButton)
        until_done(widget)
    assert message(widget) == "There is no case to open at the moment."
    assert widget.ui.caseLabel.property("text") == "All cases are labelled."


def test_another_persons_label_map_is_replaced_only_after_a_yes(a_scene: Any, temporary_files: Path) -> None:
    volume, segmentation = a_scene
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
    a_scene: Any, temporary_files: Path, replaces: bool
) -> None:
    volume, segmentation = a_scene
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
        assert ("beside the final label map of somebody else" in message(widget)) != replaces
    (sent,) = [request.line for request in server.requests if "PUT" in request.line]
    assert "annotator=Anna" in sent
    assert ("replace=true" in sent) == replaces


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
    a_scene: Any, watched_often: None
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
        until(lambda: versions.item(0, 0).text() == "2 (serves)")
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
        assert versions.item(1, 0).text() == "1 (serves)"
    assert any(
        request.line.startswith("POST /wordmask/models/m/rollback?to=1 ") for request in server.requests
    )
    assert (
        next(request for request in server.requests if "/train/" in request.line).body
        == b'{"recipe": "few_shot"}'
    )


def test_models_are_trained_as_each_of_them_is(a_scene: Any) -> None:
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
    a_scene: Any, watched_often: None
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
    a_scene: Any, tmp_path: Path
) -> None:
    volume, segmentation = a_scene
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


def test_a_server_that_is_down_or_silent_is_told_by_every_button(a_scene: Any) -> None:
    _, segmentation = a_scene
    before = scene_state(a_scene[0])
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
    assert scene_state(a_scene[0]) == before
