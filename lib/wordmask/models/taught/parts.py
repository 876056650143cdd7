"""The one part of a picture that stands out, for structures that are always one piece.

A network that learned from a few pictures also marks vague areas beside a structure. Knows maps of
probability only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

PEAK = 0.002  # share of the map
LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7)  # of the highest probability, where candidates are cut out
SMALLEST = 0.001  # share of the map
FULL_SIZE = 0.003  # share of the map; smaller parts count less
RING = 0.15  # width of the surroundings, as a share of the root of a part's area
MOST_PARTS = 8  # of each level, the largest


def peak_of(probability: NDArray[np.float32]) -> float:
    """Mean of the highest probabilities of a map, over `PEAK` of its pixels."""
    count = max(1, round(PEAK * probability.size))
    return float(np.partition(probability.ravel(), -count)[-count:].mean())


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a map.

    Attributes:
        level: the probability above which it lies.
        mask: [h, w] bool; empty where nothing stands out.
        contrast: mean probability inside minus that around it, less for very small parts; 0 for an empty one.
    """

    level: float
    mask: NDArray[np.bool_]
    contrast: float


def standing_out(probability: NDArray[np.float32]) -> Part:
    """Find the part that differs most from what surrounds it.

    Candidates are the connected areas above several levels. What counts is the mean probability inside minus
    that of a ring around it, so that a small clear spot wins against a large vague one.

    Args:
        probability: [h, w], 0..1.

    """
    peak, area = peak_of(probability), probability.size
    best = Part(LEVELS[len(LEVELS) // 2] * peak, np.zeros(probability.shape, dtype=bool), 0.0)
    for share in LEVELS:
        pieces, count = ndimage.label(probability > share * peak)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        for number in np.argsort(-sizes, kind="stable")[:MOST_PARTS]:
            if sizes[number] < SMALLEST * area:
                break
            inside = pieces == number + 1
            score = _contrast(probability, inside) * min(1.0, sizes[number] / (FULL_SIZE * area))
            if score > best.contrast:
                best = Part(share * peak, inside, score)
    return best


def _contrast(probability: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    width = max(1, round(RING * float(np.sqrt(np.count_nonzero(inside)))))
    ring = ndimage.binary_dilation(inside, iterations=width) & ~inside
    around = float(probability[ring].mean()) if ring.any() else 0.0
    return float(probability[inside].mean()) - around
