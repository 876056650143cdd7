"""Probabilistic vision-language (PVL) adapters: image and text tokens exchange what they know, with noise.

Written from the paper's equations and the quirks of its code (methods.md 3.2). Knows tensors only; not CLIP,
words or where noise comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_VARIANCE = 1e-6
NORM_EPS = 1e-5  # of keys and values


@dataclass(frozen=True, eq=False)
class Attended:
    """What a query makes of a context before anything is drawn.

    Attributes:
        weights: [B, queries, tokens], of the attention; each row sums to 1.
        mean: [B, tokens, C], of the values.
        deviation: likewise.
    """

    weights: Tensor
    mean: Tensor
    deviation: Tensor


class ProbabilisticAttention(nn.Module):
    """Cross-attention with one head, whose keys and values are normal distributions.

    A key that is uncertain for a query is attended to less. Values are drawn, once for all queries of a
    sample. A gate mixes the result with the query.

    Args:
        width: C.
        beta: how much an uncertain key loses: 2.35 deviations in the paper.
        gate: its value before the sigmoid, at the start of a training.
    """

    def __init__(self, width: int, *, beta: float, gate: float = 0.0) -> None:
        super().__init__()
        self.width, self.beta = width, beta
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.key_norm, self.value_norm = nn.LayerNorm(width, NORM_EPS), nn.LayerNorm(width, NORM_EPS)
        self.gate = nn.Parameter(torch.tensor(float(gate)))

    def attend(self, tokens: Tensor, context: Tensor, real: Tensor | None = None) -> Attended:
        """Compute all that does not depend on the noise.

        Args:
            tokens: [B, queries, C].
            context: [B, tokens, C].
            real: bool [B, tokens], which of them may be attended to; None: all.
        """
        query = self.query(tokens)
        key, key_spread = self.key(context).chunk(2, dim=-1)
        value, value_spread = self.value(context).chunk(2, dim=-1)
        variance = F.softplus(key_spread) + LEAST_VARIANCE
        score = query @ self.key_norm(key).mT / self.width**0.5
        score = score - self.beta * (query.square() @ variance.mT / self.width).sqrt()
        if real is not None:
            score = score.masked_fill(~real[:, None], float("-inf"))
        deviation = (F.softplus(value_spread) + LEAST_VARIANCE).sqrt()
        return Attended(score.softmax(-1), self.value_norm(value), deviation)

    def draw(self, tokens: Tensor, attended: Attended, noise: Tensor) -> Tensor:
        """The tokens after one draw of the values.

        Args:
            tokens: [B, queries, C], as they were attended.
            attended: of `attend`.
            noise: [samples * B, tokens, C], standard normal; sample by sample.

        Returns:
            [samples * B, queries, C].
        """
        samples = len(noise) // len(attended.mean)
        values = attended.mean.repeat(samples, 1, 1) + attended.deviation.repeat(samples, 1, 1) * noise
        mixed = self.out(attended.weights.repeat(samples, 1, 1) @ values)
        gate = self.gate.sigmoid()
        return gate * mixed + (1 - gate) * tokens.repeat(samples, 1, 1)


class PVLAdapter(nn.Module):
    """One exchange between the image tokens and the text tokens that enter a block.

    The image looks at the text first, and the text then at the image as it has become.

    Args:
        image_width: channels of an image token.
        text_width: of a text token.
        width: C, of the exchange.
        beta: of `ProbabilisticAttention`.
        gate: likewise.
    """

    def __init__(
        self, image_width: int, text_width: int, width: int, *, beta: float, gate: float = 0.0
    ) -> None:
        super().__init__()
        self.image_down = nn.Linear(image_width, width, bias=False)
        self.text_down = nn.Linear(text_width, width, bias=False)
        self.image_up = nn.Linear(width, image_width, bias=False)
        self.text_up = nn.Linear(width, text_width, bias=False)
        self.to_image = ProbabilisticAttention(width, beta=beta, gate=gate)
        self.to_text = ProbabilisticAttention(width, beta=beta, gate=gate)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        image_noise: Tensor,
        text_noise: Tensor,
        real: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Exchange.

        Args:
            image: [B, image tokens, image width].
            text: [B, text tokens, text width].
            image_noise: [samples * B, text tokens, C], of the values that the image reads.
            text_noise: [samples * B, image tokens, C], of those that the text reads.
            real: bool [B, text tokens], which of them the image may read; None: all.

        Returns:
            Image and text tokens of every sample, [samples * B, ...].
        """
        samples = len(image_noise) // len(image)
        seen, read = self.image_down(image), self.text_down(text)
        seen = self.to_image.draw(seen, self.to_image.attend(seen, read, real), image_noise)
        read = read.repeat(samples, 1, 1)
        read = self.to_text.draw(read, self.to_text.attend(read, seen), text_noise)
        return (
            image.repeat(samples, 1, 1) + self.image_up(seen),
            text.repeat(samples, 1, 1) + self.text_up(read),
        )
