"""Models that were taught words, with random committees."""

from __future__ import annotations

from typing import Any

import torch
from tests.support.stub_segmenters import PromptFreeStub, stub_preset

from wordmask.models.base import Segmenter
from wordmask.models.taught.committee import Committee, word_vectors
from wordmask.models.taught.segmenter import TaughtSegmenter
from wordmask.weights.card import CommitteeCard, TaughtWord

MEMBERS = ("pretrained", "lean")
EVEN = (0.5, 0.5, 0.0, 0.0)


def random_committee(base: Segmenter, words: dict[str, TaughtWord], **changes: Any) -> Committee:
    """A committee of random networks that mark about half of what they see."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        form = CommitteeCard(
            **{
                "encoder": "efficientnet_lite0",
                "members": MEMBERS,
                "sides": (32, 64),
                "words": words,
                **changes,
            }
        )
        committee = Committee(form, word_vectors(base, list(words)))
        for member in committee.networks:
            torch.nn.init.normal_(member.head.weights.weight, std=0.7)
            torch.nn.init.constant_(member.head.weights.bias, 0.3)
    return committee


def taught_stub(words: dict[str, TaughtWord] | None = None, **changes: Any) -> TaughtSegmenter:
    """A stub that answers for its own words, and a committee for "femur" and others."""
    base = PromptFreeStub(stub_preset())
    chosen = words or {"femur": TaughtWord(weights=EVEN)}
    return TaughtSegmenter(base, random_committee(base, chosen, **changes)).eval().requires_grad_(False)
