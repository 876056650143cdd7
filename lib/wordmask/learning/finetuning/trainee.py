"""The contract between the training and a model.

Which parts learn, what their losses are, what is saved of them.

Knows the segmenter contract and recipes; not data sets, not optimizers, not MONAI Label.
"""

from __future__ import annotations

import abc
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from wordmask.data.letterbox import Letterbox
from wordmask.errors import RequestError
from wordmask.learning.finetuning.pairs import PairRow
from wordmask.learning.recipes import Recipe
from wordmask.models.base import Segmenter, segmenter_class
from wordmask.models.presets import Preset, load_preset

TRAINEES = {  # model -> where its trainee lives
    "simple_vilmedsam": "wordmask.learning.finetuning.simple_vilmedsam:SimpleViLMedSAMTrainee",
}


class Trainee(nn.Module, abc.ABC):
    """A model that learns.

    `forward` takes the rows of one step and returns its losses; "loss" is the one that is minimised.

    segmenter: the model itself, usable for inference between two steps.
    """

    segmenter: Segmenter

    @classmethod
    @abc.abstractmethod
    def start(cls, preset: Preset, weights: Path | None, recipe: Recipe, words: Sequence[str]) -> Self:
        """weights: folder of the version to go on from, else the preset's own; words: what is to be learned.

        WeightsError.
        """

    @abc.abstractmethod
    def target_frame(self, size: tuple[int, int]) -> Letterbox:
        """Where the pixels of the logits lie in a slice of (height, width)."""

    @abc.abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """AdamW's parameter groups, each with its peak "lr"; nothing else learns."""

    @abc.abstractmethod
    def forward(self, rows: Sequence[PairRow], seed: int) -> dict[str, Tensor]:
        """Losses of one step. seed: of everything random in it."""

    @abc.abstractmethod
    def ready(self) -> Segmenter:
        """The model as it is now, for inference: evaluation mode, trained words extended."""

    @abc.abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What has been trained since the public or bundled weights.

        A copy, as it is kept in a version's file.
        """

    @abc.abstractmethod
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go back to what `state` gave."""

    @abc.abstractmethod
    def card(self) -> dict[str, Any]:
        """What loading needs to know besides the tensors."""


def start_trainee(
    model: str, preset: str, weights: Path | None, recipe: Recipe, words: Sequence[str]
) -> Trainee:
    """The trainee of a model; UnknownModelError, WeightsError; RequestError: this model cannot be trained."""
    segmenter_class(model)
    if model not in TRAINEES:
        raise RequestError(
            f"The model {model!r} cannot be trained yet; those that can: {', '.join(TRAINEES)}."
        )
    found: type[Trainee] = pkgutil.resolve_name(TRAINEES[model])
    return found.start(load_preset(model, preset), weights, recipe, words)
