"""The losses that the trainings share, and how large their gradients may be."""

from __future__ import annotations

import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

GRADIENT_LIMIT = 1.0  # norm of all gradients of a step together; larger ones are scaled down to it

SMALLEST_PRESENT = 0.0006  # share of the frame; a smaller structure counts neither as present nor as absent

_dice = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=1.0, smooth_dr=1.0)
_plain_dice = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)
_iou = DiceLoss(sigmoid=True, jaccard=True, smooth_nr=1.0, smooth_dr=1.0)


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy plus Dice with squared denominators (Simple-ViLMedSAM, methods.md 1.6).

    Both sums of the Dice are smoothed by 1, so that empty masks count.

    Args:
        logits: [P, h, w].
        masks: [P, h, w], 0 or 1.
    """
    return F.binary_cross_entropy_with_logits(logits, masks) + _dice(logits[:, None], masks[:, None])


def mask_and_iou_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy plus Dice plus IoU (CLIP-Guided SAM, methods.md 4.4), the last two per mask.

    Their sums are smoothed by 1, so that empty masks count; the released code adds 1e-6, with which a word
    that is absent teaches nothing but its cross-entropy.

    Args:
        logits: [P, h, w].
        masks: [P, h, w], 0 or 1.
    """
    overlaps: Tensor = _plain_dice(logits[:, None], masks[:, None]) + _iou(logits[:, None], masks[:, None])
    return F.binary_cross_entropy_with_logits(logits, masks) + overlaps


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
