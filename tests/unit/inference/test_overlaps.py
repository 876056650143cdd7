"""Which word gets a voxel that several words claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordmask.inference.overlaps import Marks, binary_entropy, mask_of, resolve


def marks_of(*slices: list[list[float]], threshold: float = 0.5) -> dict[int, Marks]:
    """One word's probabilities, slice by slice."""
    found = {}
    for index, values in enumerate(slices):
        marks = Marks.above(np.array(values, dtype=np.float32), threshold)
        if marks is not None:
            found[index] = marks
    return found


def numbered(words: list[dict[int, Marks]]) -> list[tuple[int, dict[int, Marks]]]:
    """With the values 1..N in the order of the words."""
    return list(enumerate(words, start=1))


def test_a_pixel_goes_to_the_highest_probability_above_the_threshold():
    liver = marks_of([[0.9, 0.6, 0.4], [0.0, 0.7, 0.8]])
    spleen = marks_of([[0.8, 0.7, 0.4], [0.6, 0.7, 0.9]])
    labels, _ = resolve(numbered([liver, spleen]), (1, 2, 3))
    np.testing.assert_array_equal(labels, [[[1, 2, 0], [2, 1, 2]]])  # at equal 0.7 the earlier word wins
    assert labels.dtype == np.uint8


def test_a_probability_equal_to_the_threshold_is_not_marked():
    assert marks_of([[0.5, 0.25]]) == {}


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 2**32 - 1))
def test_the_order_of_the_words_never_changes_who_wins(order, seed):
    random = np.random.default_rng(seed)
    words = [
        marks_of(*random.permutation(36).reshape(2, 3, 6) / 40 + i / 1000) for i in range(4)
    ]  # no two values are equal
    plain, _ = resolve(numbered(words), (2, 3, 6))
    shuffled, _ = resolve(numbered([words[i] for i in order]), (2, 3, 6))
    values = np.array([0, *(i + 1 for i in order)])
    np.testing.assert_array_equal(values[shuffled], plain)


def test_what_a_dropped_word_had_won_goes_to_the_next_best():
    liver, spleen = marks_of([[0.9, 0.9]]), marks_of([[0.6, 0.2]])
    labels, _ = resolve(numbered([{}, spleen]), (1, 1, 2))
    np.testing.assert_array_equal(labels, [[[2, 0]]])
    labels, _ = resolve(numbered([liver, spleen]), (1, 1, 2))
    np.testing.assert_array_equal(labels, [[[1, 1]]])


def test_a_tally_counts_only_what_was_won():
    liver = marks_of([[0.9, 0.6]], [[0.8, 0.8]])
    spleen = marks_of([[0.7, 0.7]], [[0.6, 0.6]])
    _, (of_liver, of_spleen) = resolve(numbered([liver, spleen]), (2, 1, 2))
    assert (of_liver.voxels, of_liver.areas, of_liver.largest_slice) == (3, {0: 1, 1: 2}, 1)
    assert of_liver.probability == pytest.approx(0.9 + 0.8 + 0.8)
    assert (of_spleen.voxels, of_spleen.largest_slice) == (1, 0)
    assert of_spleen.uncertainty == pytest.approx(-0.7 * math.log(0.7) - 0.3 * math.log(0.3))


def test_a_models_own_uncertainty_is_counted_instead_of_the_entropy():
    own = np.array([[0.1, 0.2]], dtype=np.float32)
    marks = Marks.above(np.array([[0.9, 0.3]], dtype=np.float32), 0.5, own)
    _, (tally,) = resolve(numbered([{0: marks}]), (1, 1, 2))
    assert tally.uncertainty == pytest.approx(0.1)


def test_marks_give_back_their_mask_and_can_be_restricted():
    random = np.random.default_rng(1)
    values = random.random((5, 7), dtype=np.float32)
    marks = Marks.above(values, 0.4)
    np.testing.assert_array_equal(marks.mask, values > 0.4)
    part = marks.within(np.arange(35).reshape(5, 7) % 2 == 0)
    expected = (values > 0.4) & (np.arange(35).reshape(5, 7) % 2 == 0)
    np.testing.assert_array_equal(part.mask, expected)
    np.testing.assert_array_equal(part.probability, values[expected])
    assert marks.within(np.zeros((5, 7), dtype=bool)) is None
    assert marks.within(np.ones((5, 7), dtype=bool)) is marks
    np.testing.assert_array_equal(mask_of({1: marks}, (2, 5, 7))[1], values > 0.4)


def test_label_values_are_those_of_the_caller():
    labels, (tally, _) = resolve([(7, marks_of([[0.9, 0.0]])), (300, marks_of([[0.0, 0.9]]))], (1, 1, 2))
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, [[[7, 300]]])
    assert tally.voxels == 1


def test_more_words_than_a_byte_counts_still_get_their_own_values():
    words = [marks_of([[1.0 if i == j else 0.0 for j in range(300)]]) for i in range(300)]
    labels, _ = resolve(numbered(words), (1, 1, 300))
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels[0, 0], np.arange(1, 301))


def test_entropy_is_zero_at_certainty_and_ln_2_at_one_half():
    np.testing.assert_allclose(
        binary_entropy(np.array([0, 0.5, 1], dtype=np.float32)), [0, math.log(2), 0], atol=1e-7
    )
