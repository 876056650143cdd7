"""What simple rules reach on the samples: a grey-value threshold and a mean mask per word.

If they came close to the model, the phantoms would be too easy. Fitted on the training slices, per word and
kind of picture; `wordmask.demo.baselines` applies them to whole volumes and pictures.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from wordmask.phantoms.pictures import KINDS
from wordmask.phantoms.words import WORDS, word_table
from wordmask.pretraining.phantom_data import SMALLEST_PRESENT, PhantomSlices

FILE = "baselines.safetensors"
KIND_NAMES = ("CT", *KINDS)
ATLAS_SIZE = 40
LEVELS = 64
CUTS = tuple(cut / 20 for cut in range(1, 20))
MOST_SLICES = 400  # per word and kind; more changes nothing


def fit_baselines(data: PhantomSlices) -> dict[str, Tensor]:
    """Fit both baselines for every word and kind of picture.

    Returns:
        ``threshold/KIND/WORD`` -> [2] (sign, grey value), ``atlas/KIND/WORD`` -> [s, s] of 0 and 1.
    """
    table, fitted = word_table(), {}
    for kind, kind_name in enumerate(KIND_NAMES):
        rows = (data.kinds == kind).nonzero()[:, 0]
        grey = data.images[rows].float().mean(1) / 255
        labels = data.labels[rows].long()
        for number, word in enumerate(WORDS):
            masks = table[number][labels.clamp(max=table.shape[1] - 1)]
            there = (masks.mean((1, 2)) > SMALLEST_PRESENT).nonzero()[:, 0][:MOST_SLICES]
            if len(there) == 0:
                continue
            fitted[f"threshold/{kind_name}/{word}"] = best_threshold(grey[there], masks[there])
            fitted[f"atlas/{kind_name}/{word}"] = best_atlas(masks[there])
    return fitted


def best_threshold(grey: Tensor, masks: Tensor) -> Tensor:
    """The (sign, value) with the best mean Dice of ``sign * grey >= sign * value``.

    All thresholds are tried at once, on the histograms of each slice and of its mask.

    Args:
        grey: [N, S, S] in 0..1.
        masks: [N, S, S], 0 or 1.
    """
    count = len(grey)
    index = (
        torch.arange(count).view(-1, 1, 1) * LEVELS + (grey * LEVELS).long().clamp(max=LEVELS - 1)
    ).flatten()
    everything = torch.bincount(index, minlength=count * LEVELS).view(count, LEVELS).float()
    inside = (
        torch.bincount(index, weights=masks.flatten(), minlength=count * LEVELS).view(count, LEVELS).float()
    )
    best, chosen = -1.0, torch.zeros(2)
    for sign in (1.0, -1.0):
        below = [histogram.cumsum(1) for histogram in (inside, everything)]
        common, found = (
            below
            if sign < 0
            else [h - c + h.sum(1, keepdim=True) for h, c in zip((inside, everything), below, strict=True)]
        )
        scores = (2 * common / (found + inside.sum(1, keepdim=True)).clamp(min=1)).mean(0)
        level = int(scores.argmax())
        if scores[level] > best:
            best, chosen = float(scores[level]), torch.tensor([sign, (level + (sign < 0)) / LEVELS])
    return chosen


def best_atlas(masks: Tensor) -> Tensor:
    """The mean of masks [N, S, S], cut where its mean Dice with them is best: [s, s] of 0 and 1."""
    small = interpolate(masks[:, None], size=(ATLAS_SIZE, ATLAS_SIZE), mode="area")[:, 0]
    mean = small.mean(0)
    candidates = [(mean >= cut * mean.max()).float() for cut in CUTS]
    return max(candidates, key=lambda atlas: float(_mean_dice(atlas[None], (small > 0.5).float())))


def _mean_dice(found: Tensor, masks: Tensor) -> Tensor:
    overlap = (found * masks).sum((1, 2))
    return (2 * overlap / (found.sum((1, 2)) + masks.sum((1, 2))).clamp(min=1)).mean()


def save_baselines(folder: Path, fitted: dict[str, Tensor]) -> None:
    """Keep the baselines beside the weights; ``wordmask.demo.baselines`` reads them."""
    save_file({name: tensor.contiguous() for name, tensor in fitted.items()}, folder / FILE)
