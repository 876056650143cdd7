"""Contrastive losses on pairs of images and texts.

DHN-NCE of MedCLIP-SAMv2 (methods.md 2.2), and InfoNCE to compare it with.

Knows torch and embeddings; not encoders, data or training. Row i of the images belongs to row i of the texts,
and every other text of the batch is a negative of image i, and the other way round. Two rows that say the
same ("normal chest") are negatives of each other, so who draws batches should keep equal texts apart.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dhn_nce(
    image: Tensor,
    text: Tensor,
    *,
    temperature: float = 0.6,
    beta_image: float = 0.15,
    beta_text: float = 0.15,
) -> Tensor:
    """Decoupled hard-negative noise contrastive estimation; a scalar that may be below 0.

    With s_ij the cosine of image i and text j, and t the temperature: L(image to text) = mean_i [ -s_ii / t +
    log sum_{j != i} exp(s_ij / t) W_ij ], W_ij = (B - 1) exp(beta s_ij / t) / sum_{k != i} exp(beta s_ik /
    t); text to image is the same on the transpose. Gradients go through W, as written.

    Source: MedCLIP-SAMv2 (arXiv 2409.19483), DHN-NCE, methods.md 2.2. The released code has another loss,
    which pulls sufficiently near negatives closer (methods.md 2.2, items 1 to 5).

    Args:
        image: [B, E], B at least 2, of any length but not all zeros.
        text: [B, E], likewise; row i belongs to row i of ``image``.
        temperature: above 0.
        beta_image: from 0 up; how much more a near negative weighs than a far one, for image to text; with 0
            all weigh 1 (decoupled loss).
        beta_text: the same for text to image.

    Returns:
        The sum over both directions of the mean over rows, in float32 (float64 for float64), also under
            autocast.

    Raises:
        ValueError: the embeddings do not pair up, there are fewer than two pairs, or a temperature or beta is
            out of range.
    """
    if not (beta_image >= 0 and beta_text >= 0):  # written so that NaN fails too
        raise ValueError(
            f"The weights of hard negatives must be at least 0, got {beta_image} and {beta_text}."
        )
    scaled = _scaled_cosines(image, text, temperature)
    return _decouple(scaled, beta_image) + _decouple(scaled.T, beta_text)


def info_nce(image: Tensor, text: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE, the loss of CLIP (arXiv 2103.00020, section 2.3); a scalar, 0 or above.

    Args:
        image: [B, E], B at least 2, of any length but not all zeros.
        text: [B, E], likewise; row i belongs to row i of ``image``.
        temperature: above 0.

    Returns:
        The mean of the cross-entropies of both directions; `dhn_nce` is a sum over the directions.

    Raises:
        ValueError: the embeddings do not pair up, there are fewer than two pairs, or the temperature is not
            above 0.
    """
    scaled = _scaled_cosines(image, text, temperature)
    own = torch.arange(len(scaled), device=scaled.device)
    return (F.cross_entropy(scaled, own) + F.cross_entropy(scaled.T, own)) / 2


def _scaled_cosines(image: Tensor, text: Tensor, temperature: float) -> Tensor:
    """[B, B]: cosine of image i and text j, over the temperature."""
    if image.ndim != 2 or image.shape != text.shape:
        raise ValueError(
            f"Images and texts must both be [B, E], got {list(image.shape)} and {list(text.shape)}."
        )
    if len(image) < 2:
        raise ValueError(
            "A contrastive loss needs at least 2 pairs, because "
            f"the others are the negatives; got {len(image)}."
        )
    if not temperature > 0:
        raise ValueError(f"The temperature must be above 0, got {temperature}.")
    # Autocast would multiply in half precision: 3 digits of a cosine.
    with torch.autocast(image.device.type, enabled=False):
        image, text = (part if part.dtype == torch.float64 else part.float() for part in (image, text))
        return F.normalize(image, dim=1) @ F.normalize(text, dim=1).T / temperature


def _decouple(scaled: Tensor, beta: float) -> Tensor:
    """One direction of the loss, of scaled cosines [B, B].

    log sum exp(s) W = log (B - 1) + logsumexp((1 + beta) s) - logsumexp(beta s), over negatives.
    """
    count = len(scaled)
    own = torch.eye(count, dtype=torch.bool, device=scaled.device)
    negatives = scaled[~own].reshape(count, count - 1)  # not filled with -inf: 0 * -inf is NaN at beta 0
    pushed = ((1 + beta) * negatives).logsumexp(1) - (beta * negatives).logsumexp(1) + math.log(count - 1)
    return (pushed - scaled.diagonal()).mean()
