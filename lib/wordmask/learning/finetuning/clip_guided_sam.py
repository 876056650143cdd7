"""How CLIP-Guided SAM learns from labelled slices (methods.md 4.4): adapters, prompt encoder, mask decoder.

A pair is prompted as a person will prompt it: by the word alone, by clicks, or by clicks that correct what
the word marked, in the shares of the recipe. CLIP is frozen and looks at each view once; the paper also tunes
the attention of CLIP's vision tower. SAM's image encoder is computed in every step, because adapters in all
of its blocks learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.learning.finetuning.adapter_trainee import AdapterTrainee, spelling, texts_of
from wordmask.learning.finetuning.pairs import PairRow
from wordmask.learning.finetuning.run import FineTuning
from wordmask.learning.guided_prompts import KnownTexts, PromptShares, draw_prompted
from wordmask.learning.losses import mask_and_iou_loss, presence_loss
from wordmask.learning.recipes import GuidedRecipe
from wordmask.models.base import PromptFeatures
from wordmask.models.clip_guided_sam.model import SEEN, CLIPGuidedSAM
from wordmask.models.clip_guided_sam.preset import CLIPGuidedSAMPreset


class CLIPGuidedSAMTrainee(AdapterTrainee):
    """A CLIP-Guided SAM whose adapters, prompt encoder and mask decoder learn."""

    model: CLIPGuidedSAM
    learned_parts = (
        "network.regular.",
        "network.semantic.",
        "network.sam.prompt_encoder.",
        "network.sam.mask_decoder.",
        "scores.",
    )

    def __init__(self, model: CLIPGuidedSAM, recipe: GuidedRecipe, words: Sequence[str]) -> None:
        super().__init__(model, recipe.rate, words)
        self.recipe, self.texts = recipe, KnownTexts(model)
        self.shares = PromptShares(recipe.word_only, recipe.clicks_only, recipe.clicks)

    @classmethod
    def start(
        cls, preset: CLIPGuidedSAMPreset, weights: Path | None, recipe: GuidedRecipe, words: Sequence[str]
    ) -> Self:
        return cls(CLIPGuidedSAM.for_training(preset, weights, texts_of(words)), recipe, words)

    def target_frame(self, size: tuple[int, int]) -> Letterbox:
        return self.model.logits_frame(size)

    def forward(self, rows: Sequence[PairRow], seed: int) -> dict[str, Tensor]:
        """Losses of one step.

        Returns:
            ``mask``: BCE + Dice + IoU; ``presence``: BCE, where the recipe wants it; ``loss``: their weighted
                sum.
        """
        generator = torch.Generator().manual_seed(seed)
        words = {word: number for number, word in enumerate(sorted({row.word for row in rows}))}
        texts = self.texts([spelling(word, self.recipe.synonyms, generator) for word in words])
        sizes: dict[tuple[int, ...], list[PairRow]] = {}  # slices of one size can be computed together
        for row in rows:
            sizes.setdefault(tuple(row.pixels.shape), []).append(row)
        parts = [self._draw(own, words, texts, generator) for own in sizes.values()]
        logits, targets, presence = (torch.cat(found) for found in zip(*parts, strict=True))
        losses = {"mask": mask_and_iou_loss(logits, targets)}
        total = losses["mask"]
        if self.recipe.presence_weight:
            losses["presence"] = presence_loss(presence, targets)
            total = total + self.recipe.presence_weight * losses["presence"]
        return {"loss": total, **losses}

    def ready(self) -> CLIPGuidedSAM:
        self.model.weights_changed()
        model: CLIPGuidedSAM = super().ready()
        return model

    def _draw(
        self,
        rows: Sequence[PairRow],
        words: dict[str, int],
        texts: PromptFeatures,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and targets [P, 4g, 4g] and presence logits [P] of pairs whose slices have one size."""
        model = self.model
        pixels = torch.stack([row.pixels for row in rows]).to(model.device)
        targets = torch.stack([row.target for row in rows]).to(model.device)
        seen = {name: torch.stack([row.features[name] for row in rows]).to(model.device) for name in SEEN}
        slices = model.start_slices(pixels, [row.key for row in rows], seen)
        pairs = torch.tensor([[number, words[row.word]] for number, row in enumerate(rows)])
        guided = model.guide(slices, texts, pairs)
        logits = draw_prompted(model, guided, targets, self.shares, generator)
        return logits.float(), targets, model.presence(slices, texts, pairs).float()


TRAINING = FineTuning(CLIPGuidedSAMTrainee, GuidedRecipe)
