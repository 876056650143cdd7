"""The common base of trainees with a frozen CLIP and adapters that learn: what is saved, what the card says.

Knows models with adapters; not their losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.encoders.tiny_tokenizer import TinyTokenizer
from wordmask.learning.finetuning.trainee import Trainee
from wordmask.models.adapted_clip import AdaptedClipSegmenter
from wordmask.words.vocabulary import synonyms_of

TABLE = "network.clip.model.token_embedding.weight"


class AdapterTrainee(Trainee):
    """A model with a CLIP and adapters, of which some parts learn.

    Attributes:
        learned_parts: the beginnings of the names of the parameters that learn.
        rate: peak learning rate.
    """

    learned_parts: ClassVar[tuple[str, ...]]
    model: Any  # of the subclass's own class

    def __init__(self, model: AdaptedClipSegmenter, rate: float, words: Sequence[str]) -> None:
        super().__init__()
        self.segmenter = self.model = model
        self.rate, self.words = rate, tuple(words)
        model.requires_grad_(False).eval()
        model.limit_presence({})  # those of the version before are not those of the new one
        for parameter in self._learning().values():
            parameter.requires_grad_(True)

    def target_frame(self, size: tuple[int, int]) -> Letterbox:
        frame: Letterbox = self.model.slice_frame(size)
        return frame

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self._learning().values()), "lr": self.rate}]

    def ready(self) -> Any:
        self.model.trained_words = self.model.trained_words | set(self.words)
        self.model.learned_words = self.model.learned_words | set(self.words)
        self.model.eval()
        return self.model

    def limit_presence(self, limits: Mapping[str, float]) -> bool:
        self.model.limit_presence(limits)
        return True

    def state(self) -> dict[str, Tensor]:
        """What learns, and the text table of tiny, which may have new rows."""
        tensors = dict(self._learning())
        if isinstance(self.model.clip.tokenizer, TinyTokenizer):
            tensors[TABLE] = self.model.get_parameter(TABLE)
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.model.load_state_dict(state, strict=False)

    def card(self) -> dict[str, Any]:
        """Words and, for tiny, token_ids."""
        card: dict[str, Any] = {"words": sorted(self.model.trained_words | set(self.words))}
        if isinstance(self.model.clip.tokenizer, TinyTokenizer):
            card["token_ids"] = list(self.model.clip.tokenizer.token_ids)
        return card

    def _learning(self) -> dict[str, Tensor]:
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if name.startswith(self.learned_parts)
        }


def texts_of(words: Sequence[str]) -> list[str]:
    """Words and their synonyms: the texts by which a training may show them."""
    return [text for word in words for text in (word, *synonyms_of(word))]


def spelling(word: str, synonyms: float, generator: torch.Generator) -> str:
    """The word, now and then one of its synonyms.

    Args:
        word: that is shown.
        synonyms: how often it is shown by one of them, 0..1.
        generator: of everything random.
    """
    other, choice = torch.rand(2, generator=generator).tolist()
    others = synonyms_of(word)
    return others[int(choice * len(others))] if others and other < synonyms else word
