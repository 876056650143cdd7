"""The contract that every text-prompted model fulfils.

A model sees 2-D slices and words. It does not know files, volumes, orientation or the server: the pipeline
alone maps what it returns back to original pixels. Row p of an output depends on its own slice and word
alone, never on the rest of the batch.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from wordmask.data.letterbox import Letterbox
from wordmask.errors import RequestError
from wordmask.models.presets import Preset
from wordmask.words.prompts import Prompt


@dataclass(frozen=True)
class SliceKey:
    """What a slice is, for the cache and for the noise.

    The same slice of the same volume has the same key in every request.
    """

    digest: str
    plane: str
    index: int


@dataclass
class SliceFeatures:
    """What a model keeps of N slices of one size: nothing here depends on the words.

    tensors: name -> [N, ...], what the model needs; frames: branch -> where its pixels lie in the slice.
    """

    keys: tuple[SliceKey, ...]
    tensors: dict[str, Tensor]
    frames: dict[str, Letterbox]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass
class PromptFeatures:
    """What a model keeps of K words.

    known: bool [K], false where the text encoder or the training never met the word.
    """

    prompts: tuple[Prompt, ...]
    tensors: dict[str, Tensor]
    known: Tensor

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class Hints:
    """What a person adds besides a word, in (x, y) pixels of slices, pixel i centred at i, and indices along
    the slicing plane.

    points: (slice, x, y, positive); box: (first slice, last slice, x0, y0, x1, y1), the same in all of these
    slices.
    """

    points: tuple[tuple[int, float, float, bool], ...] = ()
    box: tuple[int, int, float, float, float, float] | None = None

    def kinds(self) -> frozenset[str]:
        """Which kinds of hint are given: a model refuses those that are not among its capabilities."""
        given = {"points": self.points, "box": self.box}
        return frozenset(kind for kind, value in given.items() if value)

    def slices(self) -> frozenset[int]:
        """Indices of the slices in which something is marked."""
        boxed = () if self.box is None else range(self.box[0], self.box[1] + 1)
        return frozenset((*(point[0] for point in self.points), *boxed))


@dataclass(frozen=True)
class Capabilities:
    """What a model can do.

    hints: kinds of `Hints` that it uses; prompt_sets: whether a request may choose one of them
    (`wordmask.words.prompt_sets`).
    """

    hints: frozenset[str] = frozenset()
    prompt_sets: bool = False
    presence: bool = False
    attribution: bool = False


@dataclass
class SegmenterOutput:
    """One row per (slice, word) pair, in the pixels of ``frame``.

    logits: [P, h, w]; presence: [P], logit of "the thing is in the slice"; uncertainty: [P, h, w], nats;
    attribution: [P, h, w], 0..1, for people to look at.
    """

    logits: Tensor
    frame: Letterbox
    presence: Tensor | None = None
    uncertainty: Tensor | None = None
    attribution: Tensor | None = None


class Segmenter(nn.Module, abc.ABC):
    """Base of all models.

    Subclasses set ``preset`` (numbers and limits) and are built by `load_segmenter`.
    """

    name: str
    capabilities: Capabilities = Capabilities()
    trained_words: frozenset[str] = (
        frozenset()
    )  # what the weights were trained on; empty: not limited to a list

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @classmethod
    @abc.abstractmethod
    def from_preset(cls, preset: Any, weights: Path | None = None) -> Self:
        """Build the model and load its weights.

        Args:
            preset: an instance of the model's own preset class.
            weights: folder with a checkpoint, of a published version, in place of the preset's own.

        Raises:
            WeightsError: weights are missing, with the command to type, or damaged.
        """

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of what `encode_slices` depends on (architecture and weights): part of the cache key."""

    @abc.abstractmethod
    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        """slices: [N, 3, H, W] in 0..1, float32; keys: one per slice. Computes what no word can change."""

    @abc.abstractmethod
    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        """Computes what no slice can change."""

    @abc.abstractmethod
    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        """pairs: [P, 2] integer, (slice, word); all pairs, slice-major, when None."""

    def presence(self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor) -> Tensor | None:
        """Logit [P] of "the word's thing is in the slice", cheap enough to skip absent pairs.

        None when the model cannot tell.
        """
        return None

    def refuse_hints(self, hints: Hints | None) -> None:
        """For models of words only. RequestError: hints are given."""
        if hints is not None and hints.kinds():
            raise RequestError(
                f"Model {self.name!r} takes words only, not {', '.join(sorted(hints.kinds()))}."
            )

    def with_other_noise(self, offset: int) -> Self | None:
        """The same weights and features with other random draws; None for a model whose masks draw none.

        Args:
            offset: added to the preset's seed.
        """
        return None

    def judges_presence(self, prompt: Prompt) -> bool:
        """Whether `presence` can be relied on for this word.

        Where not, every slice is segmented and the mask alone decides.
        """
        return self.capabilities.presence


def all_pairs(slices: int, words: int, device: torch.device | str = "cpu") -> Tensor:
    """[slices * words, 2], (slice, word), slice-major."""
    return torch.cartesian_prod(
        torch.arange(slices, device=device), torch.arange(words, device=device)
    ).reshape(-1, 2)
