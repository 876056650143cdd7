"""For any scene and any requests, good or bad: nobody else's segment changes by a bit, and undoing them all
brings everything back.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.slicer import harness
from tests.slicer.scenes import (
    BINARY,
    add_segmentation,
    add_volume,
    affine,
    box,
    scene_state,
    segment_state,
    slicers_mask,
    write_file,
)
from vtk.util.numpy_support import vtk_to_numpy
from WordMaskLib.client.answers import Code
from WordMaskLib.scene.segments import SegmentsError, UndoHistory, Word, import_labels, own_segment

SHAPE = (4, 5, 6)
VOCABULARY = {"liver": (221, 130, 101), "left kidney": (212, 126, 151), "spleen": None, "polyp": (9, 8, 7)}
CODE = Code("SCT", "10200004", "Liver")


@st.composite
def _boxes(draw: st.DrawFn) -> np.ndarray:
    ends = [sorted(draw(st.tuples(st.integers(0, count), st.integers(0, count)))) for count in SHAPE]
    return box(SHAPE, *((first, last) for first, last in ends))


@st.composite
def _segmentations(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(["liver", "mine", "Segment_1", "vessel"]), max_size=4, unique=True))
    return {
        "masks": {name: draw(_boxes()) for name in names},
        "shared": draw(st.booleans()),
        "surfaces": draw(st.booleans()),
        "hidden": draw(st.sets(st.integers(0, 3), max_size=2)),
    }


@st.composite
def _requests(draw: st.DrawFn) -> dict[str, Any]:
    words = draw(st.lists(st.sampled_from(sorted(VOCABULARY)), min_size=1, max_size=3, unique=True))
    return {
        "words": words,
        "masks": [draw(_boxes()) for _ in words],  # an empty box: the word is absent
        "target": draw(st.sampled_from([None, 0, 1])),
        "failure": draw(st.sampled_from([None, None, None, "grid", "stray", "damaged"])),
        "collapse": draw(
            st.booleans()
        ),  # afterwards a person puts all segments into as few images as possible
    }


def _file(folder: Path, request: dict[str, Any]) -> Path:
    labels = np.zeros(SHAPE, np.uint8)
    for value, mask in enumerate(request["masks"], start=1):
        labels[mask] = value
    if request["failure"] == "stray":
        labels[0, 0, 0] = 200
    matrix = affine(origin=(0, 0, 0)) if request["failure"] == "grid" else affine()
    path = write_file(folder / "labels.nii.gz", labels, matrix)
    if request["failure"] == "damaged":
        path.write_bytes(path.read_bytes()[:-9])
    return path


def _words(request: dict[str, Any]) -> list[Word]:
    return [
        Word(word, value, VOCABULARY[word], CODE if word == "liver" else None)
        for value, word in enumerate(request["words"], start=1)
    ]


def _ask(request: dict[str, Any], nodes: list[Any], volume: Any, history: UndoHistory, folder: Path) -> None:
    """Show one result and check what it did to everybody else."""
    target = (
        None if request["target"] is None or request["target"] >= len(nodes) else nodes[request["target"]]
    )
    before = scene_state(volume)
    own = set() if target is None else {own_segment(target, word) for word in request["words"]}
    with contextlib.suppress(SegmentsError):
        done = import_labels(_file(folder, request), _words(request), volume, target, version="1")
        assert request["failure"] is None
        if done.step is not None:
            history.add(done.step)
        if target is None and done.segmentation is not None:
            nodes.append(done.segmentation)
        values = dict(zip(request["words"], range(1, 9), strict=False))
        labels = np.zeros(SHAPE, np.uint8)
        for value, mask in enumerate(request["masks"], start=1):
            labels[mask] = value
        assert set(done.ids) == {word for word, value in values.items() if (labels == value).any()}
        for word, segment_id in done.ids.items():
            np.testing.assert_array_equal(
                slicers_mask(done.segmentation, segment_id, volume), labels == values[word]
            )
        after = {node.GetID(): segment_state(node, volume) for node in nodes}
        for node_id, states in before["segments"].items():
            for segment_id, state in states:
                if target is None or node_id != target.GetID() or segment_id not in own:
                    assert after[node_id][segment_id] == state
        assert not any(_ownerless(node) for node in nodes)
        return
    assert request["failure"] is not None
    assert scene_state(volume) == before


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(scene=st.lists(_segmentations(), max_size=2), requests=st.lists(_requests(), min_size=1, max_size=3))
def test_no_other_segment_ever_changes_and_undo_brings_all_back(
    scene: list[dict[str, Any]], requests: list[dict[str, Any]]
) -> None:
    harness.clear_scene()
    volume = add_volume(np.zeros(SHAPE, np.int16), affine())
    nodes = []
    for number, made in enumerate(scene):
        node = add_segmentation(
            volume, made["masks"], shared=made["shared"], surfaces=made["surfaces"], name=f"Mine {number}"
        )
        for index in made["hidden"]:
            if index < node.GetSegmentation().GetNumberOfSegments():
                node.GetDisplayNode().SetSegmentVisibility(
                    node.GetSegmentation().GetNthSegmentID(index), False
                )
        nodes.append(node)
    before, history = scene_state(volume), UndoHistory()
    with tempfile.TemporaryDirectory() as folder:
        for request in requests:
            _ask(request, nodes, volume, history, Path(folder))
            if request["collapse"]:
                for node in nodes:
                    _collapse(node)
    while history.next() is not None:
        history.undo()
    after = scene_state(volume)
    if any(request["collapse"] for request in requests):  # Slicer throws surfaces away when it does so
        after, before = _without_surfaces(after), _without_surfaces(before)
    assert after == before


def _collapse(node: Any) -> None:
    node.GetSegmentation().CollapseBinaryLabelmaps(False)


def _without_surfaces(state: dict[str, Any]) -> dict[str, Any]:
    """The surface is the last entry of each segment's state."""
    bare = {
        node: [(segment_id, rest[:-1]) for segment_id, rest in segments]
        for node, segments in state["segments"].items()
    }
    return {**state, "segments": bare}


def _ownerless(node: Any) -> set[int]:
    """Values in images of a segmentation that belong to no segment: other readers of a .seg.nrrd would take
    them for one.
    """
    contents, stray = node.GetSegmentation(), set()
    segments = [contents.GetSegment(segment_id) for segment_id in contents.GetSegmentIDs()]
    for segment in segments:
        image = segment.GetRepresentation(BINARY)
        scalars = None if image is None else image.GetPointData().GetScalars()
        if scalars is not None:
            owned = {other.GetLabelValue() for other in segments if other.GetRepresentation(BINARY) is image}
            stray |= set(np.unique(vtk_to_numpy(scalars)).tolist()) - owned - {0}
    return stray
