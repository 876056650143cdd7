"""Similarity maps, and the points and mask prompts that SAM's decoder gets from them.

Written from methods.md 4.1. The released code draws its points at random; here they are chosen, so that the
same slice and word always get the same mask. Knows maps; not SAM, CLIP or words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FLAT = 1e-6  # a map whose similarities differ by less says nothing
INSIDE, NO_POINT = 1, -1  # SAM's labels of points
LOGIT = 10.0  # of a pixel inside, as SAM writes logits of a mask
RELEASED_INSIDE = 255.0  # what the released code writes instead


def similarity_maps(similarity: Tensor, valid: Tensor) -> Tensor:
    """Stretch the similarity of each pair to 0..1 and enlarge it.

    The smallest and the largest value are those of patches that show the slice. A map without differences
    becomes 0.

    Args:
        similarity: [P, c, c].
        valid: bool [S, S], where SAM's input shows the slice.

    Returns:
        [P, S, S], 0..1; 0 in the padding.
    """
    side = similarity.shape[-1]
    shown = F.adaptive_max_pool2d(valid[None].float(), side)[0] > 0
    least = similarity.masked_fill(~shown, float("inf")).amin((1, 2), keepdim=True)
    largest = similarity.masked_fill(~shown, float("-inf")).amax((1, 2), keepdim=True)
    spread = largest - least
    stretched = (similarity - least) / torch.where(spread > FLAT, spread, torch.inf)
    maps = F.interpolate(
        stretched.clamp(0, 1)[:, None], size=valid.shape, mode="bilinear", align_corners=False
    )
    return maps[:, 0] * valid


def mask_prompts(maps: Tensor, side: int, threshold: float, *, released: bool) -> Tensor:
    """The part of each map above the threshold as a mask prompt, [P, 1, side, side].

    Args:
        maps: [P, S, S], 0..1.
        side: of the prompt, in pixels.
        threshold: 0..1.
        released: whether pixels are 0 or 255 as in the released code, instead of logits of -10 or 10.
    """
    small = F.interpolate(maps[:, None], size=(side, side), mode="bilinear", align_corners=False)
    inside = (small > threshold).to(maps)
    return inside * RELEASED_INSIDE if released else (2 * inside - 1) * LOGIT


def spread_points(maps: Tensor, count: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Choose points of each map above the threshold, far from each other.

    The first is where the map is largest; each further one is the candidate that is farthest from those
    before. Of equals, the first in reading order is taken. A map with fewer candidates gets fewer points.

    Args:
        maps: [P, S, S], 0..1.
        count: how many points at most.
        threshold: 0..1.

    Returns:
        Coordinates [P, count, 2] (x, y) in pixels, pixel i centred at i, and labels [P, count]: 1, or -1
        where there is no point.
    """
    places = maps.new_zeros(len(maps), count, 2)
    labels = torch.full((len(maps), count), NO_POINT, device=maps.device)
    for row, one in enumerate(maps):
        inside = candidates(one, threshold)
        if not len(inside):
            continue
        chosen = one[inside[:, 1], inside[:, 0]].argmax()
        nearest = torch.full((len(inside),), torch.inf, device=maps.device)
        for number in range(min(count, len(inside))):
            places[row, number], labels[row, number] = inside[chosen].to(maps), INSIDE
            distance = (inside - inside[chosen]).square().sum(1).to(nearest)
            nearest = torch.minimum(nearest, distance)
            chosen = nearest.argmax()
    return places, labels


def drawn_points(maps: Tensor, drawn: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The candidates that a lot has taken; a map without candidates gets no points.

    Args:
        maps: [P, S, S], 0..1.
        drawn: integer [P, n], counted among the candidates of the map in reading order.
        threshold: 0..1.

    Returns:
        Coordinates [P, n, 2] and labels [P, n], as `spread_points`.

    Raises:
        ValueError: a number is not one of a candidate.
    """
    places = maps.new_zeros(*drawn.shape, 2)
    labels = torch.full(tuple(drawn.shape), NO_POINT, device=maps.device)
    for row, (one, numbers) in enumerate(zip(maps, drawn, strict=True)):
        inside = candidates(one, threshold)
        if not len(inside):
            continue
        if numbers.min() < 0 or numbers.max() >= len(inside):
            raise ValueError(f"Map {row} has candidates 0 to {len(inside) - 1}, got {numbers.tolist()}.")
        places[row], labels[row] = inside[numbers].to(maps), INSIDE
    return places, labels


def candidates(one: Tensor, threshold: float) -> Tensor:
    """Pixels (x, y) of a map [S, S] above the threshold, in reading order: [n, 2]."""
    return (one > threshold).nonzero().flip(1)
