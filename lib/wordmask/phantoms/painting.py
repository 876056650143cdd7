"""Brushes of the phantoms: random numbers, smooth noise, and ellipses with soft edges.

They paint batches of slices. Coordinates run from -1 to 1 over the slice, x to the right, y down. All tensors
of parameters are [B]: one value per slice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OUTSIDE = 9.0  # any value above 1: "not in the ellipse"


class Random:
    """Seeded random numbers in the shapes that the phantoms need."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, count: int, low: float, high: float) -> Tensor:
        """[count] in low..high."""
        return torch.rand(count, generator=self.generator) * (high - low) + low

    def chance(self, count: int, probability: float) -> Tensor:
        """[count] boolean, true with the given probability."""
        return torch.rand(count, generator=self.generator) < probability

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self.generator)

    def smooth(self, count: int, cells: int, size: int, channels: int = 1) -> Tensor:
        """[count, channels, size, size] noise of about unit variance that varies over size / cells pixels."""
        field = self.normal(count, channels, cells, cells)
        if cells < 20:  # bicubic is smooth but slow: only up to an intermediate size
            field = F.interpolate(field, size=(48, 48), mode="bicubic", align_corners=False)
        return F.interpolate(field, size=(size, size), mode="bilinear", align_corners=False)


def column(values: Tensor) -> Tensor:
    """[B] -> [B, 1, 1], to meet [B, H, W]."""
    return values.view(-1, 1, 1)


def pixel_grid(size: int) -> tuple[Tensor, Tensor]:
    """y [1, size, 1] and x [1, 1, size] of the pixel centres, -1..1."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    return axis.view(1, size, 1), axis.view(1, 1, size)


def ellipse(
    x: Tensor, y: Tensor, centre: tuple[Tensor, Tensor], radii: tuple[Tensor, Tensor], angle: Tensor
) -> Tensor:
    """Squared normalised distance [B, H, W]: below 1 inside. Radii of 0 give nothing inside."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    across, down = radii[0].clamp(min=1e-3), radii[1].clamp(min=1e-3)
    dx, dy = x - column(centre[0]), y - column(centre[1])
    first = dx * column(cos / across) + dy * column(sin / across)
    second = dy * column(cos / down) - dx * column(sin / down)
    return first.square_().add_(second.square_())


def coverage(distance: Tensor, radius_pixels: Tensor, softness: float = 0.6) -> Tensor:
    """How much of each pixel the shape covers, 0..1: an edge about 1.5 pixels wide (partial volume)."""
    slope = radius_pixels.clamp(min=1.0) * softness
    return ((1 - distance) * column(slope) + 0.5).clamp_(0, 1)


def blend(image: Tensor, cover: Tensor, value: Tensor) -> None:
    """image [B, H, W] (or a view of it) moves towards value by cover, in place."""
    image.add_(cover * (value - image))
