"""The baseline: MONAI's BasicUNet from scratch, behind the same contracts as our models.

Slices, views, validation and test are therefore the very same code.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from monai.networks.nets import BasicUNet
from torch import Tensor

from docs.experiments.pool import Task
from wordmask.data.letterbox import Letterbox
from wordmask.inference.cache import FeatureCache
from wordmask.learning.evaluation.validation import validate
from wordmask.learning.finetuning.engine import run_epochs
from wordmask.learning.finetuning.pairs import PairRow, TrainingPairs
from wordmask.learning.finetuning.trainee import Trainee
from wordmask.learning.losses import mask_loss
from wordmask.learning.recipes import Recipe
from wordmask.models.base import (
    Hints,
    PromptFeatures,
    Segmenter,
    SegmenterOutput,
    SliceFeatures,
    SliceKey,
    all_pairs,
)
from wordmask.models.presets import Preset
from wordmask.models.registry import load_preset
from wordmask.progress import CancelToken
from wordmask.words.prompts import Prompt

WIDTHS = (16, 16, 32, 64, 128, 16)
RATE = 1e-3
TIMED_STEPS = 4


class UNetSegmenter(Segmenter):
    """One word, known beforehand; keeps the pixels as features."""

    name = "unet"

    def __init__(self, preset: Preset, side: int) -> None:
        super().__init__(preset)
        self.side = side
        self.net = BasicUNet(spatial_dims=2, in_channels=1, out_channels=1, features=WIDTHS)

    @classmethod
    def from_preset(cls, preset: Preset, weights: Path | None = None) -> Self:
        """Has no weights of its own."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """Of the frame alone: pixels do not depend on weights."""
        return f"pixels-{self.side}"

    def frame(self, size: tuple[int, int]) -> Letterbox:
        """Where the net's square lies in a slice of (height, width)."""
        return Letterbox.fit(size, (self.side, self.side), "top_left")

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        """The slices' grey values in the net's square."""
        frame = self.frame((slices.shape[-2], slices.shape[-1]))
        return SliceFeatures(
            tuple(keys), {"pixels": frame.to_model(slices).mean(1, keepdim=True)}, {"net": frame}
        )

    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        """Empty features, because the net has one word."""
        return PromptFeatures(
            tuple(prompts), {"text": torch.zeros(len(prompts), 1)}, torch.ones(len(prompts), dtype=torch.bool)
        )

    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        """The net's logits; hints are not supported."""
        pairs = all_pairs(len(slices), len(prompts)) if pairs is None else pairs
        return SegmenterOutput(
            self.net(slices.tensors["pixels"][pairs[:, 0]].float())[:, 0], slices.frames["net"]
        )


class UNetTrainee(Trainee):
    """A U-Net that learns as a whole."""

    def __init__(self, segmenter: UNetSegmenter) -> None:
        super().__init__()
        self.segmenter = self.model = segmenter

    @classmethod
    def start(cls, preset: Preset, weights: Path | None, recipe: Recipe, words: Sequence[str]) -> Self:
        """Is made directly."""
        raise NotImplementedError

    def target_frame(self, size: tuple[int, int]) -> Letterbox:
        """The net's own pixels."""
        return self.model.frame(size)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All."""
        return [{"params": list(self.parameters()), "lr": RATE}]

    def forward(self, rows: Sequence[PairRow], seed: int) -> dict[str, Tensor]:
        """Our models' mask loss."""
        self.model.train()
        pixels = torch.stack([row.features["pixels"] for row in rows]).float()
        return {"loss": mask_loss(self.model.net(pixels)[:, 0], torch.stack([row.target for row in rows]))}

    def ready(self) -> Segmenter:
        return self.model.eval()

    def state(self) -> dict[str, Tensor]:
        """All."""
        return {name: tensor.clone() for name, tensor in self.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.load_state_dict(state)

    def card(self) -> dict[str, Any]:
        """Is never published."""
        return {}


def train_unet(
    task: Task, learned: Sequence[Any], judges: Sequence[Any], recipe: Recipe, seconds: float
) -> tuple[Segmenter, int]:
    """Train from scratch for ``seconds`` of processor time on the same slices, views and judges.

    Returns the net and how many epochs it ran.
    """
    torch.manual_seed(recipe.seed)
    trainee = UNetTrainee(
        UNetSegmenter(
            load_preset("simple_vilmedsam", "tiny").model_copy(update={"presence": None}), task.unet_side
        )
    )
    cache = FeatureCache(4 << 30)
    data = TrainingPairs(learned, trainee.segmenter, recipe, cache, frame_of=trainee.target_frame)
    data.encode(lambda done, total: None)
    began = time.process_time()
    for step in range(TIMED_STEPS):
        trainee([data.row(data.present[n % len(data.present)], 0) for n in range(recipe.batch)], seed=step)[
            "loss"
        ].backward()
    per_step = (time.process_time() - began) / TIMED_STEPS
    trainee = UNetTrainee(UNetSegmenter(trainee.segmenter.preset, task.unet_side))
    steps = recipe.steps_per_epoch or 1
    epochs = max(2, round((seconds - per_step * TIMED_STEPS) / per_step / steps))
    # The judges are looked at as often as in our training.
    every = max(1, round(epochs / (recipe.epochs / recipe.validate_every)))
    longer = recipe.model_copy(update={"epochs": epochs, "validate_every": every, "patience": epochs})
    own = FeatureCache(1 << 30)
    outcome = run_epochs(
        trainee,
        data,
        longer,
        device=torch.device("cpu"),
        tell=lambda epoch: None,
        cancel=CancelToken(),
        validate=(lambda: validate(trainee.ready(), judges, own).mean) if judges else None,
    )
    return trainee.ready(), outcome.epochs
