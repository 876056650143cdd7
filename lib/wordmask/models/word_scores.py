"""Turns cosines between words and images or patches into logits by a learned scale and bias.

They are not normalised on purpose: a map that is stretched to 0..1 per image always has a peak, even where
the word is absent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wordmask.encoders.clip import ClipEncoder

PRESENCE_SCALE = 0.2  # brings presence logits, about -10 to 10, to the size of the embedding's entries


def word_token_input(text: Tensor, presence: Tensor) -> Tensor:
    """The input of the decoder's word token: text embeddings [P, E] and presence logits [P] -> [P, E + 1]."""
    return torch.cat([text, presence[:, None] * PRESENCE_SCALE], 1)


class WordScores(nn.Module):
    """Four numbers, trained with the tiny CLIP, that turn cosines into logits.

    `presence` means "the word is in the slice", `similarity` "the word is in this patch".
    """

    def __init__(
        self, *, presence: tuple[float, float] = (7.0, -2.0), similarity: tuple[float, float] = (10.0, -3.0)
    ) -> None:
        """Both arguments are (scale, bias): logit = scale * cosine + bias."""
        super().__init__()
        self.presence_log_scale = nn.Parameter(torch.tensor(math.log(presence[0])))
        self.presence_bias = nn.Parameter(torch.tensor(presence[1]))
        self.similarity_log_scale = nn.Parameter(torch.tensor(math.log(similarity[0])))
        self.similarity_bias = nn.Parameter(torch.tensor(similarity[1]))

    def presence(self, cosine: Tensor) -> Tensor:
        """Cosine of image and word, any shape -> logit of the same shape."""
        return self.presence_log_scale.exp() * cosine + self.presence_bias

    def similarity(self, cosine: Tensor) -> Tensor:
        """Cosine of patch and word, any shape -> logit of the same shape."""
        return self.similarity_log_scale.exp() * cosine + self.similarity_bias


class ClipWithScores(nn.Module):
    """A CLIP and the scores of its cosines, trained together."""

    def __init__(self, clip: ClipEncoder) -> None:
        super().__init__()
        self.clip = clip
        self.scores = WordScores()
