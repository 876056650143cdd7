"""The baseline: MONAI's BasicUNet from scratch, for one word that is known beforehand.

It learns from all cases, and holds none out. Slices, views, loss and steps are those of our own training
(`Fit`); it sees a picture mirrored, too, and whole images go through the same pipeline.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from docs.experiments.pool import Task
from wordmask.data.letterbox import Letterbox
from wordmask.learning.cases import LabelledVolume
from wordmask.learning.recipes import TeachingRecipe
from wordmask.learning.teaching.fit import Fit
from wordmask.learning.teaching.samples import Kind, Samples, collect
from wordmask.models.base import (
    Hints,
    PromptFeatures,
    Segmenter,
    SegmenterOutput,
    SliceFeatures,
    SliceKey,
    all_pairs,
)
from wordmask.models.loading import load_segmenter
from wordmask.models.presets import Preset
from wordmask.models.taught.committee import Committee
from wordmask.models.taught.networks import Member
from wordmask.models.taught.segmenter import show_picture
from wordmask.progress import CancelToken
from wordmask.weights.card import CommitteeCard, TaughtWord
from wordmask.words.prompts import Prompt

WIDTHS = (16, 16, 32, 64, 128, 16)
TIMED_STEPS = 15
# Chosen on development cases, with 10 cases and 120 seconds (docs/experiments.md).
CHANGES: Mapping[str, Any] = {"rate": 3e-3, "lean_picture_views": "medium", "volume_views": "weak"}


class _GreyUNet(nn.Module):
    """One grey channel, of a slice itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = BasicUNet(spatial_dims=2, in_channels=1, out_channels=1, features=WIDTHS)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.net(pixels[:, 1:2])
        return logits

    def learned_parts(self) -> tuple[nn.Module, ...]:
        return ()


class _OneWord(nn.Module):
    """The net's logits are those of the word."""

    def forward(self, features: Tensor, vectors: Tensor, frozen: Tensor | None = None) -> Tensor:
        return features[:, 0]


class UNetMember(Member):
    """A U-Net where `Fit` expects a network of a committee."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.kind = "lean"
        self.network = _GreyUNet()  # type: ignore[assignment]
        self.head = _OneWord()  # type: ignore[assignment]


class UNetSegmenter(Segmenter):
    """A trained U-Net behind the contract of our models.

    Args:
        preset: for windows and batches.
        member: what was trained.
        side: of its square, in pixels.
        mirrors: whether it also sees slices mirrored.
        stands_out: whether only the part that stands out is marked, as our model does in pictures.
    """

    name = "unet"

    def __init__(self, preset: Preset, member: UNetMember, side: int, *, mirrors: bool) -> None:
        super().__init__(preset.model_copy(update={"presence": None}))
        self.member, self.side, self.mirrors, self.stands_out = member, side, mirrors, False

    @classmethod
    def from_preset(cls, preset: Any, weights: Path | None = None) -> Self:
        """Not for this class: `train_unet` makes it."""
        raise TypeError("train_unet makes the baseline.")

    @property
    def fingerprint(self) -> str:
        """Of the frame alone: pixels do not depend on weights."""
        return f"unet-pixels-{self.side}"

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        """The slices' pixels in the net's square."""
        frame = Letterbox.fit((slices.shape[-2], slices.shape[-1]), (self.side, self.side), "top_left")
        return SliceFeatures(tuple(keys), {"pixels": frame.to_model(slices)}, {"net": frame})

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
        frame = slices.frames["net"]
        seen = slices.tensors["pixels"][pairs[:, 0]].float() * 2 - 1
        mean = self.member.features(seen)[:, 0].sigmoid()
        if self.mirrors:
            columns = max(1, round(frame.original[1] * frame.scale[1]))
            mean = (mean + _mirror(self.member.features(_mirror(seen, columns)), columns)[:, 0].sigmoid()) / 2
        mean = mean.clamp(1e-6, 1 - 1e-6)
        logits = mean.logit()
        if self.stands_out:
            word = TaughtWord(weights=(1.0,), single=True)
            logits = torch.stack([show_picture(*each, word) for each in zip(mean, logits, strict=True)])
        return SegmenterOutput(logits, frame)


def _mirror(maps: Tensor, columns: int) -> Tensor:
    return torch.cat([maps[..., :columns].flip(-1), maps[..., columns:]], dim=-1)


def train_unet(
    task: Task, cases: Sequence[LabelledVolume], seconds: float, seed: int, **changes: Any
) -> tuple[UNetSegmenter, int, float]:
    """Train from scratch for ``seconds`` of processor time; the timing of a step does not count.

    Returns:
        The net, its steps, and the processor seconds that went into timing.
    """
    began = time.process_time()
    recipe = TeachingRecipe.load("few_shot", seed=seed, **{**CHANGES, **changes})
    base = load_segmenter("simple_vilmedsam", preset="tiny", device="cpu")
    form = CommitteeCard(encoder=recipe.encoder, members=("lean",), sides=(task.unet_side,), words={})
    committee = Committee(form, torch.zeros(0, 1))
    samples = collect(cases, base, committee, frozenset(), cancel=CancelToken())
    spent = time.process_time() - began
    _fit(samples, recipe, 3)  # the first steps of a process are slow
    timed = time.process_time()
    _fit(samples, recipe, TIMED_STEPS)
    per_step = (time.process_time() - timed) / TIMED_STEPS
    timing = time.process_time() - began - spent
    steps = max(1, round((seconds - spent) / per_step))
    member = _fit(samples, recipe, steps)
    picture = any(kind.picture for kind in samples)
    return UNetSegmenter(base.preset, member, task.unet_side, mirrors=picture).eval(), steps, timing


def _fit(samples: Mapping[Kind, Samples], recipe: TeachingRecipe, steps: int) -> UNetMember:
    torch.manual_seed(recipe.seed)
    member = UNetMember()
    words = {word for kind in samples for word in kind.words}
    vectors = {word: torch.zeros(1) for word in words}
    Fit(member, 0, vectors, recipe, steps, torch.device("cpu")).run(samples, words)
    return member
