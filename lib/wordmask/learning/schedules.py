"""How the learning rate changes during a training: factors on its peak, from 0 to 1.

Pure functions, one for each training, because their sources differ. Steps and epochs count from 0.
"""

from __future__ import annotations

import math

LOWEST = 0.01  # of the peak, at the end of a fine-tuning


def warm_up_share(step: int, *, steps: int, warm_up: float) -> float:
    """Fine-tuning: linear to 1 over a share of all steps, then a cosine to `LOWEST` (methods.md 1.6).

    Args:
        step: from 0.
        steps: of the whole training.
        warm_up: share of the steps, 0..1, in which the rate rises.
    """
    rising = warm_up * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    share = min(1.0, (step - rising) / max(1.0, steps - rising))
    return LOWEST + (1 - LOWEST) * _half_cosine(share)


def warm_up_steps(step: int, *, steps: int, warm_up: int) -> float:
    """Pretraining: a cosine from 1 to 0 over all steps, times a linear rise over the first ``warm_up``."""
    return min(1.0, (step + 1) / warm_up) * _half_cosine(min(1.0, step / steps))


def decay_in_steps(epoch: int, *, decay: float, every: int) -> float:
    """Tuning of CLIP: times ``decay`` after every ``every`` epochs (methods.md 2.2)."""
    return decay ** (epoch // every)


def decay_in_cycles(epoch: int, *, epochs: int, cycles: int, gamma: float) -> float:
    """Weak supervision: falls within each cycle, and starts at 1 again in the next (methods.md 2.4).

    With T epochs in cycles of Tc, and tc the epoch within its cycle: 1 where tc is 0, else
    ``(1 - min(tc, floor(gamma * Tc)) / T) ** 0.9``.

    Source: the formula of the released code. T and not Tc is the denominator, so within one of several
    cycles the rate falls only a little (to 0.76 of the peak with 600 epochs in 3 cycles).
    """
    length = epochs // cycles
    within = min(epoch % length, math.floor(gamma * length))
    return (1 - within / epochs) ** 0.9


def _half_cosine(share: float) -> float:
    """From 1 at share 0 to 0 at share 1."""
    return 0.5 + 0.5 * math.cos(math.pi * share)
