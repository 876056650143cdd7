"""One resumable training loop for all stages.

The same seed and steps give the same weights, whether the run was interrupted or not. Knows modules, an
optimizer and a loss function; not what is learned.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from wordmask.files import replace_file
from wordmask.learning.losses import GRADIENT_LIMIT
from wordmask.learning.schedules import warm_up_steps
from wordmask.learning.seeds import step_generator

logger = logging.getLogger(__name__)

CHECKPOINT_EVERY = 250
LOG_EVERY = 50

LossFunction = Callable[[torch.Generator, int], dict[str, Tensor]]
"""(random numbers of this step, step) -> named losses; "loss" is the one that is minimised."""


def train(
    module: nn.Module,
    groups: list[dict[str, object]],
    loss_function: LossFunction,
    *,
    steps: int,
    seed: int,
    checkpoint: Path,
    warm_up: int = 100,
    weight_decay: float = 0.05,
) -> None:
    """Minimise ``loss_function`` with AdamW; a finished stage is not repeated.

    Args:
        module: what learns.
        groups: AdamW's parameter groups, each with its own "lr" (the peak).
        loss_function: makes the losses of a step.
        steps: of the whole training.
        seed: of everything random.
        checkpoint: file for the state, written every 250 steps.
        warm_up: steps in which the learning rate rises.
        weight_decay: of AdamW.
    """
    optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, betas=(0.9, 0.98))
    peaks = [group["lr"] for group in optimizer.param_groups]
    start = _resume(module, optimizer, checkpoint)
    module.train()
    history: list[dict[str, float]] = []
    began = time.monotonic()
    for step in range(start, steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * warm_up_steps(step, steps=steps, warm_up=warm_up)
        losses = loss_function(step_generator(seed, step), step)
        optimizer.zero_grad()
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(_parameters(groups), GRADIENT_LIMIT)
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
        if (step + 1) % LOG_EVERY == 0:
            _log(
                checkpoint.stem,
                step + 1,
                steps,
                history[-LOG_EVERY:],
                (time.monotonic() - began) / (step + 1 - start),
            )
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            _save(module, optimizer, step + 1, checkpoint)
    module.eval()


def _parameters(groups: list[dict[str, object]]) -> Iterator[nn.Parameter]:
    for group in groups:
        yield from group["params"]  # type: ignore[misc]


def _log(name: str, step: int, steps: int, history: list[dict[str, float]], seconds: float) -> None:
    names = dict.fromkeys(key for entry in history for key in entry)
    means = {key: [entry[key] for entry in history if key in entry] for key in names}
    text = "  ".join(f"{key} {sum(values) / len(values):.4f}" for key, values in means.items())
    logger.info("%s %d/%d  %s  %.2f s/step", name, step, steps, text, seconds)


def _save(module: nn.Module, optimizer: torch.optim.Optimizer, step: int, checkpoint: Path) -> None:
    """A run that is killed here leaves the last whole checkpoint."""
    with replace_file(checkpoint) as part:
        torch.save({"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)


def _resume(module: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    logger.info("%s continues at step %d", checkpoint.stem, state["step"])
    return int(state["step"])
