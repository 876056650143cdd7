"""Batches of slices seen in new ways at every step: turned, bent, brightened, blurred, cut into each other.

All of it is computed for the whole batch at once, and the same generator gives the same views. Knows tensors
only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

BLUR_TAPS = 7  # pixels of the blur's kernel


@dataclass(frozen=True)
class Strength:
    """How much a view may differ; standard deviations unless said otherwise.

    Attributes:
        rotation: radians.
        shift: share of half the side.
        scale: of the logarithm of the size.
        bend: of a 4 x 4 grid of displacements, share of half the side.
        gamma: of the logarithm of the exponent of grey values.
        brightness: of what is added to grey values in 0..1.
        blur: share of views that are blurred, by up to 1.5 pixels.
        speckle: largest relative noise.
        noise: largest noise, of grey values in 0..1.
        cutmix: share of views into which a rectangle of another slice is pasted.
    """

    rotation: float
    shift: float
    scale: float
    bend: float
    gamma: float
    brightness: float
    blur: float
    speckle: float
    noise: float
    cutmix: float


STRENGTHS = {
    "weak": Strength(0.2, 0.1, 0.08, 0.0, 0.15, 0.05, 0.0, 0.0, 0.0, 0.0),
    "medium": Strength(0.25, 0.1, 0.15, 0.06, 0.25, 0.05, 0.2, 0.1, 0.03, 0.25),
    "strong": Strength(0.3, 0.15, 0.4, 0.1, 0.35, 0.1, 0.4, 0.2, 0.06, 0.5),
}


def augment(
    pixels: Tensor, maps: Tensor, strength: Strength, generator: Generator, *, mirror: bool
) -> tuple[Tensor, Tensor]:
    """Views of slices and of the maps that lie on them.

    Args:
        pixels: [N, C, s, s] in 0..1.
        maps: [N, K, s, s], masks and others; outside of a slice they are 0.
        strength: of the changes.
        generator: of the random numbers, on the CPU.
        mirror: whether half of the views are mirrored left to right.

    Returns:
        Both, of the same shapes.
    """
    count, channels = pixels.shape[:2]
    grid = _grid(count, pixels.shape[-1], strength, generator, mirror=mirror).to(pixels.device)
    moved = F.grid_sample(torch.cat([pixels, maps], 1), grid, align_corners=False)
    pixels, maps = moved[:, :channels], moved[:, channels:]
    pixels = _tint(pixels, strength, generator)
    if strength.cutmix:
        pixels, maps = _cut_and_paste(pixels, maps, strength.cutmix, generator)
    return pixels, maps


def _grid(count: int, side: int, strength: Strength, generator: Generator, *, mirror: bool) -> Tensor:
    """Where each pixel of a view comes from, [N, s, s, 2] in -1..1."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    angle, scale = strength.rotation * normal(count), torch.exp(strength.scale * normal(count))
    sign = torch.ones(count)
    if mirror:
        sign = 1 - 2 * torch.randint(2, (count,), generator=generator)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = strength.shift * normal(count, 2)
    rows = [
        torch.stack([cosine * sign, -sine, shift[:, 0]], 1),
        torch.stack([sine * sign, cosine, shift[:, 1]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), [count, 1, side, side], align_corners=False)
    if strength.bend:
        bend = F.interpolate(
            strength.bend * normal(count, 2, 4, 4), size=(side, side), mode="bicubic", align_corners=True
        )
        grid = grid + bend.permute(0, 2, 3, 1)
    return grid


def _tint(pixels: Tensor, strength: Strength, generator: Generator) -> Tensor:
    count, _, side, _ = pixels.shape
    device = pixels.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    def share(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    gamma = torch.exp(strength.gamma * normal(count, 1, 1, 1))
    pixels = pixels.clamp(1e-4, 1) ** gamma + strength.brightness * normal(count, 1, 1, 1)
    if strength.blur:
        sigma = 0.5 + share(count)
        pixels = torch.where(share(count, 1, 1, 1) < strength.blur, _blur(pixels, sigma), pixels)
    if strength.speckle:
        pixels = pixels * (1 + strength.speckle * share(count, 1, 1, 1) * normal(count, 1, side, side))
    if strength.noise:
        pixels = pixels + strength.noise * share(count, 1, 1, 1) * normal(count, 1, side, side)
    return pixels.clamp(-0.5, 1.5)


def _blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Blur each slice by its own sigma [N], in pixels."""
    count, channels, height, width = pixels.shape
    reach = BLUR_TAPS // 2
    taps = torch.arange(-reach, reach + 1, device=pixels.device)
    kernels = torch.exp(-(taps**2) / (2 * sigma[:, None] ** 2))
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = pixels.reshape(1, count * channels, height, width)
    flat = F.conv2d(
        F.pad(flat, (reach, reach, 0, 0), mode="replicate"),
        kernels[:, None, None, :],
        groups=count * channels,
    )
    flat = F.conv2d(
        F.pad(flat, (0, 0, reach, reach), mode="replicate"),
        kernels[:, None, :, None],
        groups=count * channels,
    )
    return flat.reshape(count, channels, height, width)


def _cut_and_paste(pixels: Tensor, maps: Tensor, share: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of another view into some, with its maps.

    Source: Yun et al., CutMix (ICCV 2019), for masks.
    """
    count, side = pixels.shape[0], pixels.shape[-1]
    others = torch.randperm(count, generator=generator)
    numbers = torch.rand(count, 5, generator=generator)
    mixed_pixels, mixed_maps = pixels.clone(), maps.clone()
    for row, (chance, height, width, top, left) in enumerate(numbers.tolist()):
        if chance < share:
            tall, wide = int((0.2 + 0.4 * height) * side), int((0.2 + 0.4 * width) * side)
            y, x = int(top * (side - tall)), int(left * (side - wide))
            for mixed, source in ((mixed_pixels, pixels), (mixed_maps, maps)):
                mixed[row, :, y : y + tall, x : x + wide] = source[others[row], :, y : y + tall, x : x + wide]
    return mixed_pixels, mixed_maps
