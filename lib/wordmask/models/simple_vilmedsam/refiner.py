"""The refiner: a small U-Net on the slice's own pixels, with one head for all words, corrects the logits that
a decoder has drawn.

Takes pixels, logits and the word; returns logits. Knows tensors only: not words, not slices. Beyond the
paper: what an encoder has not learned to tell apart, and what is smaller than its cells, no decoder can draw;
pixels and a few labelled cases can teach it (docs/experiments.md).
"""

from __future__ import annotations

import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

WIDTHS = (16, 16, 32, 64, 128, 16)
# of the correction: a word that nobody has taught begins at logits of about -10, far from where anything is
# marked
SCALE = 8.0


class Refiner(nn.Module):
    """MONAI's BasicUNet over pixels; the word's vector says how its channels are added up.

    A new one changes nothing.

    The net does not see the logits: a decoder learns few cases by heart, and a net that sees what it draws
    learns to trust it.
    text_width: length of the word's vector.
    """

    def __init__(self, text_width: int) -> None:
        super().__init__()
        channels = WIDTHS[-1]
        self.net = BasicUNet(spatial_dims=2, in_channels=3, out_channels=channels, features=WIDTHS)
        self.head = nn.Linear(text_width, channels + 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, pixels: Tensor, logits: Tensor, word: Tensor) -> Tensor:
        """pixels: [P, 3, h, w] in 0..1; logits: [P, 1, h, w]; word: [P, text_width].

        Returns corrected logits [P, 1, h, w].
        """
        weights, bias = self.head(word).split((WIDTHS[-1], 1), dim=1)
        correction = torch.einsum("pchw,pc->phw", self.net(pixels), weights) + bias[:, :, None]
        return logits + SCALE * correction[:, None]
