"""The losses that the trainings share."""

from __future__ import annotations

import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

_dice = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=1.0, smooth_dr=1.0)


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy plus Dice with squared denominators (Simple-ViLMedSAM, methods.md 1.6); smooth 1, so that empty masks count.

    logits, masks: [P, h, w]; masks 0 or 1.
    """
    return F.binary_cross_entropy_with_logits(logits, masks) + _dice(logits[:, None], masks[:, None])
