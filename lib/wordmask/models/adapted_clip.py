"""The common base of models whose network contains a CLIP and adapters: how words are read, weights are put
together, and when presence is judged.

Knows words, checkpoints and presets; not slices or what the network computes.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from wordmask.encoders.clip import ClipEncoder
from wordmask.encoders.tiny_tokenizer import token_ids_of
from wordmask.errors import WeightsError
from wordmask.models.base import Segmenter
from wordmask.models.clip_sam import with_rows
from wordmask.models.presets import PresencePreset, Preset
from wordmask.models.word_scores import WordScores
from wordmask.weights.checkpoint import load_checkpoint
from wordmask.words.prompts import Prompt

NEVER = -1e9  # a logit that no slice is below


class AdaptedClipSegmenter(Segmenter):
    """Base of models with a CLIP and trained adapters.

    Attributes:
        network: has the CLIP as ``clip``.
        scores: of cosines.
        has_adapters: whether the adapters were trained; otherwise every word is unknown.
        learned_words: words that were learned from labels; the preset's limits of presence were not made for
            them.
        without_adapters: the error of a preset whose adapters have to be trained first, with {preset}.
    """

    network: Any
    without_adapters: ClassVar[str]

    def __init__(self, preset: Preset, network: torch.nn.Module, trained_words: Sequence[str]) -> None:
        super().__init__(preset)
        self.network, self.scores = network, WordScores()
        self.trained_words = frozenset(trained_words)
        self.has_adapters = True
        self.learned_words: frozenset[str] = frozenset()
        self._limits: dict[str, float] = {}
        self._own_presence = preset.presence
        self._fingerprint: str | None = None

    @property
    def clip(self) -> ClipEncoder:
        """The encoder of words and slices."""
        encoder: ClipEncoder = self.network.clip
        return encoder

    @classmethod
    @abc.abstractmethod
    def untrained(cls, preset: Any, *, token_ids: Sequence[int] = (), words: Sequence[str] = ()) -> Self:
        """Build the preset's public encoders with adapters that were not trained.

        Args:
            preset: of the model.
            token_ids: for tiny, ids that have a row in the text table.
            words: that the weights were trained on; empty without such a list.

        Raises:
            WeightsError: weights are missing or damaged.
        """

    @classmethod
    def from_preset(cls, preset: Any, weights: Path | None = None) -> Self:
        """Build the preset with its trained weights.

        Args:
            preset: of this model.
            weights: folder of a published version, whose weights replace those of the preset.

        Raises:
            WeightsError: weights are missing or damaged, or there are no trained adapters for the preset.
        """
        if preset.weights is None and weights is None:
            raise WeightsError(cls.without_adapters.format(preset=repr(preset.name)))
        return cls.for_training(preset, weights)

    @classmethod
    def for_training(cls, preset: Any, weights: Path | None = None, texts: Sequence[str] = ()) -> Self:
        """Build the model for a training; the adapters are untrained where the preset has none.

        Args:
            preset: of this model.
            weights: folder of a published version, whose weights replace those of the preset.
            texts: for tiny, texts whose tokens get a row in the text table.

        Raises:
            WeightsError: weights are missing or damaged.
        """
        checkpoints = [
            load_checkpoint(location) for location in (preset.weights, weights) if location is not None
        ]
        known = checkpoints[-1].token_ids if checkpoints else ()
        wanted = tuple(sorted({*known, *token_ids_of(texts)})) if known else ()
        words = checkpoints[-1].words if checkpoints else ()
        model = cls.untrained(preset, token_ids=wanted, words=words)
        if checkpoints:
            model.learned_words = frozenset(checkpoints[-1].learned)
            model.limit_presence({word: one.limit for word, one in checkpoints[-1].card.limits.items()})
        for number, checkpoint in enumerate(checkpoints):
            checkpoint = with_rows(checkpoint, wanted)
            whole = number == 0 and preset.weights is not None
            (checkpoint.apply if whole else checkpoint.overlay)(model)
        return model

    @classmethod
    def to_teach(cls, preset: Any, weights: Path | None = None) -> Self:
        """The model that words are taught to; without trained adapters it refuses all others."""
        if preset.weights is not None or weights is not None:
            return cls.from_preset(preset, weights)
        model = cls.untrained(preset.model_copy(update={"unknown_words": "refuse"}))
        model.has_adapters = False
        return model

    def judges_presence(self, prompt: Prompt) -> bool:
        """Whether the presence logit was calibrated for the word."""
        own = self._own_presence is not None and prompt.key not in self.learned_words
        return own or prompt.key in self._limits

    def limit_presence(self, limits: Mapping[str, float]) -> None:
        """Judge the presence of learned words as well.

        Args:
            limits: word -> presence logit of a volume below which it counts as absent; replaces earlier ones.
        """
        self._limits = dict(limits)
        own = self._own_presence or PresencePreset(slice_logit=NEVER, volume_logit=NEVER)
        presence = own.model_copy(update={"words": {**own.words, **limits}})
        self.preset = self.preset.model_copy(update={"presence": presence if limits else self._own_presence})

    @property
    def word_width(self) -> int:
        """Length of CLIP's embeddings."""
        return self.clip.embed_dim

    def word_vector(self, prompt: Prompt) -> Tensor | None:
        """CLIP's embedding of the word, of unit length; None where its text encoder never met it."""
        return self.clip.encode_text([prompt.text])[0] if self.clip.knows(prompt.text) else None

    def _knows(self, prompt: Prompt) -> bool:
        trained = not self.trained_words or prompt.key in self.trained_words
        return self.has_adapters and trained and self.clip.knows(prompt.text)
