"""Phantom slices for training: made once per seed, and augmented at every use.

Models see them through their own frames. Image right is the patient's left in every picture, so nothing here
ever mirrors: that would exchange left and right words.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from wordmask.files import replace_file
from wordmask.phantoms import SLICE_SIZE
from wordmask.phantoms.body import ct_slices
from wordmask.phantoms.painting import Random
from wordmask.phantoms.pictures import KINDS
from wordmask.phantoms.words import LABELS, word_table

logger = logging.getLogger(__name__)

CT_SHARE = 0.65
CHUNK = 16
# Share of the slice; a smaller structure (half a patch of the tiny CLIP) counts as absent.
SMALLEST_PRESENT = 0.0006


@dataclass
class PhantomSlices:
    """Drawn slices.

    Attributes:
        images: [N, 3, S, S] uint8.
        labels: [N, S, S] uint8.
        kinds: [N] uint8 (0 CT, then the pictures in the order of KINDS).
    """

    images: Tensor
    labels: Tensor
    kinds: Tensor

    def __len__(self) -> int:
        return len(self.images)


def make_slices(count: int, seed: int, size: int = SLICE_SIZE) -> PhantomSlices:
    """Draw ``count`` slices of all kinds; about 5 s per thousand on one core."""
    random = Random(seed)
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    labels = torch.empty(count, size, size, dtype=torch.uint8)
    kinds = torch.empty(count, dtype=torch.uint8)
    painters = list(KINDS.values())
    for start in range(0, count, CHUNK):
        part = slice(start, min(start + CHUNK, count))
        number = part.stop - part.start
        draw = torch.rand(1, generator=random.generator).item()
        kind = (
            0
            if draw < CT_SHARE
            else 1 + min(int((draw - CT_SHARE) / (1 - CT_SHARE) * len(painters)), len(painters) - 1)
        )
        if kind == 0:
            hounsfield, labels[part] = ct_slices(number, size, random)
            picture = soft_tissue(hounsfield, random)[:, None]
        else:
            picture, labels[part] = painters[kind - 1](number, size, random)
        images[part] = (picture * 255).round().to(torch.uint8)
        kinds[part] = kind
    return PhantomSlices(images, labels, kinds)


def soft_tissue(hounsfield: Tensor, random: Random) -> Tensor:
    """HU -> 0..1 through a window near the one used for inference (level 40, width 400)."""
    level = random.uniform(len(hounsfield), 30, 50).view(-1, 1, 1)
    width = random.uniform(len(hounsfield), 370, 430).view(-1, 1, 1)
    return ((hounsfield - level) / width + 0.5).clamp(0, 1)


def cached_slices(count: int, seed: int, folder: Path) -> PhantomSlices:
    """`make_slices`, kept in ``folder`` so that a resumed run does not draw them again."""
    path = folder / f"slices_{seed}_{count}.safetensors"
    if not path.exists():
        logger.info("drawing %d phantom slices (seed %d)", count, seed)
        made = make_slices(count, seed)
        with replace_file(path) as part:
            save_file({"images": made.images, "labels": made.labels, "kinds": made.kinds}, part)
    stored = load_file(path)
    return PhantomSlices(stored["images"], stored["labels"], stored["kinds"])


def augment(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Scale, turn, shift, gain, offset, blur, and cut to a rectangle; never mirrored.

    Args:
        images: [B, 3, S, S] uint8.
        labels: [B, S, S].
        generator: of everything random.

    Returns:
        Images [B, 3, H, W] float in 0..1, and labels [B, H, W] uint8.
    """
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    scale, angle = uniform(0.85, 1.12), uniform(-0.12, 0.12)
    rows = [
        scale * angle.cos(),
        -scale * angle.sin(),
        uniform(-0.1, 0.1),
        scale * angle.sin(),
        scale * angle.cos(),
        uniform(-0.1, 0.1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1).view(count, 2, 3), list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float() / 255, grid, align_corners=False)
    moved_labels = F.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0].to(
        torch.uint8
    )
    moved = moved * uniform(0.9, 1.1).view(-1, 1, 1, 1) + uniform(-0.05, 0.05).view(-1, 1, 1, 1)
    if torch.rand(1, generator=generator) < 0.3:  # a coarser or smoother scanner
        moved = F.interpolate(
            F.avg_pool2d(moved, 2), size=moved.shape[-2:], mode="bilinear", align_corners=False
        )
    moved = moved.clamp(0, 1)
    if torch.rand(1, generator=generator) < 0.25:  # not every picture is a square
        size = images.shape[-1]
        cut = int(torch.randint(size // 20, size // 5, (1,), generator=generator))
        if torch.rand(1, generator=generator) < 0.5:
            return moved[:, :, cut:].contiguous(), moved_labels[:, cut:].contiguous()
        return moved[:, :, :, cut:].contiguous(), moved_labels[:, :, cut:].contiguous()
    return moved, moved_labels


def word_fractions(labels: Tensor, grid: int) -> Tensor:
    """Labels [B, S, S] -> [B, words, grid, grid]: the share of each cell that belongs to each word."""
    count, size, _ = labels.shape
    cell = torch.arange(size) * grid // size
    index = (torch.arange(count).view(-1, 1, 1) * grid + cell.view(1, -1, 1)) * grid + cell.view(1, 1, -1)
    counts = torch.bincount(
        (index * len(LABELS) + labels.long()).flatten(), minlength=count * grid * grid * len(LABELS)
    )
    shares = counts.view(count, grid, grid, len(LABELS)).float()
    return torch.einsum("bhwl,kl->bkhw", shares / shares.sum(-1, keepdim=True), word_table())


def word_masks(labels: Tensor, words: Tensor) -> Tensor:
    """Labels [P, S, S] and word numbers [P] -> [P, S, S] float: 1 where the word is."""
    table = word_table()[words]
    return table.gather(1, labels.long().flatten(1)).view(labels.shape)
