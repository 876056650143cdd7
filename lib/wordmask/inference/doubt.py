"""Which slices of a volume are worth a look, because a word's mask may be wrong there.

Knows numbers of pixels; not models, not words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wordmask.inference.overlaps import binary_entropy

UNSURE = 0.2  # nats; with less a pixel counts as sure
SURE = 0.05  # probability with about that entropy
WRONG_SHARE = 0.3  # of a slice's mask, from which on the slice is worth a look
SMALL_SHARE = 0.05  # of the largest mask of the word; fewer pixels are never worth a look


def doubtful_pixels(probability: NDArray[np.float32], uncertainty: NDArray[np.float32] | None) -> float:
    """How many pixels of a slice are wrong at most, as expected from their uncertainty.

    The probability of an error is at most half of the entropy in bits (Hellman and Raviv 1970). Pixels that
    the model is sure of do not count, because a slice has very many of them.

    Args:
        probability: [h, w], 0..1.
        uncertainty: [h, w], nats, where the model has its own; None: the binary entropy of the probability.
    """
    if uncertainty is None:
        between = (probability > SURE) & (probability < 1 - SURE)
        uncertainty = binary_entropy(probability[between])
    unsure = uncertainty[uncertainty >= UNSURE]
    return float(unsure.sum(dtype=np.float64)) / (2 * math.log(2))


def worth_a_look(doubt: Mapping[int, float], areas: Mapping[int, int]) -> tuple[int, ...]:
    """The slices that may be wrong in a larger part of the mask, the most doubtful first.

    Args:
        doubt: slice -> pixels that may be wrong, of `doubtful_pixels`; slices that were not segmented are
            left out.
        areas: slice -> pixels of the mask; slices without any are left out.
    """
    least = SMALL_SHARE * max(areas.values(), default=0)
    found = [
        index
        for index, pixels in doubt.items()
        if pixels >= max(1.0, least) and pixels >= WRONG_SHARE * (areas.get(index, 0) + pixels)
    ]
    return tuple(sorted(found, key=lambda index: (-doubt[index], index)))
