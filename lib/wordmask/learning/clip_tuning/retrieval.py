"""Does CLIP find the caption of a picture, and the picture of a caption, among fifty?

The check of MedCLIP-SAMv2 (methods.md 2.2).

Knows embeddings; not encoders, not files.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

# Batches of 50, five times, as in the paper's check on ROCO; the seed is arbitrary, but fixed.
BATCH, ROUNDS, SEED = 50, 5, 20_240_919


@dataclass(frozen=True)
class Retrieval:
    """Shares of pairs, 0..1, whose right partner came first, or among the first two.

    Attributes:
        pairs: how many were asked about.
    """

    image_to_text_top1: float
    image_to_text_top2: float
    text_to_image_top1: float
    text_to_image_top2: float
    pairs: int

    @property
    def top1(self) -> float:
        """Mean of both directions: the one number that decides."""
        return (self.image_to_text_top1 + self.text_to_image_top1) / 2

    def summary(self) -> dict[str, float]:
        """The figures by name, ready for JSON."""
        return asdict(self)


def retrieval(
    image: Tensor,
    text: Tensor,
    captions: Sequence[Hashable],
    pictures: Sequence[Hashable],
    *,
    batch: int = BATCH,
    rounds: int = ROUNDS,
) -> Retrieval:
    """Measure how often the right caption is found for a picture, and the right picture for a caption.

    Pairs are dealt into batches in ``rounds`` fixed ways, and the shares are means over them. The last batch
    is filled up with pairs that were asked about already, so that every pair has equally many rivals (N - 1
    where there are fewer than ``batch``). Another pair with an equal caption or an equal picture counts as
    right; a wrong one that scores just as high counts as better, so that a model that says the same of
    everything scores 0.

    Args:
        image: [N, E], unit length.
        text: [N, E], unit length; row i belongs to row i of ``image``.
        captions: [N], what row i says.
        pictures: [N], what row i shows.
        batch: pairs that compete.
        rounds: ways of dealing them.

    Raises:
        ValueError: there are no pairs.
    """
    if not len(image):
        raise ValueError("There are no pairs to ask about.")
    said, shown = _number_distinct(captions), _number_distinct(pictures)
    found = torch.zeros(2, 2, dtype=torch.float64)  # direction, top 1 or 2
    for number in range(rounds):
        order = torch.randperm(len(image), generator=torch.Generator().manual_seed(SEED + number))
        for start in range(0, len(order), batch):
            asked = order[start : start + batch]
            rows = torch.cat([asked, order[: max(0, min(batch, len(order)) - len(asked))]])
            same = (said[rows][:, None] == said[rows]) | (shown[rows][:, None] == shown[rows])
            scores = image[rows] @ text[rows].T
            for direction, table in enumerate((scores, scores.T)):
                ranks = _ranks(table, same)[: len(asked)]
                found[direction] += torch.stack([(ranks < top).sum() for top in (1, 2)])
    (i1, i2), (t1, t2) = (found / (rounds * len(image))).tolist()
    return Retrieval(i1, i2, t1, t2, len(image))


def _ranks(scores: Tensor, same: Tensor) -> Tensor:
    """How many wrong candidates score at least as high as the best right one, [B].

    Args:
        scores: [B, B], a row per question.
        same: [B, B], whether a candidate is right.
    """
    right = scores.masked_fill(~same, -torch.inf).amax(1, keepdim=True)
    return ((scores >= right) & ~same).sum(1)


def _number_distinct(things: Sequence[Hashable]) -> Tensor:
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(thing, len(numbers)) for thing in things])
