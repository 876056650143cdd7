"""Solves the linear member of a committee: one regression for each word, class-balanced, in closed form.

Knows samples and the member; not cases or files.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.learning.teaching.samples import Kind, Samples
from wordmask.models.taught.linear import LinearMember

PENALTY = 3.0  # on squared weights, of features in units of their spread


def solve_linear(member: LinearMember, samples: Mapping[Kind, Samples], rows: Mapping[str, int]) -> None:
    """Fit the weights of every word that some picture shows; others stay as they are.

    Args:
        member: gets the weights.
        samples: all of them; slices of volumes do not count.
        rows: word -> its row among the weights.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for kind, own in samples.items():
        for place, word in enumerate(kind.words):
            for pixels, mask in zip(own.pixels, own.masks, strict=True):
                if kind.picture and bool((mask[place] > 127).any()):
                    found.setdefault(word, []).extend(_cells(member, kind, pixels, mask[place]))
    for word, cells in found.items():
        weights, bias = _solve(torch.cat([one for one, _ in cells]), torch.cat([one for _, one in cells]))
        member.weights[rows[word]], member.bias[rows[word]] = weights, bias


def _cells(member: LinearMember, kind: Kind, pixels: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Features [cells, channels] and share of the word [cells] of a picture, and of its mirror image."""
    views = []
    for mirrored in (False, True) if kind.mirror else (False,):
        seen = pixels.float()[None] / 127.5 - 1
        drawn = mask.float()[None, None] / 255
        shown = (pixels.float()[None] > 0).any(1, keepdim=True).float()
        if mirrored:
            seen, drawn, shown = seen.flip(-1), drawn.flip(-1), shown.flip(-1)
        features = member.features(seen)
        grid = features.shape[-1]
        inside = F.adaptive_avg_pool2d(shown, grid).flatten() > 0  # not the padding
        target = F.adaptive_avg_pool2d(drawn, grid).flatten()
        views.append((features[0].flatten(1).T[inside], target[inside]))
    return views


def _solve(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [channels] and bias of a ridge regression on -1..1, both classes weighing the same."""
    inside = target > 0.5
    if not inside.any():  # a structure smaller than a cell: its cells are those that it touches most
        inside = target >= target.max()
    counts = torch.where(inside, 0.5 / inside.sum(), 0.5 / (~inside).sum().clamp_min(1)).double()
    mean, spread = features.double().mean(0), features.double().std(0) + 1e-4
    ones = torch.ones(len(features), 1, dtype=torch.float64)
    scaled = torch.cat([(features.double() - mean) / spread, ones], 1)
    penalty = PENALTY * torch.eye(scaled.shape[1], dtype=torch.float64)
    penalty[-1, -1] = 0
    left = scaled.T @ (scaled * counts[:, None]) + penalty
    right = scaled.T @ ((2 * target.double() - 1) * counts)
    solved = torch.linalg.solve(left, right)
    weights = solved[:-1] / spread
    return weights.float(), (solved[-1] - (weights * mean).sum()).float()
