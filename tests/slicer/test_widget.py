"""The panel on a real server with the bundled model, driven as a person would: type, complete, click, cancel,
undo.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from tests.slicer.person import (
    MemoryStore,
    click,
    message,
    open_panel,
    press,
    qt_test,
    table,
    until,
    until_done,
    write,
)
from tests.slicer.person import panels_are_closed as panels_are_closed
from tests.slicer.real_server import CT, REPOSITORY, Running
from tests.slicer.scenes import (
    add_segmentation,
    add_volume,
    affine,
    box,
    paint,
    scene_state,
    segment_state,
    slicers_mask,
)
from tests.slicer.views import SliceView
from WordMaskLib.client import calls
from WordMaskLib.scene.geometry import to_world

pytestmark = pytest.mark.server


@pytest.fixture
def a_ct() -> Any:
    """The trunk of the sample data, as a person opens it."""
    return slicer.modules.volumes.logic().AddArchetypeVolume(
        str(REPOSITORY / "sample_data" / "studies" / f"{CT}.nii.gz"), "CT"
    )


@pytest.fixture
def a_panel(server: Running) -> Any:
    """Open, and connected to the server."""
    widget = open_panel(server.url, server.token)
    click(widget.ui.connectButton)
    until_done(widget)
    assert message(widget) == "The server is ready."
    return widget


def names_of(segmentation: Any) -> list[str]:
    contents = segmentation.GetSegmentation()
    return [contents.GetSegment(segment_id).GetName() for segment_id in contents.GetSegmentIDs()]


def the_segmentation() -> Any:
    (found,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return found


def ask_for(widget: Any, words: str) -> None:
    """Type words and wait for their segments."""
    write(widget.ui.wordsLine, words)
    widget.ui.wordsLine.completer().popup().hide()
    click(widget.ui.segmentButton)
    until_done(widget)


def test_a_box_in_the_view_tells_a_model_that_takes_one_which_lung_is_meant(a_panel: Any, a_ct: Any) -> None:
    from WordMaskLib.panel.panel_server import TOOL_TIP  # needs qt

    box = a_panel.ui.modelBox
    assert [box.itemText(number) for number in range(box.count())] == [
        "Simple-ViLMedSAM, tiny",
        "MedCLIP-SAMv2, tiny",
        "MedCLIPSeg, tiny",
    ]
    assert "without its decoder" in box.itemData(1, TOOL_TIP)
    box.setCurrentIndex(1)
    box.activated.emit(1)
    until_done(a_panel)
    assert "It also takes points or a box." in a_panel.ui.serverLabel.property("text")
    assert a_panel.ui.markupsSelector.isVisible()

    truth = slicer.modules.volumes.logic().AddArchetypeVolume(
        str(REPOSITORY / "sample_data" / "truth" / f"{CT}.nii.gz"), "T"
    )
    values = slicer.util.arrayFromVolume(truth)
    index = json.loads((REPOSITORY / "sample_data" / "index.json").read_text(encoding="utf-8"))["cases"]
    words = next(case["words"] for case in index if CT in case["image"])
    lung = np.isin(values, words["left lung"])
    slices = np.flatnonzero(lung.any((1, 2)))[4:-4]
    middle = int(slices[len(slices) // 2])
    rows, columns = np.flatnonzero(lung[middle].any(1)), np.flatnonzero(lung[middle].any(0))
    ijk = np.array([[columns[0], rows[0], middle], [columns[-1], rows[-1], middle]], float)
    world = to_world(a_ct, ijk.tolist())
    region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    region.SetCenter(*np.mean(world, axis=0))
    region.SetSize(*(np.abs(np.subtract(*world)) + 2.0))
    a_panel.ui.volumeSelector.setCurrentNode(a_ct)
    a_panel.ui.markupsSelector.setCurrentNode(region)
    ask_for(a_panel, "lung")
    marked = slicers_mask(the_segmentation(), the_segmentation().GetSegmentation().GetNthSegmentID(0), a_ct)[
        middle
    ]
    assert 2 * (marked & lung[middle]).sum() / (marked.sum() + lung[middle].sum()) > 0.7
    ask_for(a_panel, "lung, heart")
    assert "one word at a time" in message(a_panel)


def test_words_become_named_coloured_segments_and_rows(a_panel: Any, a_ct: Any, qt: Any) -> None:
    ticks: list[bool] = []
    timer = qt.QTimer()
    timer.timeout.connect(lambda *_: ticks.append(a_panel.panel.busy))
    timer.start(5)
    ask_for(a_panel, "liver, spleen, gallbladder")
    timer.stop()
    assert names_of(the_segmentation()) == ["liver", "spleen"]
    assert "Found: liver (" in message(a_panel)
    assert "Not found: gallbladder." in message(a_panel)
    rows = table(a_panel)
    assert [row[0] for row in rows] == ["liver", "spleen", "gallbladder: not found"]
    assert rows[0][1].endswith(" ml")
    assert rows[0][2].endswith(" %")
    segment = the_segmentation().GetSegmentation().GetNthSegment(0)
    assert [round(255 * channel) for channel in segment.GetColor()] == [221, 130, 101]
    assert "Liver" in segment.GetTerminology()
    assert the_segmentation().GetSegmentation().ContainsRepresentation("Closed surface")
    assert a_panel.ui.show3dBox.isChecked()
    assert ticks.count(True) > 10, "the window froze while the server worked"


def test_a_click_on_a_row_goes_to_the_slice_where_the_segment_is_largest(
    a_panel: Any, a_ct: Any, qt: Any, rendering: None
) -> None:
    view = SliceView("Red", "Axial")
    view.show(a_ct)
    ask_for(a_panel, "liver")
    mask = slicers_mask(the_segmentation(), the_segmentation().GetSegmentation().GetNthSegmentID(0), a_ct)
    view.node.SetSliceOffset(-10_000)
    found = a_panel.ui.resultTable
    slicer.app.processEvents()  # a person clicks what is drawn
    qt_test().mouseClick(
        found.viewport(), qt.Qt.MouseButton.LeftButton, pos=found.visualItemRect(found.item(0, 0)).center()
    )
    best = int(mask.sum(axis=(1, 2)).argmax())
    matrix = vtk.vtkMatrix4x4()
    a_ct.GetIJKToRASMatrix(matrix)
    assert (
        abs(view.node.GetSliceOffset() - matrix.MultiplyPoint((0, 0, best, 1))[2])
        < 0.51 * a_ct.GetSpacing()[2]
    )


def test_words_are_completed_while_somebody_types(a_panel: Any) -> None:
    line = a_panel.ui.wordsLine
    popup = line.completer().popup()
    write(line, "liver, spl")
    assert popup.isVisible()
    shown = [popup.model().index(row, 0).data() for row in range(popup.model().rowCount())]
    assert shown[0].startswith("spleen")
    press(popup, "Down")
    press(popup, "Return")
    assert line.property("text") == "liver, spleen"
    assert not a_panel.panel.busy, "choosing a word is no request"
    write(line, "hepar")
    assert popup.model().index(0, 0).data() == "liver (hepar)"
    press(popup, "Escape")


def test_a_misspelt_word_is_completed_by_the_server(a_panel: Any) -> None:
    line = a_panel.ui.wordsLine
    write(line, "spleeen")
    until(lambda: line.completer().popup().isVisible())
    assert line.completer().popup().model().index(0, 0).data().startswith("spleen")
    until(lambda: a_panel.ui.hintLabel.isVisible())
    assert (
        a_panel.ui.hintLabel.property("text") == "'spleeen' is not in the vocabulary; did you mean 'spleen'?"
    )


def test_a_word_that_the_model_does_not_know_or_that_fits_another_image_has_a_hint(
    a_panel: Any, a_ct: Any
) -> None:
    write(a_panel.ui.wordsLine, "gallbladder, skin lesion, liver")
    until(lambda: a_panel.ui.hintLabel.isVisible() and "skin lesion" in a_panel.ui.hintLabel.property("text"))
    hints = a_panel.ui.hintLabel.property("text").splitlines()
    assert "was not trained on 'gallbladder'" in hints[0]
    assert "'skin lesion' is usually segmented in " in hints[1]
    assert hints[1].endswith(", but this image is CT.")
    assert len(hints) == 2
    write(a_panel.ui.wordsLine, "liver")
    until(lambda: not a_panel.ui.hintLabel.isVisible())


def test_segments_of_the_person_stay_and_undo_takes_everything_back(a_panel: Any, a_ct: Any) -> None:
    shape = slicer.util.arrayFromVolume(a_ct).shape
    masks = {
        "tumour": box(shape, (2, 9), (10, 60), (10, 60)),
        "liver": box(shape, (5, 8), (20, 70), (20, 70)),
    }
    mine = add_segmentation(a_ct, masks, shared=True)
    before, nodes = segment_state(mine, a_ct), scene_state(a_ct)
    a_panel.ui.segmentationSelector.setCurrentNode(mine)
    ask_for(a_panel, "liver, spleen")
    after = segment_state(mine, a_ct)
    assert names_of(mine) == ["tumour", "liver", "liver (2)", "spleen"]
    assert {key: after[key] for key in before} == before
    ask_for(a_panel, "Hepar")
    assert names_of(mine) == ["tumour", "liver", "liver (2)", "spleen"], "a synonym replaces its own segment"
    click(a_panel.ui.undoButton)
    assert message(a_panel) == "Undone: liver."
    click(a_panel.ui.undoButton)
    assert not a_panel.ui.undoButton.isEnabled()
    assert segment_state(mine, a_ct) == before
    assert scene_state(a_ct) == nodes
    assert table(a_panel) == []


def test_a_corrected_segment_is_replaced_only_after_a_yes(a_panel: Any, a_ct: Any) -> None:
    ask_for(a_panel, "liver, spleen")
    segmentation = the_segmentation()
    liver = segmentation.GetSegmentation().GetNthSegmentID(0)
    corrected = box(slicer.util.arrayFromVolume(a_ct).shape, (3, 6), (20, 40), (20, 40))
    paint(segmentation, liver, corrected, a_ct)
    a_panel.enter()
    assert table(a_panel)[0][0] == "liver (edited)"
    before = scene_state(a_ct)
    write(a_panel.ui.wordsLine, "Hepar, spleen")  # a synonym names the same segment
    click(a_panel.ui.segmentButton)
    until(lambda: a_panel.ui.questionRow.isVisible())
    assert "You edited the segment of liver by hand." in a_panel.ui.questionLabel.property("text")
    click(a_panel.ui.noButton)
    until_done(a_panel)
    assert scene_state(a_ct) == before
    click(a_panel.ui.segmentButton)
    until(lambda: a_panel.ui.questionRow.isVisible())
    click(a_panel.ui.yesButton)
    until_done(a_panel)
    assert not np.array_equal(slicers_mask(segmentation, liver, a_ct), corrected)
    click(a_panel.ui.undoButton)
    assert np.array_equal(slicers_mask(segmentation, liver, a_ct), corrected)


def test_only_the_slice_in_view_is_done_again(a_panel: Any, a_ct: Any, rendering: None) -> None:
    view = SliceView("Red", "Axial")
    view.show(a_ct)
    assert not a_panel.ui.redoButton.isEnabled()
    ask_for(a_panel, "liver")
    segmentation = the_segmentation()
    liver = segmentation.GetSegmentation().GetNthSegmentID(0)
    whole = slicers_mask(segmentation, liver, a_ct)
    best = int(whole.sum(axis=(1, 2)).argmax())
    corrected = whole.copy()
    corrected[best - 1 : best + 2] = False
    paint(segmentation, liver, corrected, a_ct)
    a_panel.ui.resultTable.cellClicked.emit(0, 0)
    click(a_panel.ui.redoButton)
    until(lambda: a_panel.ui.questionRow.isVisible())
    click(a_panel.ui.yesButton)
    until_done(a_panel)
    again = slicers_mask(segmentation, liver, a_ct)
    assert np.array_equal(again[best], whole[best])
    corrected[best] = whole[best]
    assert np.array_equal(again, corrected)


def test_cancel_leaves_the_scene_as_it_was_and_ends_the_job(a_panel: Any, server: Running) -> None:
    volume = add_volume(
        np.random.default_rng(time.time_ns()).normal(0, 200, (96, 96, 96)).astype(np.int16), affine(), "noise"
    )
    a_panel.ui.volumeSelector.setCurrentNode(volume)
    before = scene_state(volume)
    write(a_panel.ui.wordsLine, "liver, spleen, heart, lung")
    click(a_panel.ui.segmentButton)
    until(lambda: "Segmenting slice" in a_panel.ui.progressLabel.property("text"))
    assert not a_panel.ui.segmentButton.isEnabled()
    click(a_panel.ui.cancelButton)
    assert message(a_panel) == "Cancelled at your request; nothing was changed."
    assert scene_state(volume) == before
    until(lambda: server.ask(calls.health()).running == 0)
    assert a_panel.ui.segmentButton.isEnabled()


def test_a_scene_that_is_closed_meanwhile_gets_nothing(a_panel: Any, a_ct: Any, server: Running) -> None:
    write(a_panel.ui.wordsLine, "liver")
    click(a_panel.ui.segmentButton)
    until(lambda: a_panel.ui.progressLabel.property("text") != "")
    slicer.mrmlScene.Clear(0)
    assert not a_panel.panel.busy
    until(lambda: not server.ask(calls.health()).running, 600)  # the result is there, or was never asked for
    slicer.app.processEvents()
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
    assert not a_panel.ui.segmentButton.isEnabled()


def test_a_picture_is_segmented_in_its_own_pixels(a_panel: Any) -> None:
    values = np.random.default_rng(3).integers(0, 255, (1, 64, 80, 3)).astype(np.uint8)
    values[0, 20:40, 20:50] = (90, 40, 30)
    picture = add_volume(values, np.diag([-1.0, -1.0, 1.0, 1.0]), "photo", "vtkMRMLVectorVolumeNode")
    a_panel.ui.volumeSelector.setCurrentNode(picture)
    ask_for(a_panel, "skin lesion")
    assert "skin lesion" in message(a_panel)
    assert not a_panel.ui.redoButton.isEnabled()
    for row in table(a_panel):
        assert "ml" not in row[1]


def test_a_time_point_of_a_sequence_is_refused_with_a_sentence(a_panel: Any) -> None:
    volume = add_volume(np.zeros((4, 8, 8), np.int16), affine(), "beat 1")
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "heart")
    sequence.SetDataNodeAtValue(volume, "0")
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    slicer.modules.sequences.logic().UpdateAllProxyNodes()
    proxy = browser.GetProxyNode(sequence)
    a_panel.ui.volumeSelector.setCurrentNode(proxy)
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    ask_for(a_panel, "liver")
    assert "is a sequence" in message(a_panel)
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


def test_what_was_typed_is_in_the_history_of_the_next_start(server: Running, a_ct: Any) -> None:
    store = MemoryStore()
    widget = open_panel(server.url.replace("http://127.0.0.1", " localhost"), server.token, store=store)
    ask_for(widget, "spleen ,liver")  # without clicking Connect first
    assert names_of(the_segmentation()) == ["spleen", "liver"]
    widget.cleanup()
    widget = open_panel("", store=store)
    assert widget.panel.settings.address == server.url.replace("127.0.0.1", "localhost")
    menu = widget.ui.historyButton.menu()
    menu.aboutToShow.emit()
    assert [action.text() for action in menu.actions()] == ["spleen, liver"]
    menu.actions()[0].trigger()
    assert widget.ui.wordsLine.property("text") == "spleen, liver"
    assert server.token not in str(store.kept)
    widget.cleanup()
