"""How MedCLIPSeg learns from labelled slices (methods.md 3.3): the adapters, the mask head and the scores.

CLIP is frozen, and its layers before the first adapter are computed once per slice. A word is shown as people
type it in a share of the pairs, and in a sentence about the mask in the others. Every step draws one sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

from wordmask.inference.batching import join_slices
from wordmask.learning.finetuning.adapter_trainee import AdapterTrainee, texts_of
from wordmask.learning.finetuning.pairs import PairRow
from wordmask.learning.finetuning.run import FineTuning
from wordmask.learning.losses import presence_loss
from wordmask.learning.prompt_styles import SENTENCE_WORDS, TRUE_STYLES, describe
from wordmask.learning.recipes import AdapterRecipe
from wordmask.models.medclipseg.model import MedCLIPSeg
from wordmask.models.medclipseg.network import FreeNoise
from wordmask.models.medclipseg.preset import MedCLIPSegPreset
from wordmask.words.vocabulary import synonyms_of

TEMPERATURE = 0.2  # of the contrast between texts

_image_dice = DiceLoss(sigmoid=True)
_row_dice = DiceLoss(sigmoid=True, include_background=False)


class MedCLIPSegTrainee(AdapterTrainee):
    """A MedCLIPSeg whose adapters, mask head and scores learn."""

    model: MedCLIPSeg
    learned_parts = ("network.adapters.", "network.mask_head.", "network.upscale.", "scores.")

    def __init__(self, model: MedCLIPSeg, recipe: AdapterRecipe, words: Sequence[str]) -> None:
        super().__init__(model, recipe.rate, words)
        self.recipe = recipe

    @classmethod
    def start(
        cls, preset: MedCLIPSegPreset, weights: Path | None, recipe: AdapterRecipe, words: Sequence[str]
    ) -> Self:
        texts = [*SENTENCE_WORDS, *texts_of(words)]
        return cls(MedCLIPSeg.for_training(preset, weights, texts), recipe, words)

    def forward(self, rows: Sequence[PairRow], seed: int) -> dict[str, Tensor]:
        """Losses of one step.

        Returns:
            ``mask``: half BCE, half Dice; ``contrast``: SoftCon; ``presence``: BCE; ``loss``: their weighted
                sum.
        """
        generator = torch.Generator().manual_seed(seed)
        model, network, device = self.model, self.model.network, self.model.device
        texts = [self._text(row, generator) for row in rows]
        tokens = model.clip.tokenizer(texts).to(device)
        if not model.preset.adapters.see_padding:
            tokens = tokens[:, : int(model.clip.text.real(tokens).sum(1).max())]
        slices = join_slices([row.features for row in rows], [row.key for row in rows], device)
        targets = torch.stack([row.target for row in rows]).to(device)
        with torch.no_grad():
            text = network.start_text(tokens)
        noise = FreeNoise(network.noise_shapes(tokens.shape[1]), len(rows), generator, device)
        draw = noise if model.preset.adapters.probabilistic else noise.mean
        found = network(slices.tensors["image"].float(), text, tokens, 1, draw)
        logits = model.draw(found)[0].float()
        losses = {"mask": _mask_loss(logits, targets, self.recipe.dice)}
        total = losses["mask"]
        if self.recipe.contrast_weight and len(rows) > 1:
            losses["contrast"] = contrast_loss(found.patches[0].mean(1), found.text[0])
            total = total + self.recipe.contrast_weight * losses["contrast"]
        if self.recipe.presence_weight:
            losses["presence"] = presence_loss(model.presence_logit(found), targets)
            total = total + self.recipe.presence_weight * losses["presence"]
        return {"loss": total, **losses}

    def _text(self, row: PairRow, generator: torch.Generator) -> str:
        """The word, now and then one of its synonyms, or a sentence about the mask."""
        bare, other, choice = torch.rand(3, generator=generator).tolist()
        if bare >= self.recipe.bare:
            style = TRUE_STYLES[int(choice * len(TRUE_STYLES))]
            return describe(row.word, row.target.numpy() > 0.5, style)
        others = synonyms_of(row.word)
        if others and other < self.recipe.synonyms:
            return others[int(choice * len(others))]
        return row.word


def _mask_loss(logits: Tensor, targets: Tensor, dice: str) -> Tensor:
    """Half BCE, half Dice of [P, s, s]."""
    overlap: Tensor = (
        _image_dice(logits[:, None], targets[:, None]) if dice == "image" else _row_dice(logits, targets)
    )
    return 0.5 * overlap + 0.5 * F.binary_cross_entropy_with_logits(logits, targets)


def contrast_loss(patches: Tensor, text: Tensor) -> Tensor:
    """Soft contrast between the pictures and the texts of a batch (SoftCon, methods.md 3.3).

    As in the released code: texts are not normalised, and similar texts are soft targets.

    Args:
        patches: [B, E], mean of the unit vectors of the patches.
        text: [B, E].
    """
    with torch.no_grad():
        alike = F.normalize(text @ text.T / TEMPERATURE, dim=-1).softmax(-1)
    scores = patches @ text.T / TEMPERATURE
    return (F.cross_entropy(scores, alike) + F.cross_entropy(scores.T, alike.T)) / 2


TRAINING = FineTuning(MedCLIPSegTrainee, AdapterRecipe)
