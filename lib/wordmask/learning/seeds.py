"""Random numbers of one step of a training.

They depend on the seed and the step alone, so that a resumed run continues as if nothing had happened. Knows
torch; not what is learned.
"""

from __future__ import annotations

import torch

# A prime above the steps of any epoch, so that two (seed, step) of one training never share a number.
_SPREAD = 1_000_003


def step_seed(seed: int, step: int) -> int:
    """The seed of everything random in one step."""
    return seed * _SPREAD + step


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, apart from those of torch as a whole."""
    return torch.Generator().manual_seed(step_seed(seed, step))
