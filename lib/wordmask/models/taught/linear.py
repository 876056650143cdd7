"""A linear member: frozen features of a picture that learned from photographs, and solved weights.

It draws coarsely, but it is often right where the networks, which learn a few pictures by heart, are not.
Knows tensors only; not words or slices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordmask.encoders.pixel_encoder import PixelEncoder, frozen_encoder

SIDE = 192  # of the square that the encoder sees, in pixels: maps at 1/8 of it are 24 x 24
SCALE = 3.0  # logits of a pixel whose regression says 1


class LinearMember(nn.Module):
    """Logits of words as weighted sums of frozen features.

    Args:
        encoder: name of the frozen encoder, whose weights are not part of a version.
        words: how many; each has weights of its own, 0 until they are solved.
    """

    def __init__(self, encoder: str, words: int) -> None:
        super().__init__()
        self.encoder = encoder
        _, second, third, fourth = PixelEncoder(encoder).channels
        self.weights: Tensor
        self.bias: Tensor
        self.register_buffer("weights", torch.zeros(words, second + 2 * third + 2 * fourth))
        self.register_buffer("bias", torch.zeros(words))

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Features of pictures at several scales, on one grid.

        Args:
            pixels: [N, 3, s, s] in -1..1.

        Returns:
            [N, channels, SIDE / 8, SIDE / 8]: maps at 1/4, 1/8 and 1/16, the last one blurred, and the mean
                of the second over the picture.
        """
        seen = F.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        _, fine, middle, coarse = frozen_encoder(self.encoder, str(pixels.device))(seen)
        grid = middle.shape[-2:]
        coarse = F.interpolate(coarse, size=grid, mode="bilinear", align_corners=False)
        return torch.cat(
            [
                F.adaptive_avg_pool2d(fine, grid),
                middle,
                coarse,
                F.avg_pool2d(coarse, 5, 1, 2, count_include_pad=False),
                middle.mean((2, 3), keepdim=True).expand(-1, -1, *grid),
            ],
            dim=1,
        )

    def logits(self, features: Tensor, rows: Tensor, side: int) -> Tensor:
        """Logits of pairs, [P, side, side].

        Args:
            features: [P, channels, g, g].
            rows: [P], of the words.
            side: of the result, in pixels.
        """
        found = torch.einsum("pchw,pc->phw", features, self.weights[rows]) + self.bias[rows][:, None, None]
        return (
            SCALE
            * F.interpolate(found[:, None], size=(side, side), mode="bilinear", align_corners=False)[:, 0]
        )
