"""Scores of presence for a CLIP whose cosines have moved: the limits of a preset keep their meaning.

Knows cosines and `WordScores`; not encoders. A preset's limits (docs/presence.md) are made for the logits of
its own CLIP. After a tuning,
scale and bias of the cosine are fitted so that on the same pictures each word is as probable as before: no
label is needed for that, and what was wrong before stays wrong. Where even the best fit contradicts the old
CLIP, presence must no longer be judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.models.word_scores import WordScores

ENOUGH = 0.9  # agreement below which a CLIP is taken to have unlearned single words


@dataclass(frozen=True)
class PresenceFit:
    """Presence as logit = scale * cosine + bias, and how well it agrees with the presence before.

    Attributes:
        agreement: share of (picture, word) pairs on the same side of the preset's limit as before.
        kept: the same of the pairs that were above the limit.
        holds: whether presence may still be judged, by these numbers.
    """

    scale: float
    bias: float
    agreement: float
    kept: float
    pictures: int
    holds: bool


def fit_presence(scores: WordScores, before: Tensor, after: Tensor, limit: float) -> PresenceFit:
    """Fit ``scores`` in place, so that each word is as probable as before on the same pictures.

    Minimises the cross-entropy to the probabilities that ``scores`` gave to the old cosines; the problem is
    convex.

    Args:
        scores: scale and bias of presence.
        before: [pictures, words], cosines of the old CLIP.
        after: [pictures, words], cosines of the new CLIP.
        limit: the preset's slice_logit.
    """
    with torch.no_grad():
        old = scores.presence(before.to(scores.presence_bias.device)).double().cpu()
    new, numbers = after.double(), torch.tensor([10.0, -3.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([numbers], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(numbers[0] * new + numbers[1], old.sigmoid())
        value.backward()
        return value

    optimizer.step(loss)
    # A scale of 0 or less has no logarithm.
    scale, bias = max(float(numbers[0].detach()), 1e-3), float(numbers[1].detach())
    with torch.no_grad():
        scores.presence_log_scale.fill_(torch.tensor(scale).log().item())
        scores.presence_bias.fill_(bias)
    was, is_now = old >= limit, scale * new + bias >= limit
    kept = float(is_now[was].double().mean()) if was.any() else 1.0
    agreement = float((was == is_now).double().mean())
    return PresenceFit(
        round(scale, 4), round(bias, 4), round(agreement, 4), round(kept, 4), len(before), agreement >= ENOUGH
    )
