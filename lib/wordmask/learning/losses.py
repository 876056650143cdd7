"""The losses that the trainings share, and how large their gradients may be."""

from __future__ import annotations

import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

GRADIENT_LIMIT = 1.0  # norm of all gradients of a step together; larger ones are scaled down to it

SMALLEST_PRESENT = 0.0006  # share of the frame; a smaller structure counts neither as present nor as absent

_dice = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=1.0, smooth_dr=1.0)


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy plus Dice with squared denominators (Simple-ViLMedSAM, methods.md 1.6).

    Both sums of the Dice are smoothed by 1, so that empty masks count.

    Args:
        logits: [P, h, w].
        masks: [P, h, w], 0 or 1.
    """
    return F.binary_cross_entropy_with_logits(logits, masks) + _dice(logits[:, None], masks[:, None])


def presence_loss(presence: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy of "the slice shows the structure".

    Slices that show almost nothing of it are left out.

    Args:
        presence: [P], logits.
        masks: [P, h, w], 0 or 1.
    """
    share = masks.mean((1, 2))
    clear = (share == 0) | (share > SMALLEST_PRESENT)
    if not clear.any():
        return presence.sum() * 0
    return F.binary_cross_entropy_with_logits(presence[clear], (share[clear] > 0).float())
