"""The epochs of a training on MONAI's engine: steps, learning rates, validation, early stop, and going back to the best epoch.

Knows trainees and pairs; not where cases come from, not what is published.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.utils.enums import CommonKeys
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wordmask.progress import CancelToken
from wordmask.training.pair_data import EpochSampler, PairRow, TrainingPairs
from wordmask.training.recipes import Recipe
from wordmask.training.trainee import Trainee

logger = logging.getLogger(__name__)

GRADIENT_LIMIT = 1.0
LOWEST_RATE = 0.01  # of the peak, at the end


@dataclass(frozen=True)
class Epoch:
    """number: from 1; loss: of its last step; dice: on the validation cases, None when they were not looked at."""

    number: int
    loss: float
    dice: float | None


@dataclass(frozen=True)
class Outcome:
    """epochs: how many were run; best: Dice of the epoch whose weights the trainee has now, None without validation."""

    epochs: int
    best: float | None


class _Rows(Dataset[PairRow]):
    def __init__(self, data: TrainingPairs) -> None:
        self.data = data

    def __getitem__(self, place: Any) -> PairRow:
        return self.data.row(*place)


def run_epochs(
    trainee: Trainee,
    data: TrainingPairs,
    recipe: Recipe,
    *,
    device: torch.device,
    validate: Callable[[], float] | None,
    tell: Callable[[Epoch], None],
    cancel: CancelToken,
) -> Outcome:
    """Train until the recipe's end, and leave the trainee with the weights of its best validation (the last ones without any).

    validate: Dice of the trainee as it is. CancelledError between two steps.
    """
    sampler = EpochSampler(data, recipe)
    loader = DataLoader(_Rows(data), batch_sampler=sampler, collate_fn=list)
    optimizer = torch.optim.AdamW(trainee.parameter_groups(), weight_decay=recipe.weight_decay)
    steps = math.ceil(len(sampler) / recipe.accumulate) * recipe.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps, recipe.warm_up))
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=recipe.epochs,
        train_data_loader=loader,
        network=trainee,
        optimizer=optimizer,
        loss_function=lambda losses: losses["loss"],
        iteration_update=_Step(recipe, len(sampler), schedule, cancel),
        amp=device.type == "cuda",
    )
    watch = _Watch(trainee, recipe, validate, tell)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, watch)
    trainer.run()
    watch.restore()
    return Outcome(trainer.state.epoch, watch.best)


def rate(step: int, steps: int, warm_up: float) -> float:
    """Factor on the learning rate: linear to 1 over the share ``warm_up`` of all steps, then a cosine to 0.01 (methods.md 1.6)."""
    rising = warm_up * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    share = min(1.0, (step - rising) / max(1.0, steps - rising))
    return LOWEST_RATE + (1 - LOWEST_RATE) * (0.5 + 0.5 * math.cos(math.pi * share))


class _Step:
    """One iteration of the engine: losses, gradients, and the weights' change after every ``accumulate`` of them."""

    def __init__(self, recipe: Recipe, steps_per_epoch: int, schedule: torch.optim.lr_scheduler.LRScheduler, cancel: CancelToken) -> None:
        self.recipe, self.steps_per_epoch, self.schedule, self.cancel = recipe, steps_per_epoch, schedule, cancel

    def __call__(self, engine: Any, rows: Sequence[PairRow]) -> dict[str, Tensor]:
        self.cancel.check()
        step = engine.state.iteration - 1
        place = step % self.steps_per_epoch
        with torch.autocast(engine.state.device.type, dtype=torch.bfloat16, enabled=engine.amp):
            losses: dict[str, Tensor] = engine.network(rows, seed=self.recipe.seed * 1_000_003 + step)
        (losses["loss"] / self.recipe.accumulate).backward()
        if (place + 1) % self.recipe.accumulate == 0 or place + 1 == self.steps_per_epoch:  # nothing is left over for the next epoch
            torch.nn.utils.clip_grad_norm_([p for g in engine.optimizer.param_groups for p in g["params"]], GRADIENT_LIMIT)
            engine.optimizer.step()
            engine.optimizer.zero_grad()
            self.schedule.step()
        return {CommonKeys.LOSS: losses["loss"].detach()}


class _Watch:
    """At the end of every epoch: validate, remember the best weights, tell, and end the training when it is time."""

    def __init__(
        self, trainee: Trainee, recipe: Recipe, validate: Callable[[], float] | None, tell: Callable[[Epoch], None]
    ) -> None:
        self.trainee, self.recipe, self.validate, self.tell = trainee, recipe, validate, tell
        self.best: float | None = None
        self._kept: dict[str, Tensor] | None = None
        self._since_best = 0
        self._began = time.monotonic()

    def __call__(self, engine: Engine) -> None:
        number = engine.state.epoch
        late = self.recipe.minutes is not None and time.monotonic() - self._began > 60 * self.recipe.minutes
        dice = None
        if self.validate is not None and (number % self.recipe.validate_every == 0 or late or number == self.recipe.epochs):
            dice = self.validate()
            self._remember(dice)
        output: Any = engine.state.output
        self.tell(Epoch(number, float(output[CommonKeys.LOSS]), dice))
        if late or self._since_best >= self.recipe.patience:
            engine.terminate()

    def _remember(self, dice: float) -> None:
        if self.best is None or dice > self.best:
            self.best, self._kept, self._since_best = dice, self.trainee.state(), 0
        else:
            self._since_best += 1

    def restore(self) -> None:
        """The weights of the best epoch."""
        if self._kept is not None:
            self.trainee.load_state(self._kept)
