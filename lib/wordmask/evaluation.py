"""How well masks agree: Dice, IoU, and a table by word.

Labels are matched by their names, never by their values: two files may number the same word differently.
Knows numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class WordScore:
    """Agreement on one word. dice, iou: 0..1, NaN when neither has a voxel; voxels are counts."""

    dice: float
    iou: float
    predicted_voxels: int
    true_voxels: int

    @property
    def present(self) -> bool:
        """The truth has the word: its Dice counts. Otherwise `predicted_voxels` are false alarms."""
        return self.true_voxels > 0


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Twice the common voxels over the sum of both: 0..1, NaN when both masks are empty."""
    return _score(prediction, truth).dice


def iou(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Common voxels over all voxels of either: 0..1, NaN when both masks are empty."""
    return _score(prediction, truth).iou


def evaluate_labels(
    prediction: NDArray[np.integer],
    truth: NDArray[np.integer],
    *,
    predicted_names: Mapping[str, int],
    true_names: Mapping[str, int],
) -> dict[str, WordScore]:
    """Score every word of ``predicted_names`` (word -> value); a word that ``true_names`` lacks is absent from the truth.

    prediction, truth: label maps of one shape. ValueError when the shapes differ.
    """
    _check_shapes(prediction, truth)
    empty = np.zeros(truth.shape, dtype=bool)
    return {
        word: _score(prediction == value, truth == true_names[word] if word in true_names else empty)
        for word, value in predicted_names.items()
    }


def _score(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> WordScore:
    _check_shapes(prediction, truth)
    predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    common = int(np.count_nonzero(prediction & truth))
    if not predicted + true:
        return WordScore(nan, nan, 0, 0)
    return WordScore(2 * common / (predicted + true), common / (predicted + true - common), predicted, true)


def _check_shapes(prediction: NDArray[np.generic], truth: NDArray[np.generic]) -> None:
    if prediction.shape != truth.shape:
        raise ValueError(f"Masks of one shape can be compared, got {prediction.shape} and {truth.shape}.")
