"""The contract that every text-prompted model fulfils.

A model takes 2-D slices and words. It does not know files, volumes, orientation or the server: the pipeline
alone maps its output back to original pixels. Row p of an output depends on its own slice and word alone,
never on the rest of the batch.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wordmask.data.letterbox import Letterbox
from wordmask.errors import RequestError
from wordmask.models.presets import Preset
from wordmask.words.prompts import Prompt

WORD_WIDTH = 128  # of vectors of words, for models without a text encoder


@dataclass(frozen=True)
class SliceKey:
    """Identifies a slice for the cache and for the noise, in the same way in every request.

    Attributes:
        digest: of the volume's voxels and geometry.
        plane: along which the volume is cut.
        index: of the slice along this plane.
    """

    digest: str
    plane: str
    index: int


@dataclass
class SliceFeatures:
    """A model's features of N slices of one size; they do not depend on the words.

    Attributes:
        keys: one per slice.
        tensors: name -> [N, ...], whatever the model needs.
        frames: branch of the model -> where its pixels lie in the slice.
    """

    keys: tuple[SliceKey, ...]
    tensors: dict[str, Tensor]
    frames: dict[str, Letterbox]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass
class PromptFeatures:
    """A model's features of K words.

    Attributes:
        prompts: the words.
        tensors: name -> [K, ...], whatever the model needs.
        known: bool [K], false where the text encoder or the training never met the word.
    """

    prompts: tuple[Prompt, ...]
    tensors: dict[str, Tensor]
    known: Tensor

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class Hints:
    """Hints that a person adds to a word, in pixels of slices (pixel i centred at i).

    Slices are counted along the slicing plane.

    Attributes:
        points: (slice, x, y, positive).
        box: (first slice, last slice, x0, y0, x1, y1), the same in all of these slices.
        masks: slice -> bool [h, w], a mask of the structure that is nearly right, for models that take masks.
    """

    points: tuple[tuple[int, float, float, bool], ...] = ()
    box: tuple[int, int, float, float, float, float] | None = None
    masks: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict)

    def kinds(self) -> frozenset[str]:
        """The kinds of hint that are given: "points", "box"."""
        given = {"points": self.points, "box": self.box}
        return frozenset(kind for kind, value in given.items() if value)

    def slices(self) -> frozenset[int]:
        """Indices of the slices with a hint."""
        boxed = () if self.box is None else range(self.box[0], self.box[1] + 1)
        return frozenset((*(point[0] for point in self.points), *boxed, *self.masks))


@dataclass(frozen=True)
class Capabilities:
    """What a model can do.

    Attributes:
        hints: the kinds of `Hints` that a person may give.
        masks: whether it uses the masks of `Hints`.
        prompt_sets: whether a request may choose a prompt set (`wordmask.words.prompt_sets`).
        presence: whether it judges a structure's presence in a slice before it segments the slice.
        attribution: whether it returns attribution maps.
    """

    hints: frozenset[str] = frozenset()
    masks: bool = False
    prompt_sets: bool = False
    presence: bool = False
    attribution: bool = False


@dataclass
class SegmenterOutput:
    """A model's output, one row per (slice, word) pair, in the pixels of ``frame``.

    Attributes:
        logits: [P, h, w], of the mask.
        frame: where these pixels lie in the slice.
        presence: [P], logit of "the structure is in the slice".
        uncertainty: [P, h, w], nats.
        attribution: [P, h, w], 0..1, for people to look at.
    """

    logits: Tensor
    frame: Letterbox
    presence: Tensor | None = None
    uncertainty: Tensor | None = None
    attribution: Tensor | None = None


class Segmenter(nn.Module, abc.ABC):
    """Base of all models; `load_segmenter` builds them.

    Attributes:
        name: of the model.
        capabilities: what it can do.
        preset: its numbers and limits.
        trained_words: keys of the words that the weights were trained on; empty for a model without such a
            list.
        sees_neighbours: whether `encode_slices` gets the slices before and after in the first and last
            channel, instead of the same grey values in all three.
    """

    name: str
    capabilities: Capabilities = Capabilities()
    trained_words: frozenset[str] = frozenset()
    sees_neighbours: bool = False

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @classmethod
    @abc.abstractmethod
    def from_preset(cls, preset: Any, weights: Path | None = None) -> Self:
        """Build the model and load its weights.

        Args:
            preset: an instance of the model's own preset class.
            weights: folder with the checkpoint of a published version; by default the preset's own weights.

        Raises:
            WeightsError: weights are missing, with the command to type, or damaged.
        """

    @classmethod
    def to_teach(cls, preset: Any, weights: Path | None = None) -> Self:
        """Build the model that words are taught to; as `from_preset`, unless it can do with fewer weights."""
        return cls.from_preset(preset, weights)

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Digest of all that `encode_slices` depends on (architecture and weights); part of the cache key."""

    @abc.abstractmethod
    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        """Compute the features of slices that do not depend on words.

        Args:
            slices: [N, 3, H, W] in 0..1, float32.
            keys: one per slice.
        """

    @abc.abstractmethod
    def encode_prompts(self, prompts: Sequence[Prompt]) -> PromptFeatures:
        """Compute the features of words, which do not depend on slices."""

    @abc.abstractmethod
    def forward(
        self,
        slices: SliceFeatures,
        prompts: PromptFeatures,
        pairs: Tensor | None = None,
        hints: Hints | None = None,
    ) -> SegmenterOutput:
        """Segment (slice, word) pairs.

        Args:
            slices: features of N slices.
            prompts: features of K words.
            pairs: [P, 2] integer, (slice, word); by default all pairs, slice by slice.
            hints: what a person marked.

        Raises:
            RequestError: the model cannot use such hints.
        """

    def presence(self, slices: SliceFeatures, prompts: PromptFeatures, pairs: Tensor) -> Tensor | None:
        """Logit [P] of "the structure of the word is in the slice", cheap enough to skip absent pairs.

        None when the model cannot judge it.
        """
        return None

    @property
    def word_width(self) -> int:
        """Length of `word_vector`."""
        return WORD_WIDTH

    def word_vector(self, prompt: Prompt) -> Tensor | None:
        """What the text encoder makes of a word, [word_width]; None where it never met the word."""
        return None

    def refuse_hints(self, hints: Hints | None) -> None:
        """Raise RequestError when hints are given; for models that take words only."""
        if hints is not None and hints.kinds():
            raise RequestError(
                f"Model {self.name!r} takes words only, not {', '.join(sorted(hints.kinds()))}."
            )

    def variants(self, prompt: Prompt) -> list[Segmenter]:
        """Models that might answer for the word as well as this one: where they disagree, it is unsure.

        With the same features and other random numbers, or with other networks. Empty for a model without
        such.
        """
        return []

    def answering(self, prompt: Prompt, *, picture: bool, hinted: bool) -> Segmenter:
        """The segmenter that answers for a word: this one, unless the word was taught with labelled cases.

        Args:
            prompt: the word.
            picture: whether the image is a picture and not a volume.
            hinted: whether a person gave points or a box with it.
        """
        return self

    def judges_presence(self, prompt: Prompt) -> bool:
        """Whether `presence` is reliable for this word.

        Otherwise every slice is segmented, and the mask alone decides.
        """
        return self.capabilities.presence


def all_pairs(slices: int, words: int, device: torch.device | str = "cpu") -> Tensor:
    """All (slice, word) pairs, slice by slice: [slices * words, 2]."""
    return torch.cartesian_prod(
        torch.arange(slices, device=device), torch.arange(words, device=device)
    ).reshape(-1, 2)
