"""Simulated clicks of a person who corrects a mask: each one in the middle of its largest error.

The same masks always get the same clicks. Used by trainings and experiments. Knows masks; not models.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from wordmask.inference.refining import middle_of

MISSED, FALSE, NO_CLICK = 1, 0, -1  # SAM's labels of a point inside, of one outside, and of none


def next_click(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[int, int, bool] | None:
    """Where a person would click next.

    Errors are connected pixels (4 neighbours) that are all missed or all false. The largest one is clicked,
    at its pixel that is farthest from its edge; the edge of the image counts as one. Of equals, a missed
    region comes before a false one, and otherwise what comes first in reading order.

    Args:
        mask: bool [h, w], what is marked.
        truth: bool [h, w], what should be.

    Returns:
        (x, y, whether the pixel is missed); None without an error.
    """
    best: tuple[int, NDArray[np.bool_], bool] | None = None
    for missed in (True, False):
        wrong = truth & ~mask if missed else mask & ~truth
        regions, count = ndimage.label(wrong)
        if not count:
            continue
        sizes = np.bincount(regions.ravel())[1:]
        largest = int(sizes.argmax())
        if best is None or sizes[largest] > best[0]:
            best = (int(sizes[largest]), regions == largest + 1, missed)
    if best is None:
        return None
    y, x = middle_of(best[1])
    return x, y, best[2]


def corrective_clicks(
    draw: Callable[[Tensor, Tensor], Tensor], masks: Tensor, truth: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Let a person correct masks click by click.

    Args:
        draw: clicks of all pairs (as returned here) -> their masks, bool [P, h, w].
        masks: bool [P, h, w], what is marked before the first click.
        truth: bool [P, h, w].
        counts: [P], how many clicks a pair gets at most.

    Returns:
        Places [P, n, 2] (x, y) in pixels of the masks, pixel i centred at i, and labels [P, n]: 1 where the
        pixel was missed, 0 where it was false, -1 where there is no click. A pair whose mask is right gets no
        further clicks, so its clicks are always the first ones of its row.
    """
    most = int(counts.max()) if len(counts) else 0
    places, labels = torch.zeros(len(masks), most, 2), torch.full((len(masks), most), NO_CLICK)
    right = truth.cpu().numpy()
    for number in range(most):
        if number:
            masks = draw(places[:, :number], labels[:, :number])
        now = masks.cpu().numpy()
        for row in (counts > number).nonzero()[:, 0].tolist():
            click = next_click(now[row], right[row])
            if click is not None:
                places[row, number] = torch.tensor(click[:2], dtype=places.dtype)
                labels[row, number] = MISSED if click[2] else FALSE
    return places, labels
