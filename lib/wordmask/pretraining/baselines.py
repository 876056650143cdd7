"""What simple rules reach on the samples: if a grey-value threshold or a mean mask came close to the model, the phantoms would be too easy.

Fitted on the training slices, per word and kind of picture; applied to whole volumes and pictures, as the model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import interpolate

from wordmask.data.geometry import Plane, slicing_for
from wordmask.data.slices import to_unit_range, window_named
from wordmask.data.volumes import read_volume
from wordmask.demo.samples import SampleCase, true_mask
from wordmask.learning.evaluation.metrics import dice
from wordmask.phantoms.pictures import KINDS
from wordmask.phantoms.words import WORDS, word_table
from wordmask.pretraining.phantom_data import SMALLEST_PRESENT, PhantomSlices
from wordmask.weights.checkpoint import bundle_folder

FILE = "baselines.safetensors"
BUNDLE = "bundled/simple_vilmedsam_tiny"
KIND_NAMES = ("CT", *KINDS)
ATLAS_SIZE = 40
LEVELS = 64
CUTS = tuple(cut / 20 for cut in range(1, 20))
MOST_SLICES = 400  # per word and kind; more changes nothing


def fit_baselines(data: PhantomSlices) -> dict[str, Tensor]:
    """Name -> tensor: ``threshold/KIND/WORD`` [2] (sign, grey value) and ``atlas/KIND/WORD`` [s, s] of 0 and 1."""
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
    """grey: [N, S, S] in 0..1; masks: [N, S, S]. The (sign, value) with the best mean Dice of ``sign * grey >= sign * value``.

    All thresholds at once, from the histograms of each slice and of its mask.
    """
    count = len(grey)
    index = (torch.arange(count).view(-1, 1, 1) * LEVELS + (grey * LEVELS).long().clamp(max=LEVELS - 1)).flatten()
    everything = torch.bincount(index, minlength=count * LEVELS).view(count, LEVELS).float()
    inside = torch.bincount(index, weights=masks.flatten(), minlength=count * LEVELS).view(count, LEVELS).float()
    best, chosen = -1.0, torch.zeros(2)
    for sign in (1.0, -1.0):
        below = [histogram.cumsum(1) for histogram in (inside, everything)]
        common, found = below if sign < 0 else [h - c + h.sum(1, keepdim=True) for h, c in zip((inside, everything), below, strict=True)]
        scores = (2 * common / (found + inside.sum(1, keepdim=True)).clamp(min=1)).mean(0)
        level = int(scores.argmax())
        if scores[level] > best:
            best, chosen = float(scores[level]), torch.tensor([sign, (level + (sign < 0)) / LEVELS])
    return chosen


def best_atlas(masks: Tensor) -> Tensor:
    """masks: [N, S, S]. Their mean, cut where the mean Dice with them is best: [s, s] of 0 and 1."""
    small = interpolate(masks[:, None], size=(ATLAS_SIZE, ATLAS_SIZE), mode="area")[:, 0]
    mean = small.mean(0)
    candidates = [(mean >= cut * mean.max()).float() for cut in CUTS]
    return max(candidates, key=lambda atlas: float(_mean_dice(atlas[None], (small > 0.5).float())))


def _mean_dice(found: Tensor, masks: Tensor) -> Tensor:
    overlap = (found * masks).sum((1, 2))
    return (2 * overlap / (found.sum((1, 2)) + masks.sum((1, 2))).clamp(min=1)).mean()


def save_baselines(folder: Path, fitted: dict[str, Tensor]) -> None:
    """Beside the weights."""
    save_file({name: tensor.contiguous() for name, tensor in fitted.items()}, folder / FILE)


def baseline_dice(cases: Sequence[SampleCase]) -> dict[str, dict[str, float]]:
    """Word -> mean Dice of ``threshold`` and ``atlas`` over the cases that show it."""
    fitted = load_file(bundle_folder(BUNDLE) / FILE)
    collected: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        grey, truth = _canonical(case)
        for word, values in case.words.items():
            mask = true_mask(truth, values)
            for name, found in _both(fitted, case.modality, word, grey).items():
                collected.setdefault(word, {}).setdefault(name, []).append(dice(found, mask))
    return {word: {name: float(np.mean(values)) for name, values in scores.items()} for word, scores in collected.items()}


def _both(fitted: dict[str, Tensor], kind: str, word: str, grey: NDArray[np.float32]) -> dict[str, NDArray[np.bool_]]:
    sign, value = fitted[f"threshold/{kind}/{word}"].tolist()
    atlas = interpolate(fitted[f"atlas/{kind}/{word}"][None, None], size=grey.shape[1:], mode="nearest")[0, 0].numpy() > 0.5
    return {"threshold": sign * grey >= sign * value, "atlas": np.broadcast_to(atlas, grey.shape)}


def _canonical(case: SampleCase) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Grey values [n, h, w] in 0..1 as the model sees them, and the truth on the same slices."""
    volume = read_volume(case.image)
    slicing = slicing_for(volume.geometry, Plane.AXIAL)
    window = window_named("soft_tissue") if volume.modality == "CT" else None
    grey = to_unit_range(volume, slicing.cut(volume.array), window).mean(1)
    truth = case.true_labels()
    return grey, slicing.cut(truth) if not volume.is_picture else truth
