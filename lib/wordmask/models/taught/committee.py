"""The committee that answers for taught words: its networks and the words' vectors.

Knows tensors and the card of a version; not slices, files or the pipeline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordmask.models.base import Segmenter
from wordmask.models.taught.linear import LinearMember
from wordmask.models.taught.networks import Member
from wordmask.weights.card import CommitteeCard
from wordmask.words.prompts import Prompt, parse_prompts

JUDGE = 0  # the member that does not learn from all cases, and so can be judged by some


class Committee(nn.Module):
    """Networks with different strengths, which learn the same words.

    Args:
        card: which members and words there are.
        vectors: [K, width], one row per word of the card, of unit length.
        fresh: whether pretrained members start from their ImageNet weights; else weights are loaded next.

    Raises:
        WeightsError: the ImageNet weights are missing.
    """

    def __init__(self, card: CommitteeCard, vectors: Tensor, *, fresh: bool = False) -> None:
        super().__init__()
        self.card = card
        self.networks = [Member(kind, card.encoder, vectors.shape[1], fresh=fresh) for kind in card.members]
        self.members = nn.ModuleList(self.networks)
        self.linear = LinearMember(card.encoder, len(vectors))
        self.vectors: Tensor
        self.register_buffer("vectors", vectors)
        self.rows = {word: row for row, word in enumerate(card.words)}

    def side_for(self, size: tuple[int, int]) -> int:
        """The side of the square that the networks see, for a slice of (height, width)."""
        return next((side for side in self.card.sides if side >= max(size)), self.card.sides[-1])

    def features(self, pixels: Tensor, mirrored: int = 0) -> Tensor:
        """Features of slices, [N, members, channels, s, s].

        Args:
            pixels: [N, 3, s, s] in 0..1.
            mirrored: columns that show the slice, when its mirror image is to be looked at, too, and the
                result is the mean of both. 0: it is not.
        """
        seen = pixels * 2 - 1
        found = [member.features(seen) for member in self.networks]
        if mirrored:
            other = _mirror(seen, mirrored)
            found = [
                (one + _mirror(member.features(other), mirrored)) / 2
                for one, member in zip(found, self.networks, strict=True)
            ]
        return torch.stack(found, 1)

    def linear_features(self, pixels: Tensor, mirrored: int = 0) -> Tensor:
        """Features of pictures for the linear member; arguments as of `features`."""
        seen = pixels * 2 - 1
        found = self.linear.features(seen)
        if mirrored:
            other = self.linear.features(_mirror(seen, mirrored))
            columns = max(1, round(mirrored * found.shape[-1] / pixels.shape[-1]))
            found = (found + _mirror(other, columns)) / 2
        return found

    def logits(self, features: Tensor, rows: Tensor, frozen: Tensor | None = None) -> Tensor:
        """Logits of every member for pairs, [members, P, s, s].

        Args:
            features: [P, members, channels, s, s].
            rows: [P], of the words' vectors.
            frozen: [P, 2, s, s], as `WordHead.forward`.
        """
        vectors = self.vectors[rows]
        return torch.stack(
            [member.head(features[:, number], vectors, frozen) for number, member in enumerate(self.networks)]
        )


@torch.no_grad()
def word_vectors(base: Segmenter, words: Sequence[str]) -> Tensor:
    """The vectors that stand for words in the head, [K, width], of unit length.

    A word that the model's text encoder knows has its embedding. Any other has a direction drawn at random
    from its spelling, because an encoder that never met it would give many words the same one.

    Args:
        base: the frozen model.
        words: keys of words.
    """
    rows = []
    for word in words:
        (prompt,) = parse_prompts([word])
        vector = base.word_vector(prompt)
        rows.append(_drawn(prompt, base.word_width) if vector is None else vector.detach().cpu().float())
    return F.normalize(torch.stack(rows), dim=1)


def _drawn(prompt: Prompt, width: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(prompt.key.encode()).digest()[:8]) >> 1
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def _mirror(maps: Tensor, columns: int) -> Tensor:
    """Exchange left and right within the first columns."""
    return torch.cat([maps[..., :columns].flip(-1), maps[..., columns:]], dim=-1)
