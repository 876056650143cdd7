"""MedCLIP-SAMv2 with weak supervision (Medical Image Analysis 2025).

An ensemble of nnU-Nets that learned from the zero-shot masks.

Knows slices, the words that the networks were trained on, and their square; not volumes, not CLIP, not how
the networks were trained (wordmask.learning.weak). Written from methods.md 2.4. Differs from the released
code: uncertainty is the binary entropy in nats, and 0, not NaN, where the probability is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.encoders.fingerprint import fingerprint
from wordmask.errors import UntrainedError, WeightsError
from wordmask.models.base import (
    Hints,
    PromptFeatures,
    Segmenter,
    SegmenterOutput,
    SliceFeatures,
    SliceKey,
    all_pairs,
)
from wordmask.models.medclip_samv2_weak.network import Ensemble, read_plan
from wordmask.models.medclip_samv2_weak.preset import MedCLIPSAMv2WeakPreset
from wordmask.weights.checkpoint import Checkpoint, load_checkpoint
from wordmask.words.prompts import Prompt

CERTAIN = 1e-6  # a probability is kept so far from 0 and 1, for a logit to be a number
UNKNOWN = -1  # the channel of a word that has none


class MedCLIPSAMv2Weak(Segmenter):
    """One channel per word; nothing that a word changes is computed after `encode_slices`."""

    name = "medclip_samv2_weak"
    preset: MedCLIPSAMv2WeakPreset

    def __init__(
        self, preset: MedCLIPSAMv2WeakPreset, ensemble: Ensemble, words: Sequence[str], side: int
    ) -> None:
        """words: of the channels, in their order; side: of the networks' square, in pixels."""
        super().__init__(preset)
        self.ensemble, self.words, self.side = ensemble, tuple(words), side
        self.trained_words = frozenset(words)
        self._fingerprint: str | None = None

    @classmethod
    def from_preset(cls, preset: MedCLIPSAMv2WeakPreset, weights: Path | None = None) -> Self:
        """UntrainedError: no version was published yet.

        WeightsError: the version is damaged; BrokenEnvironmentError: without nnU-Net.
        """
        if weights is None:
            raise UntrainedError(
                f"The model {cls.name!r} has no weights before it was trained; train it on your own images, "
                "which need no labels: "
                f'`wordmask train IMAGES --model {cls.name} --words "WORDS" --preset {preset.name}`.'
            )
        return cls.from_checkpoint(preset, load_checkpoint(weights))

    @classmethod
    def from_checkpoint(cls, preset: MedCLIPSAMv2WeakPreset, checkpoint: Checkpoint) -> Self:
        """As `from_preset`, of a checkpoint in memory."""
        plan, card = read_plan(checkpoint.card), checkpoint.card
        if card.side is None or card.members is None or card.threshold is None:
            raise WeightsError(
                f"The card of the weights {checkpoint.name!r} lacks side, members or threshold; train them "
                "again."
            )
        if plan.outputs != 1 + len(checkpoint.words):
            raise WeightsError(
                f"The weights {checkpoint.name!r} have {plan.outputs - 1} channels for "
                f"{len(checkpoint.words)} words; train them again."
            )
        ensemble = Ensemble(plan, card.members)
        ensemble.load(checkpoint.tensors)
        return cls(
            preset.model_copy(update={"threshold": card.threshold}), ensemble, checkpoint.words, card.side
        )

    @property
    def fingerprint(self) -> str:
        """Of all networks and their square."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.ensemble, architecture=f"{self.name} {self.side}")
        return self._fingerprint

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        """slices: [N, 3, H, W] in 0..1.

        Keeps foreground [N, words, S, S], the mean probability over the ensemble.
        """
        frame = square_frame((slices.shape[-2], slices.shape[-1]), self.side)
        return SliceFeatures(
            tuple(keys), {"foreground": self.ensemble(frame.to_model(slices))}, {"square": frame}
        )

    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        """channel [K]: which one is the word's."""
        named = [prompt.key for prompt in prompts]
        channels = torch.tensor(
            [self.words.index(word) if word in self.trained_words else UNKNOWN for word in named]
        )
        return PromptFeatures(tuple(prompts), {"channel": channels.to(self.device)}, channels != UNKNOWN)

    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        """logits [P, S, S] in the networks' square, padding included; a word without a channel is nowhere.

        RequestError: hints, which this model cannot use.
        """
        self.refuse_hints(hints)
        if pairs is None:
            pairs = all_pairs(len(slices), len(prompts), self.device)
        rows, words = pairs.to(self.device).unbind(1)
        channels = prompts.tensors["channel"][words]
        foreground = slices.tensors["foreground"][rows, channels.clamp(min=0)].float()
        probability = foreground * (channels != UNKNOWN)[:, None, None]
        return SegmenterOutput(
            torch.logit(probability, eps=CERTAIN), slices.frames["square"], uncertainty=entropy(probability)
        )


def square_frame(size: tuple[int, int], side: int) -> Letterbox:
    """Where the networks' square lies in a slice of (height, width): in training and in use."""
    return Letterbox.fit(size, (side, side), "center")


def entropy(probability: Tensor) -> Tensor:
    """Of "here or not", in nats: 0..ln 2, exactly 0 at 0 and 1. Any shape."""
    return torch.special.entr(probability) + torch.special.entr(1 - probability)
