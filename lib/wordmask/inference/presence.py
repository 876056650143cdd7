"""Is the thing in this slice, and in this volume, at all?

From the logits that a model gives for (slice, word) pairs and the limits of its preset. Knows numpy only; not
models, not volumes.
Where the limits come from: docs/presence.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wordmask.models.presets import PresencePreset
from wordmask.words.prompts import Prompt

Logits = NDArray[
    np.float32
]  # [n], one per slice along the slicing plane; NaN where a slice was not looked at

# slices in the moving mean: one slice with a high logit between two low ones is noise more often than an
# organ
NEIGHBOURS = 3


def volume_logit(logits: Logits) -> float:
    """The best place in the volume: maximum of the mean over `NEIGHBOURS` slices, skipped ones left out.

    -inf when all are skipped.
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
    """[n], which slices to segment: those looked at and not below the preset's ``slice_logit``."""
    if preset is None:
        return ~np.isnan(logits)
    with np.errstate(invalid="ignore"):
        return np.asarray(logits >= preset.slice_logit)


def is_present(logits: Logits, prompt: Prompt, preset: PresencePreset | None) -> bool:
    """Whether the word's thing is in the volume.

    Always true without a presence section, because nothing was calibrated then.
    """
    if preset is None:
        return True
    limit = preset.words.get(prompt.key, preset.volume_logit)
    return volume_logit(logits) >= limit


def is_large_enough(areas: NDArray[np.int64], slice_area: int, preset: PresencePreset | None) -> bool:
    """areas: marked pixels per slice. Whether the largest covers the preset's ``minimum_area`` of a slice."""
    return preset is None or int(areas.max(initial=0)) >= preset.minimum_area * slice_area


def probability(logit: float) -> float:
    """Logistic function of a presence logit, 0..1, without overflow."""
    return float(np.exp(-np.logaddexp(0.0, -logit)))
