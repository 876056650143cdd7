"""How well two masks agree: Dice, IoU and the normalised surface distance, as MONAI computes them.

Knows two masks and the size of a voxel; not words, not cases.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import torch
from monai.metrics import compute_dice, compute_iou, compute_surface_dice
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Agreement:
    """Agreement of two masks.

    Attributes:
        dice: 0..1; NaN when both masks are empty, 0 when one of them is.
        iou: intersection over union, likewise.
        nsd: the normalised surface distance (surface Dice), likewise: the share of both surfaces that is no
            farther than the tolerance from the other one.
        predicted_voxels: count.
        true_voxels: count.
    """

    dice: float
    iou: float
    nsd: float
    predicted_voxels: int
    true_voxels: int

    @property
    def shown(self) -> bool:
        """Whether the truth contains the structure, so that its scores count.

        Otherwise `predicted_voxels` are false alarms.
        """
        return self.true_voxels > 0

    @property
    def found(self) -> bool:
        """Whether something was marked."""
        return self.predicted_voxels > 0


def dice(prediction: Mask, truth: Mask) -> float:
    """Twice the common voxels over the sum of both: 0..1, NaN when both masks are empty.

    Raises:
        ValueError: the shapes differ.
    """
    pair = _crop(prediction, truth)
    return nan if pair is None else float(compute_dice(*pair, ignore_empty=False))


def agreement(prediction: Mask, truth: Mask, *, spacing: Sequence[float], tolerance: float) -> Agreement:
    """Compare two masks of one shape.

    An axis of length 1 is left out, so that a single slice has an outline and not two faces.

    Args:
        prediction: bool.
        truth: bool.
        spacing: size of a voxel along each axis, in any unit.
        tolerance: of the surface, in the same unit.

    Raises:
        ValueError: the shapes differ.
    """
    counts = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    pair = _crop(prediction, truth)
    if pair is None:
        return Agreement(nan, nan, nan, *counts)
    if not all(counts):
        return Agreement(0.0, 0.0, 0.0, *counts)
    flat = next((axis for axis, size in enumerate(truth.shape) if size == 1), None)
    if flat is not None:
        pair = (pair[0].squeeze(flat + 2), pair[1].squeeze(flat + 2))
        spacing = [size for axis, size in enumerate(spacing) if axis != flat]
    with warnings.catch_warnings():
        # MONAI 1.6 warns about its own call.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        nsd = compute_surface_dice(
            *pair, class_thresholds=[tolerance], include_background=True, spacing=list(spacing)
        )
    return Agreement(float(compute_dice(*pair)), float(compute_iou(*pair)), float(nsd), *counts)


def _crop(prediction: Mask, truth: Mask) -> tuple[Tensor, Tensor] | None:
    """Both as [1, 1, ...], cut to the box that holds every voxel of either, which changes no metric.

    None when both are empty.
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"Only masks of one shape can be compared, got {prediction.shape} and {truth.shape}."
        )
    boxes = ndimage.find_objects((prediction | truth).view(np.uint8))
    if not boxes:
        return None
    both = (
        torch.from_numpy(np.ascontiguousarray(mask[boxes[0]]))[None, None] for mask in (prediction, truth)
    )
    return next(both), next(both)
