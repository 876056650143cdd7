"""An import in steps, and its undo: the scene changes all at once, and back to exactly what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from tests.slicer.scenes import (
    LIVER_MASK,
    SHAPE,
    WORDS,
    add_segmentation,
    box,
    paint,
    scene_state,
    segment_state,
    slicers_mask,
)
from WordMaskLib.scene import segments
from WordMaskLib.scene.segments import GeometryError, SegmentsError, UndoHistory, Word, import_labels


def test_an_import_in_steps_changes_the_scene_in_its_last_step_alone(
    an_oblique_ct: Any, a_result: Path
) -> None:
    mine = add_segmentation(an_oblique_ct, {"mine": LIVER_MASK})
    before = scene_state(an_oblique_ct)
    steps = segments.import_in_steps(a_result, WORDS, an_oblique_ct, mine)
    turns, done = 0, None
    while done is None:
        try:
            next(steps)
        except StopIteration as end:
            done = end.value
        else:
            turns += 1
            assert scene_state(an_oblique_ct) == before
    assert turns >= 2 + len(WORDS)  # the file, the image, each word
    assert list(done.ids) == ["liver", "right kidney"]


def test_what_disappears_between_two_steps_is_missed_with_a_sentence(
    an_oblique_ct: Any, a_result: Path
) -> None:
    mine = add_segmentation(an_oblique_ct, {"mine": LIVER_MASK})
    for target, gone, sentence in (
        (mine, mine, "'Mine' is no longer in the scene"),
        (None, an_oblique_ct, "'CT' is no longer in the scene"),
    ):
        steps = segments.import_in_steps(a_result, WORDS, an_oblique_ct, target)
        next(steps)
        slicer.mrmlScene.RemoveNode(gone)
        with pytest.raises(SegmentsError, match=sentence):
            list(steps)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_a_volume_that_moves_between_two_steps_is_refused(an_oblique_ct: Any, a_result: Path) -> None:
    steps = segments.import_in_steps(a_result, WORDS, an_oblique_ct)
    for _ in range(2):  # the file is checked, and read onto the grid as it was
        next(steps)
    an_oblique_ct.SetOrigin(0, 0, 0)
    with pytest.raises(GeometryError, match="moved or resampled meanwhile"):
        list(steps)


def test_undo_takes_back_an_import_and_leaves_what_a_person_did_elsewhere_since(
    an_oblique_ct: Any, a_result: Path
) -> None:
    mine = add_segmentation(an_oblique_ct, {"mine": box(SHAPE, (0, 2), (0, 2), (0, 2))})
    (mine_id,) = mine.GetSegmentation().GetSegmentIDs()
    history = UndoHistory()
    history.add(import_labels(a_result, WORDS, an_oblique_ct, mine).step)
    drawn = box(SHAPE, (3, 6), (0, 7), (0, 2))
    paint(mine, mine_id, drawn, an_oblique_ct)
    history.undo()
    assert list(mine.GetSegmentation().GetSegmentIDs()) == [mine_id]
    np.testing.assert_array_equal(slicers_mask(mine, mine_id, an_oblique_ct), drawn)
    with pytest.raises(SegmentsError, match="nothing to undo"):
        history.undo()


def test_undo_brings_back_a_segment_that_was_replaced_and_then_removed(
    an_oblique_ct: Any, a_result: Path
) -> None:
    done = import_labels(a_result, WORDS, an_oblique_ct)
    before = segment_state(done.segmentation, an_oblique_ct)
    again = import_labels(
        a_result, [Word("liver", 2), Word("right kidney", 1)], an_oblique_ct, done.segmentation
    )
    done.segmentation.GetSegmentation().RemoveSegment(done.ids["liver"])
    again.step.undo()
    assert list(segment_state(done.segmentation, an_oblique_ct).items()) == list(before.items())


def test_undoing_the_first_result_removes_the_node_that_it_made(an_oblique_ct: Any, a_result: Path) -> None:
    before = scene_state(an_oblique_ct)
    history = UndoHistory()
    history.add(import_labels(a_result, WORDS, an_oblique_ct).step)
    history.undo()
    assert scene_state(an_oblique_ct) == before


def test_history_is_bounded_and_forgets_what_left_the_scene(an_oblique_ct: Any, a_result: Path) -> None:
    history = UndoHistory(most_steps=2)
    done = import_labels(a_result, WORDS, an_oblique_ct)
    for _ in range(4):
        history.add(import_labels(a_result, WORDS, an_oblique_ct, done.segmentation).step)
    assert len(history) == 2
    small = UndoHistory(most_bytes=1)
    small.add(done.step)
    small.add(import_labels(a_result, WORDS, an_oblique_ct, done.segmentation).step)
    assert len(small) == 1
    slicer.mrmlScene.RemoveNode(done.segmentation)
    assert history.next() is None
