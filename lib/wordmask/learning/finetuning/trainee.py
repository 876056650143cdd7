"""The contract between the training and a model: what learns, its losses, and what is saved.

Knows the segmenter contract and recipes; not data sets, not optimizers, not MONAI Label.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from wordmask.data.letterbox import Letterbox
from wordmask.learning.finetuning.pairs import PairRow
from wordmask.models.base import Segmenter


class Trainee(nn.Module, abc.ABC):
    """A model that learns.

    Attributes:
        segmenter: the model itself, usable for inference between two steps.
    """

    segmenter: Segmenter

    @classmethod
    @abc.abstractmethod
    def start(cls, preset: Any, weights: Path | None, recipe: Any, words: Sequence[str]) -> Self:
        """Load the model and make it ready to learn.

        Args:
            preset: an instance of the model's own preset class.
            weights: folder of the version to start from; None: the preset's own.
            recipe: an instance of the training's own recipe class.
            words: what is to be learned.

        Raises:
            WeightsError: weights are missing or damaged.
        """

    @abc.abstractmethod
    def target_frame(self, size: tuple[int, int]) -> Letterbox:
        """Where the pixels of the logits lie in a slice of (height, width)."""

    @abc.abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """AdamW's parameter groups, each with its peak "lr"; nothing else learns."""

    @abc.abstractmethod
    def forward(self, rows: Sequence[PairRow], seed: int) -> dict[str, Tensor]:
        """Losses of one step, by name.

        Args:
            rows: the batch.
            seed: of everything random in the step.

        Returns:
            ``loss`` is the one that is minimised; others are for people.
        """

    @abc.abstractmethod
    def ready(self) -> Segmenter:
        """The model as it is now, for inference: evaluation mode, trained words extended."""

    def limit_presence(self, limits: Mapping[str, float]) -> bool:
        """Let the model judge the presence of learned words by limits of the volume's presence logit.

        Replaces earlier limits. Returns False for a model that cannot judge learned words.
        """
        return False

    @abc.abstractmethod
    def state(self) -> dict[str, Tensor]:
        """A copy of what was trained since the public or bundled weights, as a version's file keeps it."""

    @abc.abstractmethod
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Return to an earlier `state`."""

    @abc.abstractmethod
    def card(self) -> dict[str, Any]:
        """What loading needs to know besides the tensors."""
