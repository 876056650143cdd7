"""Corrections: clicked slices are drawn again, and neighbours follow until the structure ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.small_volumes import GREY, a_volume, organs
from tests.support.stub_segmenters import LEVELS, PromptFreeStub, stub_preset

from wordmask.errors import CancelledError, RequestError
from wordmask.inference.hints import VoxelHints
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.refining import Refiner, middle_of, overlap
from wordmask.models.base import Capabilities, Hints
from wordmask.models.presets import PresencePreset
from wordmask.progress import CancelToken, Progress

FIRST, LAST = 3, 14  # slices of the liver of `organs`
CLICK = (10.0, 14.0)  # (i, j) in it


class Clickable(PromptFreeStub):
    """Marks the grey value of a word; nothing in slices with a negative point."""

    name = "clickable"
    capabilities = Capabilities(hints=frozenset({"points", "box"}), presence=True)
    seen: list[Hints]

    def __init__(self, *arguments: Any, **settings_: Any) -> None:
        super().__init__(*arguments, **settings_)
        self.seen = []

    def refuse_hints(self, hints: Hints | None) -> None:
        self.seen.append(hints or Hints())

    def forward(self, slices: Any, prompts: Any, pairs: Any = None, hints: Hints | None = None) -> Any:
        self.refuse_hints(hints)
        output = super().forward(slices, prompts, pairs, hints)
        for row, (number, _) in enumerate(pairs.tolist()):
            if any(point[0] == slices.keys[number].index and not point[3] for point in hints.points):
                output.logits[row] = -9.0
        return output


class TakesMasks(Clickable):
    capabilities = Capabilities(hints=frozenset({"points"}), presence=True, masks=True)


def refiner(model: type[Clickable] = Clickable, *, volume: Any = None, **settings_: Any) -> Refiner:
    preset = stub_preset(presence=PresencePreset(slice_logit=-50.0, volume_logit=-50.0))
    pipeline = VolumeSegmenter(model(settings_.pop("preset", preset)))
    return Refiner(pipeline, volume or organs(), "liver", plane="axial", **settings_)


def at(index: int, *, positive: bool = True) -> VoxelHints:
    return VoxelHints(points=((*CLICK, float(index), positive),))


def test_without_spreading_only_the_clicked_slices_change():
    found = refiner().refine(at(5))
    assert (list(found.masks), found.slab, found.corrected, found.ends) == ([5], (5, 5), {5}, ())
    assert found.masks[5][5:25, 4:20].mean() > 0.7
    assert found.masks[5][30:].sum() == 0
    assert not refiner().refine(at(5, positive=False)).masks[5].any()


def test_neighbours_follow_up_to_the_reach():
    found = refiner().refine(at(8), spread=3)
    assert sorted(found.masks) == list(range(5, 12))
    assert all(mask[5:25, 4:20].mean() > 0.7 for mask in found.masks.values())
    assert found.ends == ()


def test_spreading_ends_where_the_structure_ends_and_says_why():
    found = refiner().refine(at(8), spread=22)
    assert found.slab == (FIRST, LAST)
    assert found.ends == (
        "It ended before slice 2, where the mask would differ too much from its neighbour's.",
        "It ended before slice 15, where the mask would differ too much from its neighbour's.",
    )
    strict = refiner(preset=stub_preset(presence=PresencePreset(slice_logit=1e6, volume_logit=-50.0)))
    found = strict.refine(at(8), spread=22)
    assert list(found.masks) == [8]
    assert "It ended before slice 7, where the structure does not seem to be." in found.ends
    array = np.zeros((4, 46, 37), np.float32)
    array[:, 5:25, 4:20], array[0, 40:], array[3, 40:] = LEVELS["liver"] * GREY, GREY, GREY
    everywhere = refiner(volume=a_volume(array)).refine(at(1), spread=9)
    assert everywhere.slab == (0, 3)
    assert {end.split(", ")[1] for end in everywhere.ends} == {"where the image ends."}


def test_slices_that_were_corrected_by_hand_never_change():
    found = refiner().refine(at(8), spread=22, locked=[6, 10])
    assert found.slab == (7, 9)
    assert found.ends == (
        "It ended before slice 6, which was corrected by hand.",
        "It ended before slice 10, which was corrected by hand.",
    )
    with pytest.raises(RequestError, match="Slice 6 was corrected by hand and is locked"):
        refiner().refine(at(6), locked=[6])


def test_two_corrected_slices_meet_in_the_middle_and_keep_their_own_masks():
    clicks = VoxelHints(points=((*CLICK, 5.0, True), (*CLICK, 9.0, False)))
    found = refiner().refine(clicks, spread=10)
    assert sorted(found.masks) == list(range(FIRST, 10))
    assert not found.masks[9].any()
    assert "It ended before slice 10, because nothing is marked beside it." in found.ends


def test_the_mask_of_a_neighbour_is_a_hint_in_the_form_that_the_model_takes():
    boxed = refiner()
    boxed.refine(at(8), spread=1)
    first, second, *_ = boxed.pipeline.segmenter.seen
    assert (first.points[0][0], first.box) == (8, None)
    index, last, x0, y0, x1, y1 = second.box
    assert (index, last) == (7, 7)
    assert x0 < 4.5 < 18.5 < x1
    assert y0 < 5.5 < 23.5 < y1
    assert second.points[0][3]
    masked = refiner(TakesMasks)
    masked.refine(at(8), spread=1, previous=np.ones(organs().array.shape, bool))
    first, second, *_ = masked.pipeline.segmenter.seen
    assert first.masks[8].all()
    assert second.box is None
    assert 0 < second.masks[7].sum() < second.masks[7].size


def test_features_of_a_slice_are_computed_once():
    one = refiner()
    one.refine(at(8), spread=2)
    encoded = one.pipeline.segmenter.slices_encoded
    one.refine(at(8, positive=False))
    one.refine(at(8), spread=2)
    assert one.pipeline.segmenter.slices_encoded == encoded


@settings(max_examples=15, deadline=None)
@given(
    clicks=st.lists(st.tuples(st.integers(0, 22), st.booleans()), min_size=1, max_size=4),
    spread=st.integers(0, 6),
    locked=st.sets(st.integers(0, 22), max_size=5),
)
def test_whatever_is_clicked_the_result_is_one_run_of_slices_around_the_clicks(clicks, spread, locked):
    hints = VoxelHints(points=tuple((*CLICK, float(index), positive) for index, positive in clicks))
    corrected = {index for index, _ in clicks}
    if corrected & locked:
        return
    found = refiner().refine(hints, spread=spread, locked=locked)
    assert found.corrected == corrected <= found.masks.keys()
    assert not locked & found.masks.keys()
    for index in found.masks:
        ways = [range(min(one, index), max(one, index) + 1) for one in corrected]
        assert any(len(way) <= spread + 1 and set(way) <= found.masks.keys() for way in ways)


def test_progress_is_told_and_cancelling_ends_it():
    seen: list[Progress] = []
    refiner(progress=seen.append).refine(at(8), spread=2)
    assert [(one.done, one.total) for one in seen] == [(number, 5) for number in range(1, 6)]
    cancel = CancelToken()
    with pytest.raises(CancelledError):
        refiner(progress=lambda _: cancel.cancel(), cancel=cancel).refine(at(8), spread=2)


@pytest.mark.parametrize(
    ("word", "hints", "sentence"),
    [
        ("liver, spleen", at(5), "A correction is of one word, and 2 were given"),
        ("liver", VoxelHints(), "A correction needs points or a box"),
        ("liver", at(40), "outside of the image"),
    ],
)
def test_what_cannot_be_corrected_is_refused(word, hints, sentence):
    with pytest.raises(RequestError, match=sentence):
        Refiner(VolumeSegmenter(Clickable(stub_preset())), organs(), word).refine(hints)


def test_a_model_without_hints_or_the_word_cannot_be_corrected():
    with pytest.raises(RequestError, match="takes words only"):
        refiner(PromptFreeStub).refine(at(5))
    strict = VolumeSegmenter(Clickable(stub_preset(unknown_words="refuse")))
    with pytest.raises(RequestError, match="was not trained on 'stomach'"):
        Refiner(strict, organs(), "stomach")


def test_the_middle_of_a_mask_is_far_from_its_outline():
    mask = np.zeros((9, 12), bool)
    mask[0:5, 2:9], mask[5:9, 2] = True, True
    assert middle_of(mask) == (2, 4)
    assert middle_of(np.ones((3, 3), bool)) == (1, 1)
    assert overlap(mask, mask) == 1.0
    assert overlap(mask, np.zeros_like(mask)) == 0.0
    assert overlap(np.zeros_like(mask), np.zeros_like(mask)) == 0.0
