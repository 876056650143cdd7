"""Decides whether a structure is in a slice and in a volume at all.

It compares a model's presence logits of (slice, word) pairs with the limits of its preset, whose origin is
explained in docs/presence.md. Knows numpy only; not models or volumes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wordmask.models.presets import PresencePreset
from wordmask.words.prompts import Prompt

Logits = NDArray[np.float32]
"""[n], one per slice along the slicing plane; NaN where a slice was not judged."""

# Slices in the moving mean: a high logit between two low ones is more often noise than an organ.
NEIGHBOURS = 3


def volume_logit(logits: Logits) -> float:
    """The presence logit of a volume: the maximum of the mean over `NEIGHBOURS` slices.

    Skipped slices are left out; -inf when all are skipped.
    """
    known = ~np.isnan(logits)
    if not known.any():
        return float("-inf")
    kernel = np.ones(NEIGHBOURS)
    middle = slice(NEIGHBOURS // 2, NEIGHBOURS // 2 + len(logits))
    sums = np.convolve(np.where(known, logits, 0.0).astype(np.float64), kernel)[middle]
    counts = np.convolve(known.astype(np.float64), kernel)[middle]
    return float(np.max(sums[known] / counts[known]))


def worth_segmenting(logits: Logits, preset: PresencePreset | None) -> NDArray[np.bool_]:
    """Which slices to segment, [n]: those that were judged and are not below the preset's ``slice_logit``."""
    if preset is None:
        return ~np.isnan(logits)
    with np.errstate(invalid="ignore"):
        return np.asarray(logits >= preset.slice_logit)


def is_present(logits: Logits, prompt: Prompt, preset: PresencePreset | None) -> bool:
    """Whether the structure of the word is in the volume.

    Always true for a preset without a presence section, because nothing was calibrated for it.
    """
    if preset is None:
        return True
    limit = preset.words.get(prompt.key, preset.volume_logit)
    return volume_logit(logits) >= limit


def is_large_enough(areas: NDArray[np.int64], slice_area: int, preset: PresencePreset | None) -> bool:
    """Whether the largest marked area reaches the preset's ``minimum_area``.

    Args:
        areas: marked pixels per slice.
        slice_area: pixels of a slice.
        preset: None for a preset that has no limits.
    """
    return preset is None or int(areas.max(initial=0)) >= preset.minimum_area * slice_area


def probability(logit: float) -> float:
    """Logistic function of a presence logit, 0..1, without overflow."""
    return float(np.exp(-np.logaddexp(0.0, -logit)))
