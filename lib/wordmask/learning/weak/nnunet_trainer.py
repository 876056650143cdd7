"""nnU-Net's own planner and trainer, with what weak supervision changes in them (methods.md 2.4).

Knows nnU-Net and recipes; not words, not images. Importing it makes nnU-Net read its folders from the
environment, so only nnunet_process.py does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor
from torch.optim import Optimizer

from wordmask.learning.weak.recipe import WeakRecipe

SMALL_TURN = (-0.26, 0.26)  # radians: nnU-Net's own 15 degrees for patches that must not be turned all around
Tell = Callable[[int, int, float], None]  # steps that are done, of all, loss


class SquarePlanner(ExperimentPlanner):  # type: ignore[misc]  # nnU-Net has no types
    """nnU-Net's plan for slices of one size, with the recipe's width and batch."""

    def __init__(self, dataset: str, recipe: WeakRecipe) -> None:
        super().__init__(dataset)
        self.recipe = recipe
        self.UNet_base_num_features = self.UNet_reference_com_nfeatures = recipe.features
        self.UNet_max_features_2d = recipe.most_features

    def get_plans_for_configuration(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        """nnU-Net's plan, with the batch of the recipe where it names one."""
        plan: dict[str, Any] = super().get_plans_for_configuration(*arguments, **named)
        return plan | ({"batch_size": self.recipe.batch} if self.recipe.batch else {})


class CyclicRate:
    """Sets the recipe's learning rate; what nnU-Net asks of a scheduler."""

    def __init__(self, optimizer: Optimizer, recipe: WeakRecipe) -> None:
        self.optimizer, self.recipe = optimizer, recipe

    def step(self, epoch: int) -> None:
        """The rate of this epoch, 0-based."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_in(epoch)


class WeakTrainer(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's training on all slices under a cyclic learning rate; the ensemble is kept in ``members``.

    Loss, optimizer, deep supervision and augmentation are nnU-Net's. There is no validation, because
    agreement with a model's masks says little. There are no checkpoints, because nnU-Net's are pickles.
    """

    @classmethod
    def from_plan(
        cls,
        plans: dict[str, Any],
        dataset: dict[str, Any],
        recipe: WeakRecipe,
        device: torch.device,
        *,
        mirror: bool,
        tell: Tell,
    ) -> WeakTrainer:
        """Make the trainer of a plan.

        Args:
            plans: of `SquarePlanner`.
            dataset: content of dataset.json.
            recipe: how to train.
            device: where to compute.
            mirror: whether slices may be mirrored and turned all around.
            tell: called after each step.
        """
        trainer = cls({**plans, "continue_training": False}, "2d", "all", dataset, device=device)
        trainer.device = device  # it takes the first GPU, whichever is named
        trainer.recipe, trainer.mirror, trainer.tell = recipe, mirror, tell
        trainer.initial_lr, trainer.weight_decay = recipe.rate, recipe.weight_decay
        trainer.num_epochs, trainer.num_iterations_per_epoch = recipe.epochs, recipe.iterations
        trainer.num_val_iterations_per_epoch = 0
        trainer.disable_checkpointing = True
        trainer.steps = 0
        trainer.members = []
        return trainer

    recipe: WeakRecipe
    mirror: bool
    tell: Tell
    steps: int
    members: list[dict[str, Tensor]]

    def configure_optimizers(self) -> tuple[Optimizer, CyclicRate]:
        """nnU-Net's SGD (Nesterov, momentum 0.99) under the cyclic rate."""
        optimizer, _ = super().configure_optimizers()
        return optimizer, CyclicRate(optimizer, self.recipe)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802  # its spelling
        """nnU-Net mirrors and turns all around: a left kidney would then be learned as a right one."""
        angles, dummy, patch, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        return (angles, dummy, patch, axes) if self.mirror else (SMALL_TURN, dummy, patch, ())

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's step, followed by a report."""
        found: dict[str, Any] = super().train_step(batch)
        self.steps += 1
        self.tell(self.steps, self.num_epochs * self.num_iterations_per_epoch, float(found["loss"]))
        return found

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Does nothing, because nothing was validated."""

    def on_epoch_end(self) -> None:
        """Keep the network when it is a member, each weight once.

        nnU-Net's decoder holds the encoder, too.
        """
        if self.recipe.is_member(self.current_epoch):
            self.members.append(
                {name: value.detach().cpu().clone() for name, value in self.network.named_parameters()}
            )
        self.current_epoch += 1
