"""Points and boxes of a person: from voxels to slices, to a model that takes them, and refused by one that
does not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.small_volumes import organs, segment
from tests.support.stub_segmenters import PromptFreeStub, WordDependentStub, stub_preset

from wordmask.data.geometry import Geometry, Plane, slicing_for
from wordmask.errors import RequestError
from wordmask.inference.hints import VoxelHints
from wordmask.models.base import Capabilities, Hints
from wordmask.models.presets import PresencePreset
from wordmask.words.prompts import parse_prompts

AXES = (np.eye(3), np.diag([-1.0, -1.0, 1.0]), np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]))


class Takes(WordDependentStub):
    """Marks what a box covers, by large logits, in its slices; keeps what it was given."""

    capabilities = Capabilities(hints=frozenset({"points", "box"}), prompt_sets=True)
    seen: Hints | None = None

    def forward(self, slices: Any, prompts: Any, pairs: Any = None, hints: Hints | None = None) -> Any:
        type(self).seen = hints
        return super().forward(slices, prompts, pairs, hints)


@given(
    size=st.tuples(*[st.integers(2, 9)] * 3),
    axes=st.sampled_from(AXES),
    plane=st.sampled_from(list(Plane)),
    data=st.data(),
)
def test_a_voxel_and_its_place_in_its_slice_are_the_same_voxel(size, axes, plane, data):
    geometry = Geometry(size, (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), tuple(axes.ravel()))
    slicing = slicing_for(geometry, plane)
    first = tuple(data.draw(st.integers(0, count - 1)) for count in size)
    last = tuple(data.draw(st.integers(low, count - 1)) for low, count in zip(first, size, strict=True))
    array = np.zeros(size[::-1], bool)
    array[first[2] : last[2] + 1, first[1] : last[1] + 1, first[0] : last[0] + 1] = True
    hints = VoxelHints(((*first, True),), (first, last)).along(slicing)
    boxed = np.zeros(slicing.cut_shape, bool)
    top, bottom, x0, y0, x1, y1 = hints.box
    boxed[top : bottom + 1, int(y0 + 0.5) : int(y1 + 0.5), int(x0 + 0.5) : int(x1 + 0.5)] = True
    np.testing.assert_array_equal(slicing.restack(boxed), array)
    pointed = np.zeros(slicing.cut_shape, bool)
    index, x, y, positive = hints.points[0]
    pointed[index, int(y), int(x)] = True
    assert slicing.restack(pointed)[first[::-1]]
    assert positive


def test_hints_reach_a_model_that_takes_them_in_the_slices_of_the_plane():
    segment(
        Takes,
        organs(),
        "liver",
        hints=VoxelHints(((9.25, 6.0, 3.0, True),), ((2.0, 3.0, 4.0), (5.0, 9.0, 7.0))),
    )
    assert Takes.seen == Hints(((3, 9.25, 6.0, True),), (4, 7, 1.5, 2.5, 5.5, 9.5))
    segment(Takes, organs(), "liver", plane="coronal", hints=VoxelHints(((9.0, 6.0, 3.0, False),)))
    index, x, y, positive = Takes.seen.points[0]
    assert (index, x, positive) == (6, 9.0, False)
    assert y == organs().array.shape[0] - 1 - 3  # rows of a coronal slice run from the head down


@pytest.mark.parametrize(
    ("words", "hints", "sentence"),
    [
        ("liver", VoxelHints(((3.0, 5.0, 99.0, True),)), r"voxel \(3, 5, 99\)"),
        ("liver", VoxelHints(((float("nan"), 5.0, 1.0, True),)), "lies at voxel"),
        ("liver", VoxelHints(box=((0.0, 0.0, 0.0), (5.0, 5.0, 400.0))), r"voxel \(5, 5, 400\)"),
        ("liver, spleen", VoxelHints(((3.0, 5.0, 4.0, True),)), "one word at a time"),
        ("liver", VoxelHints(((3.0, 5.0, 4.0, True),)), "slice 4, which is not computed"),
        ("liver", VoxelHints(box=((0.0, 0.0, 0.0), (5.0, 5.0, 4.0))), "slice 0, which is not computed"),
    ],
)
def test_hints_that_cannot_be_used_are_refused(words, hints, sentence):
    with pytest.raises(RequestError, match=sentence):
        segment(Takes, organs(), words, hints=hints, slices=(5, 9))


def test_a_model_of_words_only_refuses_hints_and_prompt_sets():
    with pytest.raises(RequestError, match="cannot use points; it takes words only"):
        segment(PromptFreeStub, organs(), "liver", hints=VoxelHints(((3.0, 5.0, 6.0, True),)))
    (liver,) = parse_prompts("liver")
    with pytest.raises(RequestError, match="leave the prompt set out"):
        segment(PromptFreeStub, organs(), [replace(liver, prompt_set="P2")])
    with pytest.raises(RequestError, match="no prompt set 'P9'"):
        segment(Takes, organs(), [replace(liver, prompt_set="P9")])


def test_what_a_person_marked_is_segmented_though_the_model_thinks_it_absent():
    class Doubts(PromptFreeStub):
        capabilities = Capabilities(hints=frozenset({"box"}), presence=True, attribution=True)

    doubtful = stub_preset().model_copy(
        update={"presence": PresencePreset(volume_logit=1e6, minimum_area=0.9)}
    )
    box = VoxelHints(box=((10.0, 10.0, 6.0), (12.0, 12.0, 8.0)))
    assert not segment(Doubts, organs(), "liver", preset=doubtful).labels.any()
    marked = segment(Doubts, organs(), "liver", preset=doubtful, hints=box).labels
    assert set(np.flatnonzero(marked.any(axis=(1, 2)))) == {6, 7, 8}
