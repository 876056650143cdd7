"""Adapters in the blocks of SAM's image encoder: regular ones, and semantic ones that see CLIP and the word.

Written from methods.md 4.2 and 4.8. Both are zero at the start of a training, so that SAM is then unchanged.
Knows tensors only; not SAM, CLIP or words.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class RegularAdapter(nn.Module):
    """Two linear layers with a GELU between them.

    Args:
        width: D, channels of a token.
        inside: A, channels between the layers.
    """

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, inside), nn.Linear(inside, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Any shape [..., D] -> the same."""
        return self.finish(self.down(tokens))

    def finish(self, inside: Tensor) -> Tensor:
        """What remains after the first layer: [..., A] -> [..., D]."""
        adapted: Tensor = self.up(F.gelu(inside))
        return adapted


class SemanticAdapter(RegularAdapter):
    """An adapter whose input is joined by the word and by what CLIP sees.

    The parts of its first layer that do not depend on both slice and word can be computed apart: the layer
    and the enlargement of CLIP's grid are linear, and similarity adds the same number to all channels of a
    patch, so a word changes this part by a matrix of rank 1.

    Args:
        width: D, channels of a token of SAM.
        inside: A, channels between the layers.
        embed_dim: E, length of CLIP's embeddings.
    """

    def __init__(self, width: int, inside: int, embed_dim: int) -> None:
        super().__init__(width, inside)
        self.text, self.vision = nn.Linear(embed_dim, width), nn.Linear(embed_dim, width)

    def guided(self, tokens: Tensor, text: Tensor, fused: Tensor) -> Tensor:
        """Compute the adapter directly.

        Args:
            tokens: [P, g, g, D], of SAM.
            text: [P, E], of the word.
            fused: [P, c, c, E], CLIP's patches plus their similarity to the word.

        Returns:
            [P, g, g, D].
        """
        told = F.gelu(self.text(text))[:, None, None]
        seen = enlarge(self.vision(fused), tokens.shape[1])
        return self.finish(self.down(tokens + told + seen))

    def text_part(self, text: Tensor) -> Tensor:
        """What the word adds inside the adapter at every place, [K, E] -> [K, A]."""
        return F.linear(F.gelu(self.text(text)), self.down.weight)

    def vision_part(self, patches: Tensor) -> Tensor:
        """What CLIP's patches add without the similarity, [N, c, c, E] -> [N, c, c, A]."""
        return F.linear(self.vision(patches), self.down.weight)

    def similarity_part(self, similarity: Tensor) -> Tensor:
        """What the similarity adds, [P, c, c] -> [P, c, c, A]."""
        return similarity[..., None] * (self.down.weight @ self.vision.weight.sum(1))


def enlarge(maps: Tensor, side: int) -> Tensor:
    """Resize maps with channels last, bilinear: [P, c, c, C] -> [P, side, side, C]."""
    resized = F.interpolate(maps.permute(0, 3, 1, 2), size=side, mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)
