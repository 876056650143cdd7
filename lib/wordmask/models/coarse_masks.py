"""Coarse masks of saliency maps, their components, boxes and points (MedCLIP-SAMv2, methods.md 2.1).

Masks are computed for P maps at once on their device; components, boxes and points for one map on the CPU.
Nothing depends on the other maps of a batch, and a map without foreground gives an empty mask, where the
published code fails (methods.md 2.6 e and h). Knows torch, numpy and scipy; not words, models or geometry.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

SplitMethod = Literal["two_means", "fixed"]

FIXED_THRESHOLD = 0.3  # the alternative to k-means in the released code (methods.md 2.1)
# By how much maps in 0..1 may leave that range, because bilinear resizing was seen to leave it by 1e-7.
ROUNDING = 1e-4
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.int8)
POSITIVE, NEGATIVE = 1, 0  # SAM's labels of points


def split_two_classes(maps: Tensor, levels: int = 256) -> Tensor:
    """Divide each map optimally into dark and bright: exact two-means of its grey levels.

    Two-means classes on a line are intervals, so the smallest within-class sum of squares is found by trying
    every threshold, where k-means from random starts may stop at a local optimum. Otsu's threshold is the
    same one: the sums of squares within and between the classes add up to that of the map, so the smallest of
    the one is the largest of the other.

    Args:
        maps: [P, h, w], 0..1. Each value counts as the nearest grey level, as in the published 8-bit pictures
            (methods.md 2.1, step 3).
        levels: number of grey levels.

    Returns:
        Thresholds [P], float32 (float64 for float64 maps): ``map > threshold`` is the bright class. Of
        equally good thresholds it is the lowest. A map of one grey level cannot be divided, so its threshold
        is infinite and it has no foreground. (Published k-means always finds one.)

    Raises:
        ValueError: another shape, values outside 0..1 or NaN, or fewer than 2 levels.
    """
    if levels < 2:
        raise ValueError(f"Two classes need at least 2 grey levels, got {levels}.")
    maps = _check_maps(maps)
    # Values are compared with the thresholds that may be returned, because value * 255, rounded, could differ
    # from the mask in its last bit.
    edges = ((torch.arange(levels - 1, dtype=torch.float64, device=maps.device) + 0.5) / (levels - 1)).to(
        maps.dtype
    )
    level = torch.bucketize(maps.flatten(1), edges)
    rows = torch.arange(len(maps), device=maps.device)[:, None]
    counts = torch.bincount((level + rows * levels).flatten(), minlength=len(maps) * levels).reshape(
        -1, levels
    )
    pixels = counts.cumsum(1)  # of the dark class, by its brightest level
    brightness = (counts * torch.arange(levels, device=maps.device)).cumsum(1)
    # Whole numbers up to here, so no order of summation can matter. Between-class sum of squares, times the
    # pixels of the map: (S n - N s)^2 / (n (N - n)), n of N pixels in the dark class, s of the brightness S.
    difference = brightness[:, -1:] * pixels - pixels[:, -1:] * brightness
    sizes = pixels * (pixels[:, -1:] - pixels)
    between = (difference.double().square() / sizes.clamp(min=1))[:, :-1]  # an empty class has difference 0
    best = between.argmax(1)  # the first of equals
    return torch.where(between.amax(1) > 0, edges[best], torch.inf)


def coarse_masks(
    maps: Tensor, method: SplitMethod = "two_means", threshold: float = FIXED_THRESHOLD
) -> Tensor:
    """The bright part of each map.

    Args:
        maps: [P, h, w], 0..1, in the size in which they are to be divided (published: 256 x 256, nearest).
        method: "two_means", each map by its own `split_two_classes`, or "fixed", all by ``threshold``.
        threshold: 0..1, of the method "fixed".

    Returns:
        bool [P, h, w]; a mask may be empty.

    Raises:
        ValueError: another shape or method, or values or a threshold outside 0..1.
    """
    if method not in get_args(SplitMethod):
        raise ValueError(
            f"There is no method {method!r} to divide a map. Methods: {', '.join(get_args(SplitMethod))}."
        )
    maps = _check_maps(maps)
    if method == "two_means":
        return maps > split_two_classes(maps)[:, None, None]
    if not 0 <= threshold <= 1:
        raise ValueError(f"The threshold must be from 0 to 1, got {threshold}.")
    return maps > threshold


def components(
    mask: NDArray[np.bool_],
    saliency: NDArray[np.floating],
    *,
    most: int,
    least_area: float = 0.0,
    least_confidence: float = 0.0,
) -> NDArray[np.bool_]:
    """The largest components of a mask, from which SAM is prompted (methods.md 2.1, step 3).

    Pixels that touch by a side or a corner are connected. Of equally large components the one whose first
    pixel in raster order comes earlier goes first, and never more than ``most`` are kept (published: ties
    keep more, and the limits on area and confidence have no effect, methods.md 2.6 d).

    Args:
        mask: bool [h, w].
        saliency: [h, w], 0..1.
        most: how many components to keep at most.
        least_area: components with a smaller share of the map are dropped first.
        least_confidence: so are components with a lower mean saliency.

    Returns:
        bool [C, h, w], C from 0 to ``most``, the largest first.

    Raises:
        ValueError: shapes differ or are not [h, w], or ``most`` is below 1.
    """
    if mask.ndim != 2 or mask.shape != saliency.shape:
        raise ValueError(
            f"Mask and saliency must both be [h, w], got {list(mask.shape)} and {list(saliency.shape)}."
        )
    if most < 1:
        raise ValueError(f"At least one component must be allowed, got {most}.")
    labels, count = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
    flat = labels.ravel()
    areas = np.bincount(flat, minlength=count + 1)[1:]
    confidences = np.bincount(flat, weights=saliency.ravel(), minlength=count + 1)[1:] / areas
    _, first = np.unique(flat[flat > 0], return_index=True)
    kept = [
        index
        for index in np.lexsort((first, -areas))
        if areas[index] / mask.size >= least_area and confidences[index] >= least_confidence
    ]
    numbers = np.array(kept[:most], dtype=np.int64) + 1
    return labels[None] == numbers[:, None, None]


def boxes(components: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The box around each component: its first and last column and row.

    All corners are pixels of the map (methods.md 2.1, step 4; published: x1 and y1 lie one pixel further
    where the map has one). One box around several components is that of their union,
    ``boxes(components.any(0, keepdims=True))``.

    Args:
        components: bool [C, h, w].

    Returns:
        [C, 4]: x0, y0, x1, y1.

    Raises:
        ValueError: another shape, or a component without a pixel.
    """
    if components.ndim != 3:
        raise ValueError(f"Components must be [C, h, w], got {list(components.shape)}.")
    columns, rows = components.any(1), components.any(2)
    if not columns.any(1).all():
        raise ValueError(
            f"Component {int(columns.any(1).argmin())} has no pixel, so there is no box around it."
        )
    height, width = components.shape[1:]
    corners = (
        columns.argmax(1),
        rows.argmax(1),
        width - 1 - columns[:, ::-1].argmax(1),
        height - 1 - rows[:, ::-1].argmax(1),
    )
    return np.stack(corners, 1).astype(np.int64)


def points(
    component: NDArray[np.bool_], positive: int, negative: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw random pixels as point prompts for SAM (methods.md 2.1, step 5).

    No pixel is drawn twice. Where there are fewer pixels, all of them are taken (published: a crash,
    methods.md 2.6 g). A larger number keeps the pixels of a smaller one.

    Args:
        component: bool [h, w]. Where a word has several components, give their union, because otherwise a
            negative point may fall onto another one.
        positive: how many pixels inside (published: 10).
        negative: how many pixels outside (published: 0 or 10).
        seed: decides the draw alone.

    Returns:
        Coordinates [n, 2] as x, y, and labels [n], 1 inside and 0 outside.

    Raises:
        ValueError: another shape, or a negative number.
    """
    if component.ndim != 2:
        raise ValueError(f"A component must be [h, w], got {list(component.shape)}.")
    if positive < 0 or negative < 0 or seed < 0:
        raise ValueError(
            f"Numbers of points and the seed must not be negative, got {positive}, {negative} and {seed}."
        )
    # One order of all pixels, whatever the component: raw bits of a bit generator stay the same in every
    # release of numpy, draws may not.
    order = np.argsort(np.random.Philox(key=seed).random_raw(component.size), kind="stable")
    inside = component.ravel()[order]
    chosen = np.concatenate([order[inside][:positive], order[~inside][:negative]])
    labels = np.where(component.ravel()[chosen], POSITIVE, NEGATIVE)
    y, x = np.divmod(chosen, component.shape[1])
    return np.stack([x, y], 1).astype(np.int64), labels.astype(np.int64)


def _check_maps(maps: Tensor) -> Tensor:
    """The maps in float32 or float64; ValueError when they are not saliency maps."""
    if maps.ndim != 3 or not maps.is_floating_point():
        raise ValueError(
            f"Saliency maps must be floating-point [P, h, w], got {maps.dtype} {list(maps.shape)}."
        )
    if not ((maps >= -ROUNDING) & (maps <= 1 + ROUNDING)).all():  # written so that NaN fails, too
        raise ValueError("Saliency maps must lie in 0 to 1; normalise them first.")
    return maps if maps.dtype == torch.float64 else maps.float()
