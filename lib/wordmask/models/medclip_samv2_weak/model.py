"""MedCLIP-SAMv2 with weak supervision (Medical Image Analysis 2025): nnU-Nets that learned from its masks.

Written from methods.md 2.4. Differs from the released code: uncertainty is the binary entropy in nats, and 0,
not NaN, where the probability is 0 or 1. Knows slices, the words that the networks were trained on, and their
square; not volumes, CLIP, or how the networks were trained (wordmask.learning.weak).
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

CERTAIN = 1e-6  # a probability keeps at least this distance from 0 and 1, so that its logit is finite
UNKNOWN = -1  # stands for the channel of a word without one


class MedCLIPSAMv2Weak(Segmenter):
    """An ensemble of networks with one channel per word; words only select channels of its output."""

    name = "medclip_samv2_weak"
    preset: MedCLIPSAMv2WeakPreset

    def __init__(
        self, preset: MedCLIPSAMv2WeakPreset, ensemble: Ensemble, words: Sequence[str], side: int
    ) -> None:
        """Wrap an ensemble.

        Args:
            preset: of this model.
            ensemble: the networks.
            words: of the channels, in their order.
            side: of the networks' square, in pixels.
        """
        super().__init__(preset)
        self.ensemble, self.words, self.side = ensemble, tuple(words), side
        self.trained_words = frozenset(words)
        self._fingerprint: str | None = None

    @classmethod
    def from_preset(cls, preset: MedCLIPSAMv2WeakPreset, weights: Path | None = None) -> Self:
        """Build the model from a published version.

        Args:
            preset: of this model.
            weights: folder of the version.

        Raises:
            UntrainedError: no version was published yet.
            WeightsError: the version is damaged.
            BrokenEnvironmentError: nnU-Net is not installed.
        """
        if weights is None:
            raise UntrainedError(
                f"The model {cls.name!r} has no weights until it is trained; train it on your own images, "
                "which need no labels: "
                f'`wordmask train IMAGES --model {cls.name} --words "WORDS" --preset {preset.name}`.'
            )
        return cls.from_checkpoint(preset, load_checkpoint(weights))

    @classmethod
    def from_checkpoint(cls, preset: MedCLIPSAMv2WeakPreset, checkpoint: Checkpoint) -> Self:
        """Build the model from a checkpoint in memory, with the errors of `from_preset`."""
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
        """Digest of all networks and the size of their square."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.ensemble, architecture=f"{self.name} {self.side}")
        return self._fingerprint

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        """Compute the mean probability of every word over the ensemble.

        Args:
            slices: [N, 3, H, W] in 0..1.
            keys: one per slice.

        Returns:
            foreground [N, words, S, S].
        """
        frame = square_frame((slices.shape[-2], slices.shape[-1]), self.side)
        return SliceFeatures(
            tuple(keys), {"foreground": self.ensemble(frame.to_model(slices))}, {"square": frame}
        )

    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        """Find the channel of each word: channel [K]."""
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
        """Segment pairs, as `Segmenter.forward`: logits [P, S, S] in the networks' square, padding included.

        The mask of a word without a channel is empty.

        Raises:
            RequestError: hints are given, which this model cannot use.
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
    """Binary entropy of probabilities of any shape, in nats: 0..ln 2, exactly 0 at 0 and 1.

    In the tensor's own precision, on its device; `wordmask.inference.overlaps.binary_entropy` computes in
    float64, so the last bits differ.
    """
    return torch.special.entr(probability) + torch.special.entr(1 - probability)
