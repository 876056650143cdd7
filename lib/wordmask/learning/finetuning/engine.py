"""The epochs of a training on MONAI's engine: steps, learning rates, validation, early stopping.

At the end the trainee has the weights of the best epoch. Knows trainees, pairs and ranks; not where cases
come from, not what is published. A step is one batch; ``accumulate`` of them change the weights once. Several
ranks divide these among them, so that they do what one rank does, faster.
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

from wordmask.learning.finetuning.pairs import EpochSampler, PairRow, TrainingPairs
from wordmask.learning.finetuning.ranks import Ranks, RunningStatistics, Share
from wordmask.learning.finetuning.trainee import Trainee
from wordmask.learning.losses import GRADIENT_LIMIT
from wordmask.learning.recipes import FineTuningRecipe
from wordmask.learning.schedules import warm_up_share
from wordmask.learning.seeds import step_seed
from wordmask.progress import CancelToken

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """One epoch that is done.

    Attributes:
        number: from 1.
        loss: of its last step.
        dice: on the validation cases; None when they were not looked at.
    """

    number: int
    loss: float
    dice: float | None


@dataclass(frozen=True)
class Outcome:
    """The end of a training.

    Attributes:
        epochs: how many were run.
        best: Dice of the epoch whose weights the trainee has now; None without validation.
    """

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
    recipe: FineTuningRecipe,
    *,
    device: torch.device,
    validate: Callable[[], float] | None,
    tell: Callable[[Epoch], None],
    cancel: CancelToken,
) -> Outcome:
    """Train until the recipe's end, and leave the trainee with the weights of its best validation.

    Without validation, the trainee keeps the weights of the last epoch.

    Args:
        trainee: what learns.
        data: what to learn from.
        recipe: how.
        device: where to compute.
        validate: returns the Dice of the trainee as it is; called on the leading rank only, which alone has
            the best weights at the end.
        tell: called after each epoch.
        cancel: its ``cancel()`` ends the training with CancelledError between two steps.
    """
    ranks = Ranks()
    sampler = EpochSampler(data, recipe)
    loader = DataLoader(_Rows(data), batch_sampler=Share(sampler, ranks), collate_fn=list)
    optimizer = torch.optim.AdamW(trainee.parameter_groups(), weight_decay=recipe.weight_decay)
    accumulate = math.ceil(recipe.accumulate / ranks.count) * ranks.count
    steps = math.ceil(len(sampler) / accumulate) * recipe.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warm_up_share(step, steps=steps, warm_up=recipe.warm_up)
    )
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=recipe.epochs,
        train_data_loader=loader,
        network=trainee,
        optimizer=optimizer,
        loss_function=lambda losses: losses["loss"],
        iteration_update=_Step(
            recipe.seed, accumulate, len(sampler), schedule, RunningStatistics(trainee, ranks), cancel
        ),
        amp=device.type == "cuda",
        epoch_length=math.ceil(len(sampler) / ranks.count),
    )
    watch = _Watch(trainee, recipe, validate, tell, ranks)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, watch)
    trainer.run()
    watch.restore()
    return Outcome(trainer.state.epoch, watch.best)


class _Step:
    """One iteration of the engine: losses and gradients, and a change of the weights when it is due.

    It is due after every ``accumulate`` steps of all ranks.
    """

    def __init__(
        self,
        seed: int,
        accumulate: int,
        steps_per_epoch: int,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        statistics: RunningStatistics,
        cancel: CancelToken,
    ) -> None:
        self.seed, self.accumulate, self.steps_per_epoch = seed, accumulate, steps_per_epoch
        self.schedule, self.cancel = schedule, cancel
        self.statistics, self.ranks = statistics, statistics.ranks

    def __call__(self, engine: Any, rows: Sequence[PairRow]) -> dict[str, Tensor]:
        self.cancel.check()
        epoch, turn = divmod(engine.state.iteration - 1, engine.state.epoch_length)
        first = turn * self.ranks.count  # step of the leading rank in this epoch
        loss = torch.zeros(())
        if rows:
            with torch.autocast(engine.state.device.type, dtype=torch.bfloat16, enabled=engine.amp):
                step = epoch * self.steps_per_epoch + first + self.ranks.number
                loss = engine.network(rows, seed=step_seed(self.seed, step))["loss"]
            (loss / self.accumulate).backward()
        done = min(first + self.ranks.count, self.steps_per_epoch)
        self.statistics.join(done - first)
        # Also at the end of an epoch, so that no gradient is left over for the next one.
        if done % self.accumulate == 0 or done == self.steps_per_epoch:
            self._change(engine.optimizer)
        return {CommonKeys.LOSS: loss.detach()}

    def _change(self, optimizer: torch.optim.Optimizer) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if self.ranks.count > 1:
            self.ranks.add([_gradient(parameter) for parameter in parameters])
        torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_LIMIT)
        optimizer.step()
        optimizer.zero_grad()
        self.schedule.step()


def _gradient(parameter: Tensor) -> Tensor:
    """A rank without a batch, or one whose batch did not use this parameter, adds nothing."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


class _Watch:
    """At the end of every epoch: validates, remembers the best weights, reports, and ends the training."""

    def __init__(
        self,
        trainee: Trainee,
        recipe: FineTuningRecipe,
        validate: Callable[[], float] | None,
        tell: Callable[[Epoch], None],
        ranks: Ranks,
    ) -> None:
        self.trainee, self.recipe, self.ranks = trainee, recipe, ranks
        self.validate, self.tell = validate, tell
        self.best: float | None = None
        self._kept: dict[str, Tensor] | None = None
        self._since_best = 0
        self._began = time.monotonic()

    def __call__(self, engine: Engine) -> None:
        if self.ranks.broadcast_from_leader(lambda: self._look(engine)):
            engine.terminate()

    def _look(self, engine: Engine) -> bool:
        """Whether it is time to end."""
        number = engine.state.epoch
        late = self.recipe.minutes is not None and time.monotonic() - self._began > 60 * self.recipe.minutes
        dice = None
        if self.validate is not None and (
            number % self.recipe.validate_every == 0 or late or number == self.recipe.epochs
        ):
            dice = self.validate()
            self._remember(dice)
        output: Any = engine.state.output
        self.tell(Epoch(number, float(output[CommonKeys.LOSS]), dice))
        return late or self._since_best >= self.recipe.patience

    def _remember(self, dice: float) -> None:
        if self.best is None or dice > self.best:
            self.best, self._kept, self._since_best = dice, self.trainee.state(), 0
        else:
            self._since_best += 1

    def restore(self) -> None:
        """The weights of the best epoch."""
        if self._kept is not None:
            self.trainee.load_state(self._kept)
