"""Dice and IoU, and matching by name."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wordmask.evaluation import dice, evaluate_labels, iou


def test_dice_and_iou_of_half_overlapping_masks():
    prediction = np.array([1, 1, 1, 1, 0, 0], dtype=bool)
    truth = np.array([0, 0, 1, 1, 1, 1], dtype=bool)
    assert dice(prediction, truth) == pytest.approx(4 / 8)
    assert iou(prediction, truth) == pytest.approx(2 / 6)


def test_equal_masks_score_one_and_disjoint_ones_zero():
    mask = np.array([True, False])
    assert (dice(mask, mask), iou(mask, mask)) == (1.0, 1.0)
    assert (dice(mask, ~mask), iou(mask, ~mask)) == (0.0, 0.0)


def test_two_empty_masks_have_no_score_rather_than_a_perfect_one():
    empty = np.zeros(5, dtype=bool)
    assert math.isnan(dice(empty, empty))
    assert math.isnan(iou(empty, empty))


def test_words_are_matched_by_name_when_the_values_differ():
    prediction = np.array([1, 1, 2, 2, 0])
    truth = np.array([7, 7, 3, 0, 0])
    scores = evaluate_labels(prediction, truth, predicted_names={"liver": 1, "spleen": 2}, true_names={"spleen": 3, "liver": 7})
    assert scores["liver"].dice == 1.0
    assert scores["spleen"].dice == pytest.approx(2 / 3)
    assert scores["spleen"].present


def test_a_word_that_the_truth_lacks_counts_as_false_alarms():
    scores = evaluate_labels(np.array([1, 1, 0]), np.zeros(3, dtype=int), predicted_names={"aorta": 1}, true_names={})
    assert not scores["aorta"].present
    assert scores["aorta"].predicted_voxels == 2
    assert scores["aorta"].dice == 0.0


def test_masks_of_different_shapes_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        dice(np.zeros(2, dtype=bool), np.zeros(3, dtype=bool))
