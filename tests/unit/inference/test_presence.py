"""From presence logits to decisions."""

from __future__ import annotations

import numpy as np
import pytest

from wordmask.inference.presence import (
    is_large_enough,
    is_present,
    probability,
    volume_logit,
    worth_segmenting,
)
from wordmask.models.presets import PresencePreset
from wordmask.words.prompts import Prompt

LIVER = Prompt(word="Liver", synonyms=(), code=None, color=(1, 2, 3), entry="liver")


def logits(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_one_high_slice_between_low_ones_is_averaged_down():
    assert volume_logit(logits(-6, -6, 6, -6, -6)) == pytest.approx(-2)


def test_three_high_slices_in_a_row_count_fully():
    assert volume_logit(logits(-6, 4, 4, 4, -6)) == pytest.approx(4)


def test_at_the_end_of_the_volume_only_slices_that_exist_are_averaged():
    assert volume_logit(logits(4, 2, -6, -6)) == pytest.approx(3)


def test_a_single_picture_is_judged_by_itself():
    assert volume_logit(logits(1.5)) == pytest.approx(1.5)


def test_skipped_slices_neither_help_nor_hurt():
    nan = float("nan")
    assert volume_logit(logits(nan, 3, nan, -6, nan)) == pytest.approx(3)
    assert volume_logit(logits(nan, nan)) == float("-inf")


def test_a_word_is_present_from_the_limit_on():
    preset = PresencePreset(volume_logit=2.0)
    assert is_present(logits(2, 2, 2), LIVER, preset)
    assert not is_present(logits(1.9, 1.9, 1.9), LIVER, preset)


def test_a_word_may_have_its_own_limit_under_its_name_in_the_vocabulary():
    preset = PresencePreset(volume_logit=2.0, words={"liver": -1.0})
    assert is_present(logits(0, 0, 0), LIVER, preset)
    other = Prompt(word="spleen", synonyms=(), code=None, color=(1, 2, 3))
    assert not is_present(logits(0, 0, 0), other, preset)


def test_without_a_presence_section_nothing_is_judged_absent():
    assert is_present(logits(-50), LIVER, None)
    np.testing.assert_array_equal(worth_segmenting(logits(-50, float("nan")), None), [True, False])


def test_slices_below_the_slice_limit_are_not_worth_segmenting():
    preset = PresencePreset(slice_logit=-1.0)
    np.testing.assert_array_equal(
        worth_segmenting(logits(-1.1, -1.0, 5, float("nan")), preset), [False, True, True, False]
    )


def test_a_word_whose_largest_slice_is_too_small_is_dropped():
    preset = PresencePreset(minimum_area=0.01)
    assert is_large_enough(np.array([0, 10, 3]), 1000, preset)
    assert not is_large_enough(np.array([0, 9, 9]), 1000, preset)
    assert not is_large_enough(np.array([], dtype=np.int64), 1000, preset)


def test_probabilities_of_extreme_logits_are_zero_and_one_without_overflow():
    assert probability(float("-inf")) == 0.0
    assert probability(-1e4) == 0.0
    assert probability(1e4) == 1.0
    assert probability(0.0) == pytest.approx(0.5)
