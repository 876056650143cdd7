"""The networks that learn words from a few labelled cases.

A network turns the pixels of a slice into features that do not depend on words, and one linear head for all
words turns them into logits. Beyond the papers: methods.md 6. Knows tensors only; not
words or slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from wordmask.encoders.pixel_encoder import PixelEncoder, load_pixel_encoder

LEAN_SIDE, LEAN_WIDTHS = 64, (16, 16, 32, 64, 128, 16)
FEATURES = 16  # channels of the features that the head reads
FROZEN = 2  # maps of the frozen model beside them: its logits, squashed, and its attribution
START_BIAS = -2.0  # most pixels do not belong to a word
SLOPE = 0.1  # of LeakyReLU
Kind = Literal["pretrained", "lean"]


class PixelNetwork(nn.Module):
    """A U-Net on the features of an encoder that learned from photographs, up to full resolution.

    Args:
        encoder: of four maps.
        widths: channels of the decoder, from 1/16 of the side to 1/2.
    """

    def __init__(self, encoder: PixelEncoder, widths: Sequence[int] = (96, 64, 32, 16)) -> None:
        super().__init__()
        self.encoder = encoder
        self.top = nn.Conv2d(encoder.channels[-1], widths[0], 1)
        skips = [*reversed(encoder.channels[:-1]), 3]
        into = [*widths[1:], FEATURES]
        self.ups = nn.ModuleList(
            _UpBlock(below, skip, out) for below, skip, out in zip(widths, skips, into, strict=True)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of slices.

        Args:
            pixels: [N, 3, s, s] in -1..1; s is a multiple of 16.

        Returns:
            [N, FEATURES, s, s].
        """
        maps = self.encoder(pixels)
        features: Tensor = self.top(maps[-1])
        for up, skip in zip(self.ups, [*reversed(maps[:-1]), pixels], strict=True):
            features = up(features, skip)
        return features

    def learned_parts(self) -> tuple[nn.Module, ...]:
        """The parts that learned before, and which learn more slowly."""
        return (self.encoder,)


class LeanNetwork(nn.Module):
    """MONAI's BasicUNet from scratch, on a square of at most `LEAN_SIDE` pixels.

    It misses other structures than a network that starts from photographs, and costs a fraction.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = BasicUNet(spatial_dims=2, in_channels=3, out_channels=FEATURES, features=LEAN_WIDTHS)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of slices, as `PixelNetwork.forward`."""
        side = pixels.shape[-1]
        if side <= LEAN_SIDE:
            features: Tensor = self.net(pixels)
            return features
        small = F.interpolate(pixels, size=(LEAN_SIDE, LEAN_SIDE), mode="bilinear", antialias=True)
        return F.interpolate(self.net(small), size=(side, side), mode="bilinear")

    def learned_parts(self) -> tuple[nn.Module, ...]:
        """None, because the whole network is new."""
        return ()


class WordHead(nn.Module):
    """The weights of each channel, from the word's vector: one head for all words.

    Args:
        width: length of a vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weights = nn.Linear(width, FEATURES + 1)
        self.frozen = nn.Linear(width, FROZEN)
        nn.init.normal_(self.weights.weight, std=FEATURES**-0.5)
        nn.init.zeros_(self.weights.bias)
        # The frozen model's maps change nothing until they have proved useful.
        nn.init.zeros_(self.frozen.weight)
        nn.init.zeros_(self.frozen.bias)

    def forward(self, features: Tensor, vectors: Tensor, frozen: Tensor | None = None) -> Tensor:
        """Logits of pairs.

        Args:
            features: [P, FEATURES, s, s].
            vectors: [P, width], of unit length.
            frozen: [P, FROZEN, s, s], maps of the frozen model in -1..1; None where it does not take part.

        Returns:
            [P, s, s].
        """
        weights, bias = self.weights(vectors).split((FEATURES, 1), dim=1)
        logits = torch.einsum("pchw,pc->phw", features, weights) + (bias + START_BIAS)[:, :, None]
        if frozen is not None:
            logits = logits + torch.einsum("pchw,pc->phw", frozen, self.frozen(vectors))
        return logits


class Member(nn.Module):
    """A network and its head.

    Args:
        kind: of the network.
        encoder: of a pretrained network; it has its ImageNet weights only with ``fresh``.
        width: length of a word's vector.
        fresh: whether the encoder's own weights are loaded, for a network that has not learned anything yet.

    Raises:
        WeightsError: the encoder's weights are missing.
    """

    def __init__(self, kind: Kind, encoder: str, width: int, *, fresh: bool) -> None:
        super().__init__()
        self.kind = kind
        self.network: PixelNetwork | LeanNetwork
        if kind == "lean":
            self.network = LeanNetwork()
        else:
            self.network = PixelNetwork(load_pixel_encoder(encoder) if fresh else PixelEncoder(encoder))
        self.head = WordHead(width)
        self.to(memory_format=torch.channels_last)

    def features(self, pixels: Tensor) -> Tensor:
        """Features of slices, as `PixelNetwork.forward`."""
        found: Tensor = self.network(pixels.contiguous(memory_format=torch.channels_last))
        return found


class _UpBlock(nn.Module):
    """Twice the side: join the skipped map, one convolution."""

    def __init__(self, below: int, skip: int, out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(below + skip, out, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(8, out)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        joined = torch.cat([F.interpolate(features, scale_factor=2.0), skip], 1)
        return F.leaky_relu(self.norm(self.convolution(joined)), SLOPE)
