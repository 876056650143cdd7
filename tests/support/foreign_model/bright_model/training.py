"""How the bright model learns: WordMask's fine-tuning with this model's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from bright_model.model import Bright
from bright_model.preset import BrightPreset
from wordmask.data.letterbox import Letterbox
from wordmask.learning.finetuning.pairs import PairRow
from wordmask.learning.finetuning.run import FineTuning
from wordmask.learning.finetuning.trainee import Trainee
from wordmask.learning.losses import mask_loss
from wordmask.learning.recipes import Recipe


class BrightTrainee(Trainee):
    """Both numbers learn."""

    def __init__(self, model: Bright, words: Sequence[str]) -> None:
        super().__init__()
        self.segmenter = self.model = model
        self.words = tuple(words)

    @classmethod
    def start(cls, preset: BrightPreset, weights: Path | None, recipe: Recipe, words: Sequence[str]) -> Self:
        return cls(Bright.from_preset(preset, weights), words)

    def target_frame(self, size: tuple[int, int]) -> Letterbox:
        return self.model.letterbox(size)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.model.level, self.model.steepness], "lr": 0.02}]

    def forward(self, rows: Sequence[PairRow], seed: int) -> dict[str, Tensor]:
        grey = torch.stack([row.features["grey"] for row in rows]).float()
        return {"loss": mask_loss(self.model.draw(grey), torch.stack([row.target for row in rows]))}

    def ready(self) -> Bright:
        return self.model.eval()

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.model.load_state_dict(state)

    def card(self) -> dict[str, Any]:
        return {}


TRAINING = FineTuning(BrightTrainee)
