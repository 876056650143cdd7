"""From a map of where a word is to rough objects: split it in two, take the objects apart, drop what is too small or too faint.

Knows maps in 0..1; not words, not SAM. Source: MedCLIP-SAMv2 (methods.md 2.1). k-means with two classes in one dimension is solved exactly:
on the histogram every threshold is tried, which is Otsu's method (the two criteria differ by a constant, the variance of all values).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

LEVELS = 256  # grey levels, as in the published 8-bit maps
DIAGONAL = np.ones((3, 3), dtype=bool)  # objects that touch at a corner are one


@dataclass(frozen=True)
class CoarseObject:
    """mask: bool [h, w]; area: pixels; confidence: mean of the map within it, 0..1."""

    mask: NDArray[np.bool_]
    area: int
    confidence: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1), first and last pixel."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])

    def draw_points(self, count: int, key: int, *, inside: bool = True) -> NDArray[np.int64]:
        """Pixels (x, y) of the object, or of the rest, [n, 2]: as many as asked for, or all there are. key: of the lot."""
        places = np.argwhere(self.mask if inside else ~self.mask)[:, ::-1]
        chosen = np.random.default_rng(key).choice(len(places), size=min(count, len(places)), replace=False)
        return places[chosen]


def split_two_classes(maps: Tensor) -> Tensor:
    """The thresholds [P] that split each map [P, h, w], 0..1, with the least squares within both classes; values above are the object.

    The best of all thresholds between 256 grey levels, of equals the lowest. 1, above which there is nothing, for a constant map: k-means
    would find an object there, too.
    """
    levels = (maps.flatten(1) * (LEVELS - 1)).round().long()
    counts = torch.zeros(len(maps), LEVELS, dtype=torch.float64, device=maps.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels, dtype=torch.float64))
    values = torch.arange(LEVELS, dtype=torch.float64, device=maps.device)
    below, sum_below = counts.cumsum(1), (counts * values).cumsum(1)
    above, sum_above = below[:, -1:] - below, sum_below[:, -1:] - sum_below
    both = (below > 0) & (above > 0)
    between = torch.where(both, below * above * (sum_below / below.clamp_min(1) - sum_above / above.clamp_min(1)).square(), -1.0)
    best, level = between.max(1)  # of equals the first, on the CPU; a level without pixels changes nothing
    return torch.where(best >= 0, (level + 0.5) / (LEVELS - 1), 1.0).to(maps.dtype)


def coarse_masks(maps: Tensor, *, fixed: float | None = None) -> Tensor:
    """bool [P, h, w] of maps [P, h, w] in 0..1: above ``fixed``, else by `split_two_classes`."""
    limits = split_two_classes(maps) if fixed is None else maps.new_full((len(maps),), fixed)
    return maps > limits[:, None, None]


def coarse_objects(
    mask: NDArray[np.bool_], saliency: NDArray[np.float32], *, most: int, least_area: float = 0.0, least_confidence: float = 0.0
) -> list[CoarseObject]:
    """The largest connected parts of a mask [h, w], at most ``most``; of equals the one that begins first. None for an empty mask.

    saliency: [h, w], the map; least_area: share of the map below which an object is dropped; least_confidence: mean of the map, likewise.
    """
    parts, count = ndimage.label(mask, structure=DIAGONAL)
    found = []
    for number in range(1, count + 1):
        part = parts == number
        one = CoarseObject(part, int(np.count_nonzero(part)), float(saliency[part].mean()))
        if one.area >= least_area * mask.size and one.confidence >= least_confidence:
            found.append(one)
    return sorted(found, key=lambda one: -one.area)[:most]
