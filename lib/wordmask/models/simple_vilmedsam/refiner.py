"""The refiner: a small U-Net on the slice's own pixels that corrects the logits of a decoder.

Beyond the paper: a decoder cannot draw structures that the encoder does not tell apart, or that are smaller
than its cells; pixels and a few labelled cases can teach them (docs/experiments.md). Knows tensors only; not
words or slices.
"""

from __future__ import annotations

import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

WIDTHS = (16, 16, 32, 64, 128, 16)
# Of the correction: an untrained word starts at logits of about -10, far below those of marked pixels.
SCALE = 8.0


class Refiner(nn.Module):
    """MONAI's BasicUNet over pixels, whose channels are added up with weights from the word's vector.

    A new refiner changes nothing. The network does not get the logits as input: a decoder learns a few cases
    by heart, and a network that sees its masks learns to trust them.

    Args:
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
        """Correct logits.

        Args:
            pixels: [P, 3, h, w] in 0..1.
            logits: [P, 1, h, w].
            word: [P, text_width].

        Returns:
            [P, 1, h, w].
        """
        weights, bias = self.head(word).split((WIDTHS[-1], 1), dim=1)
        correction = torch.einsum("pchw,pc->phw", self.net(pixels), weights) + bias[:, :, None]
        return logits + SCALE * correction[:, None]
