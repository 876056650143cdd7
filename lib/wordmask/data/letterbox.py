"""Where model pixels lie in the original slice.

Each branch of a model sees the slice in a square of its own: CLIP pads on all sides, SAM pads at the bottom
right, others stretch. A `Letterbox` is the affine from the slice to such a square, so that no code relies on
two paddings being equal. Knows torch only; not volumes or models.

Coordinates are continuous pixel coordinates: pixel i covers [i, i + 1), its centre is i + 0.5; x to the
right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Align = Literal["center", "top_left", "stretch"]


@dataclass(frozen=True)
class Letterbox:
    """An axis-aligned affine from original pixels to model pixels: ``model = original * scale + offset``.

    Attributes:
        original: (height, width) of the slice, in pixels.
        model: (height, width) of the model's input, in pixels.
        scale: (y, x), model pixels per original pixel.
        offset: (y, x), in model pixels.
    """

    original: tuple[int, int]
    model: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    @classmethod
    def fit(cls, original: tuple[int, int], model: tuple[int, int], align: Align) -> Letterbox:
        """Fit the whole slice into the model's input.

        Args:
            original: (height, width) of the slice.
            model: (height, width) of the model's input.
            align: ``center`` and ``top_left`` keep the aspect ratio and pad with zeros, on all sides or at
                the bottom right; ``stretch`` fills the input.
        """
        ratio = (model[0] / original[0], model[1] / original[1])
        if align == "stretch":
            return cls(original, model, ratio, (0.0, 0.0))
        scale = min(ratio)
        if align == "top_left":
            return cls(original, model, (scale, scale), (0.0, 0.0))
        offset = ((model[0] - original[0] * scale) / 2, (model[1] - original[1] * scale) / 2)
        return cls(original, model, (scale, scale), offset)

    def to_model(self, images: Tensor) -> Tensor:
        """Resize slices [N, C, H, W] to [N, C, h, w]: antialiased bilinear, exact zeros in the padding."""
        inside_h = max(1, round(self.original[0] * self.scale[0]))
        inside_w = max(1, round(self.original[1] * self.scale[1]))
        resized = images
        if (inside_h, inside_w) != tuple(images.shape[-2:]):
            resized = F.interpolate(
                images, size=(inside_h, inside_w), mode="bilinear", align_corners=False, antialias=True
            )
        top, left = round(self.offset[0]), round(self.offset[1])
        bottom, right = self.model[0] - inside_h - top, self.model[1] - inside_w - left
        return F.pad(resized, (left, right, top, bottom))

    def valid(self, device: torch.device | str = "cpu") -> Tensor:
        """Mark where the model's input shows the slice and not padding: bool [h, w]."""
        return self.to_model(torch.ones(1, 1, *self.original, device=device))[0, 0] > 0

    def to_original(self, maps: Tensor, mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
        """Sample maps at the centres of the original pixels.

        Args:
            maps: [P, h', w'] over the whole model square, on any grid.
            mode: how to interpolate.

        Returns:
            [P, H, W].
        """
        ys = self._grid_coordinates(self.original[0], self.scale[0], self.offset[0], self.model[0], maps)
        xs = self._grid_coordinates(self.original[1], self.scale[1], self.offset[1], self.model[1], maps)
        return _look_up(maps, ys, xs, mode)

    def resample(self, maps: Tensor, other: Letterbox, size: tuple[int, int]) -> Tensor:
        """Resample maps from this model's square onto the square of another model that sees the same slice.

        Args:
            maps: [P, g, g] on this square.
            other: the other model's letterbox.
            size: (height, width) of the grid on the other square.

        Returns:
            [P, *size], 0 in the padding of the other square.
        """
        coordinates, insides = [], []
        for axis in (0, 1):
            cells = torch.arange(size[axis], device=maps.device, dtype=torch.float32) + 0.5
            there = cells * (other.model[axis] / size[axis])
            original = (there - other.offset[axis]) / other.scale[axis]
            insides.append((original >= 0) & (original <= self.original[axis]))
            here = original * self.scale[axis] + self.offset[axis]
            coordinates.append(here / self.model[axis] * 2 - 1)
        looked_up = _look_up(maps, coordinates[0], coordinates[1], "bilinear")
        return looked_up * (insides[0][:, None] & insides[1][None, :]).to(maps.dtype)

    def points_to_model(self, points: Tensor) -> Tensor:
        """Convert points [..., 2] as (x, y) from original pixels to model pixels."""
        scale = points.new_tensor([self.scale[1], self.scale[0]])
        offset = points.new_tensor([self.offset[1], self.offset[0]])
        return points * scale + offset

    def _grid_coordinates(self, count: int, scale: float, offset: float, model: int, like: Tensor) -> Tensor:
        centres = torch.arange(count, device=like.device, dtype=torch.float32) + 0.5
        return (centres * scale + offset) / model * 2 - 1


def _look_up(maps: Tensor, ys: Tensor, xs: Tensor, mode: Literal["bilinear", "nearest"]) -> Tensor:
    """Sample maps [P, h, w] at the outer product of coordinates, -1..1 over the square; edges extend."""
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)
    grid = grid[None].expand(maps.shape[0], -1, -1, -1)
    return F.grid_sample(maps[:, None].float(), grid, mode=mode, padding_mode="border", align_corners=False)[
        :, 0
    ]


def labels_in_frame(labels: Tensor, frame: Letterbox, size: int) -> Tensor:
    """Sample labels [B, H, W] as [B, size, size] over the model square: nearest, 0 in the padding."""
    cells = (torch.arange(size, dtype=torch.float32) + 0.5) * (frame.model[0] / size)
    rows = ((cells - frame.offset[0]) / frame.scale[0]).floor().long()
    columns = ((cells - frame.offset[1]) / frame.scale[1]).floor().long()
    inside = ((rows >= 0) & (rows < labels.shape[1]))[:, None] & (
        (columns >= 0) & (columns < labels.shape[2])
    )[None]
    return labels[:, rows.clamp(0, labels.shape[1] - 1)][:, :, columns.clamp(0, labels.shape[2] - 1)] * inside
