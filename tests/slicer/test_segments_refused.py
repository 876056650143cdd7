"""Results that cannot be used, and segmentations that they would harm: a sentence, and the scene exactly as
it was.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from tests.slicer.scenes import (
    LABELS,
    LIVER,
    LIVER_MASK,
    SHAPE,
    WORDS,
    add_segmentation,
    add_transform,
    add_volume,
    affine,
    box,
    scene_state,
    write_file,
)
from WordMaskLib.scene import segments
from WordMaskLib.scene.segments import GeometryError, SegmentsError, Word, import_labels


def _other_grid(folder: Path) -> tuple[Path, list[Word]]:
    return write_file(folder / "bad.nii.gz", LABELS, affine(origin=(11, -20, 30.5))), WORDS


def _other_size(folder: Path) -> tuple[Path, list[Word]]:
    return write_file(folder / "bad.nii.gz", LABELS[1:], affine()), WORDS


def _stray_value(folder: Path) -> tuple[Path, list[Word]]:
    return write_file(folder / "bad.nii.gz", LABELS * 3, affine()), WORDS


def _fractions(folder: Path) -> tuple[Path, list[Word]]:
    return write_file(folder / "bad.nii.gz", LABELS.astype(np.float32) / 2, affine()), WORDS


def _truncated(folder: Path) -> tuple[Path, list[Word]]:
    path = write_file(
        folder / "bad.nii.gz", np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8), affine()
    )
    path.write_bytes(path.read_bytes()[:-30])
    return path, WORDS


def _truncated_inside(folder: Path) -> tuple[Path, list[Word]]:
    path, words = write_file(folder / "bad.nii", LABELS, affine()), WORDS
    (folder / "bad.nii.gz").write_bytes(gzip.compress(path.read_bytes()[:-30]))
    return folder / "bad.nii.gz", words


def _damaged(folder: Path) -> tuple[Path, list[Word]]:
    path = write_file(
        folder / "bad.nii.gz", np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8), affine()
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path, WORDS


def _page(folder: Path) -> tuple[Path, list[Word]]:
    (folder / "bad.nrrd").write_text("<html>502 Bad gateway</html>")
    return folder / "bad.nrrd", WORDS


def _missing(folder: Path) -> tuple[Path, list[Word]]:
    return folder / "none.nrrd", WORDS


def _twice(folder: Path) -> tuple[Path, list[Word]]:
    return write_file(folder / "bad.nrrd", LABELS, affine()), [LIVER, Word("LIVER", 2)]


def _no_words(folder: Path) -> tuple[Path, list[Word]]:
    return write_file(folder / "bad.nrrd", LABELS, affine()), []


FAILURES = {
    "other grid": (_other_grid, GeometryError, r"off by up to \S+ mm"),
    "other size": (_other_size, GeometryError, "8 x 7 x 5 voxels instead of 8 x 7 x 6"),
    "stray value": (_stray_value, SegmentsError, "the value 6, which does not belong to any word"),
    "fractions": (_fractions, SegmentsError, "fractions"),
    "truncated": (_truncated, SegmentsError, "damaged, truncated"),
    "truncated inside": (_truncated_inside, SegmentsError, "damaged, truncated"),
    "damaged": (_damaged, SegmentsError, "damaged, truncated"),
    "page": (_page, SegmentsError, "damaged, truncated"),
    "missing": (_missing, SegmentsError, "missing or empty"),
    "a word twice": (_twice, SegmentsError, "'liver' twice"),
    "no words": (_no_words, SegmentsError, "does not name a word"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_result_that_cannot_be_used_is_a_sentence_and_the_scene_is_as_it_was(
    failure: str, an_oblique_ct: Any, a_result: Path, tmp_path: Path
) -> None:
    make, error, sentence = FAILURES[failure]
    done = import_labels(a_result, WORDS, an_oblique_ct)
    before = scene_state(an_oblique_ct)
    path, words = make(tmp_path)
    for target in (None, done.segmentation):
        with pytest.raises(error, match=sentence):
            import_labels(path, words, an_oblique_ct, target)
        assert scene_state(an_oblique_ct) == before


def test_an_error_in_the_middle_of_showing_leaves_the_scene_as_it_was(
    an_oblique_ct: Any, a_result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = add_segmentation(an_oblique_ct, {"mine": box(SHAPE, (0, 2), (0, 2), (0, 2))})
    done = import_labels(a_result, WORDS, an_oblique_ct, mine)
    before = scene_state(an_oblique_ct)
    describe, calls = segments.describe, []

    def fail(*args: Any) -> None:
        describe(*args)
        calls.append(args)
        if len(calls) % 2 == 0:
            raise RuntimeError("boom")

    monkeypatch.setattr(segments, "describe", fail)
    for target in (mine, None):
        with pytest.raises(SegmentsError, match="nothing was changed"):
            import_labels(a_result, [Word("liver", 2), Word("heart", 1)], an_oblique_ct, target)
        assert scene_state(an_oblique_ct) == before
    assert done.ids


def test_a_change_of_another_segment_is_noticed_and_taken_back(
    an_oblique_ct: Any, a_result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = add_segmentation(an_oblique_ct, {"mine": box(SHAPE, (0, 2), (0, 2), (0, 2))})
    other = mine.GetSegmentation().GetNthSegment(0)
    describe = segments.describe

    def also_rename(*args: Any) -> None:
        describe(*args)
        other.SetName("not mine any more")

    monkeypatch.setattr(segments, "describe", also_rename)
    with pytest.raises(SegmentsError, match="would have changed 'mine'"):
        import_labels(a_result, WORDS, an_oblique_ct, mine)
    assert mine.GetSegmentation().GetNumberOfSegments() == 1


def test_segmentations_that_a_result_would_harm_are_refused(an_oblique_ct: Any, a_result: Path) -> None:
    elsewhere = add_volume(np.zeros((3, 3, 3), np.int16), np.eye(4), "Other CT")
    foreign = add_segmentation(elsewhere, {"theirs": np.ones((3, 3, 3), bool)}, name="Foreign")
    with pytest.raises(GeometryError, match="'Foreign' belongs to 'Other CT', not to 'CT'"):
        import_labels(a_result, WORDS, an_oblique_ct, foreign)
    surfaces = add_segmentation(an_oblique_ct, {"s": LIVER_MASK}, surfaces=True, name="Surfaces")
    surfaces.SetSourceRepresentationToClosedSurface()
    with pytest.raises(SegmentsError, match="'Surfaces' is made of surfaces"):
        import_labels(a_result, WORDS, an_oblique_ct, surfaces)
    moved = add_segmentation(an_oblique_ct, {}, name="Moved")
    moved.SetAndObserveTransformNodeID(add_transform(np.eye(4)).GetID())
    with pytest.raises(GeometryError, match="under different transforms"):
        import_labels(a_result, WORDS, an_oblique_ct, moved)
    slicer.mrmlScene.RemoveNode(moved)
    with pytest.raises(SegmentsError, match="no longer in the scene"):
        import_labels(a_result, WORDS, an_oblique_ct, moved)
