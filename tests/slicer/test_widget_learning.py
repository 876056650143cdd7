"""Submit, next case and training on a real server, as a person does it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from tests.slicer.person import click, message, open_panel, table, until, until_done, write
from tests.slicer.person import panels_are_closed as panels_are_closed
from tests.slicer.real_server import CT, PICTURE, REPOSITORY, Running
from tests.slicer.scenes import SHAPE, add_segment, add_segmentation, box, paint, slicers_mask
from WordMaskLib.client import calls


@pytest.fixture
def a_panel(server: Running) -> Any:
    """Open, and connected to the real server."""
    widget = open_panel(server.url, server.token)
    click(widget.ui.connectButton)
    until_done(widget)
    return widget


def final_label(server: Running, case: str) -> Path:
    (path,) = (server.studies / "labels" / "final").glob(f"{case}.*")
    return path


def kept(server: Running, case: str) -> Any:
    """What the server keeps with the final label map of a case."""
    (image,) = [image for image in server.ask(calls.images()) if image.id == case]
    return image.labels["final"]


@pytest.mark.server
def test_a_volume_that_the_server_does_not_have_is_submitted_with_its_labels(
    a_panel: Any, a_labelled_scene: Any, server: Running
) -> None:
    volume, segmentation = a_labelled_scene
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
    a_panel: Any, a_labelled_scene: Any, server: Running
) -> None:
    volume, segmentation = a_labelled_scene
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
def test_a_training_is_started_watched_and_stopped(
    a_panel: Any, a_labelled_scene: Any, server: Running
) -> None:
    a_panel.ui.segmentationSelector.setCurrentNode(a_labelled_scene[1])
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
