"""A model with two numbers: it marks what is brighter than a level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from bright_model.preset import BrightPreset
from wordmask.data.letterbox import Letterbox
from wordmask.models.base import (
    Hints,
    PromptFeatures,
    Segmenter,
    SegmenterOutput,
    SliceFeatures,
    SliceKey,
    all_pairs,
)
from wordmask.weights.checkpoint import load_checkpoint
from wordmask.words.prompts import Prompt


class Bright(Segmenter):
    """Logits are (grey - level) * steepness."""

    name = "bright"
    preset: BrightPreset

    def __init__(self, preset: BrightPreset) -> None:
        super().__init__(preset)
        self.level = nn.Parameter(torch.tensor(preset.level))
        self.steepness = nn.Parameter(torch.tensor(20.0))

    @classmethod
    def from_preset(cls, preset: BrightPreset, weights: Path | None = None) -> Self:
        model = cls(preset)
        if weights is not None:
            load_checkpoint(weights).apply(model)
        return model

    @property
    def fingerprint(self) -> str:
        return f"bright-{self.preset.side}"

    def letterbox(self, size: tuple[int, int]) -> Letterbox:
        return Letterbox.fit(size, (self.preset.side, self.preset.side), "center")

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        letterbox = self.letterbox((slices.shape[-2], slices.shape[-1]))
        grey = letterbox.to_model(slices).mean(1)
        return SliceFeatures(tuple(keys), {"grey": grey}, {"square": letterbox})

    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        return PromptFeatures(tuple(prompts), {}, torch.ones(len(prompts), dtype=torch.bool))

    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        self.refuse_hints(hints)
        pairs = all_pairs(len(slices), len(prompts), self.device) if pairs is None else pairs
        grey = slices.tensors["grey"][pairs[:, 0]].float()
        return SegmenterOutput(self.draw(grey), slices.frames["square"])

    def draw(self, grey: Tensor) -> Tensor:
        return (grey - self.level) * self.steepness
