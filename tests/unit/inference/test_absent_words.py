"""Words that are absent, unknown, too small, or overlap another word."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.small_volumes import GREY, WORDS, a_volume, segment
from tests.support.stub_segmenters import LEVELS, PromptFreeStub, WordDependentStub, stub_preset

from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.models.base import Capabilities
from wordmask.models.presets import PresencePreset

STUBS = (PromptFreeStub, WordDependentStub)


def test_an_absent_word_gives_an_empty_mask_and_one_sentence(a_volume_with_organs):
    result = segment(PromptFreeStub, a_volume_with_organs, ["liver", "polyp"], keep=("labels", "probability"))
    assert result.not_found == ["polyp"]
    assert not (result.labels == 2).any()
    (sentence,) = [sentence for sentence in result.warnings if "Nothing was marked for 'polyp'" in sentence]
    assert "does not seem to be in this image" in sentence
    polyp = result.statistics["polyp"]
    assert (polyp.voxels, polyp.millilitres, polyp.mean_probability, polyp.largest_slice) == (
        0,
        0.0,
        None,
        None,
    )
    assert polyp.presence < 0.5
    assert not result.maps["probability"]["polyp"].any()


def test_a_word_may_need_more_presence_than_others(a_volume_with_organs):
    preset = stub_preset(presence=PresencePreset(words={"spleen": 1e6}))
    assert segment(PromptFreeStub, a_volume_with_organs, ["liver", "spleen"], preset=preset).not_found == [
        "spleen"
    ]


def test_slices_without_the_thing_are_not_segmented(a_volume_with_organs):
    segmenter = PromptFreeStub(stub_preset(pair_batch=1, slice_batch=1))
    VolumeSegmenter(segmenter).segment(a_volume_with_organs, ["liver"], plane="axial")
    assert segmenter.batches.count(("pairs", 1)) == 12
    segmenter = PromptFreeStub(stub_preset(pair_batch=1, slice_batch=1, presence=None))
    VolumeSegmenter(segmenter).segment(a_volume_with_organs, ["liver"], plane="axial")
    assert segmenter.batches.count(("pairs", 1)) == 23


def test_a_model_that_tells_presence_only_with_the_mask_is_judged_afterwards(a_volume_with_organs):
    class Late(PromptFreeStub):
        capabilities = Capabilities()

    late = segment(Late, a_volume_with_organs, ["liver", "polyp"])
    early = segment(PromptFreeStub, a_volume_with_organs, ["liver", "polyp"])
    assert late.not_found == early.not_found == ["polyp"]
    assert late.statistics["liver"].presence == pytest.approx(early.statistics["liver"].presence)


def test_a_word_of_which_only_a_spot_is_found_is_dropped(a_volume_with_organs):
    preset = stub_preset(presence=PresencePreset(minimum_area=0.5))
    result = segment(PromptFreeStub, a_volume_with_organs, ["liver"], preset=preset)
    assert result.not_found == ["liver"]
    assert any("too little" in sentence for sentence in result.warnings)


def test_a_word_that_the_preset_was_not_trained_on_is_refused_or_marked_with_a_warning(a_volume_with_organs):
    refused = segment(
        WordDependentStub,
        a_volume_with_organs,
        ["liver", "gallbladder"],
        preset=stub_preset(unknown_words="refuse"),
    )
    assert refused.not_found == ["gallbladder"]
    assert refused.statistics["gallbladder"].presence == 0
    (sentence,) = [sentence for sentence in refused.warnings if "gallbladder" in sentence]
    assert sentence.startswith("The preset 'tiny' was not trained on 'gallbladder', so nothing was marked")
    marked = segment(
        WordDependentStub, a_volume_with_organs, ["gallbladder"], preset=stub_preset(unknown_words="segment")
    )
    assert any("was not trained on 'gallbladder'" in sentence for sentence in marked.warnings)
    assert marked.statistics["gallbladder"].presence > 0


def test_a_refused_word_costs_no_computation(a_volume_with_organs):
    segmenter = PromptFreeStub(stub_preset(unknown_words="refuse"))
    VolumeSegmenter(segmenter).segment(a_volume_with_organs, ["gallbladder"], plane="axial")
    assert segmenter.batches == []


def test_labels_of_many_words_are_the_overlap_of_each_words_own_mask(a_volume_with_organs):
    words = ["liver", "kidney", "spleen"]
    keep = ("labels", "probability")
    together = segment(WordDependentStub, a_volume_with_organs, words, threshold=0.1)
    alone = [
        segment(WordDependentStub, a_volume_with_organs, [word], threshold=0.1, keep=keep) for word in words
    ]
    claims = np.stack(
        [
            np.where(one.mask(word), one.maps["probability"][word], 0)
            for one, word in zip(alone, words, strict=True)
        ]
    )
    expected = np.where(claims.max(axis=0) > 0, claims.argmax(axis=0) + 1, 0)
    assert (np.count_nonzero(claims, axis=0) > 1).any()
    np.testing.assert_array_equal(together.labels, expected)


def test_the_order_of_the_words_does_not_change_who_wins(a_volume_with_organs):
    forward = segment(WordDependentStub, a_volume_with_organs, WORDS)
    backward = segment(WordDependentStub, a_volume_with_organs, WORDS[::-1])
    for word in WORDS:
        np.testing.assert_array_equal(forward.mask(word), backward.mask(word))


def test_specks_are_dropped_unless_switched_off_or_only_a_part_is_asked_for():
    array = np.random.default_rng(0).uniform(0, 10, (14, 40, 40))
    array[13, :20], array[13, 20:] = GREY, 0
    array[2:11, 5:30, 5:30] = LEVELS["liver"] * GREY
    array[5, 34:38, 34:38] = LEVELS["liver"] * GREY
    volume = a_volume(array.astype(np.float32))
    corner = (slice(5, 6), slice(32, 40), slice(32, 40))
    assert segment(PromptFreeStub, volume, ["liver"], clean=False).labels[corner].any()
    assert not segment(PromptFreeStub, volume, ["liver"]).labels[corner].any()
    assert segment(PromptFreeStub, volume, ["liver"], slices=(4, 6)).labels[corner].any()


def test_a_higher_threshold_marks_less(a_volume_with_organs):
    low, middle, high = (
        segment(WordDependentStub, a_volume_with_organs, ["liver"], threshold=threshold)
        .statistics["liver"]
        .voxels
        for threshold in (0.1, 0.5, 0.8)
    )
    assert low > middle > high > 0
    nothing = segment(WordDependentStub, a_volume_with_organs, ["liver"], threshold=1)
    assert nothing.not_found == ["liver"]
    assert any("above the threshold of 1" in sentence for sentence in nothing.warnings)
