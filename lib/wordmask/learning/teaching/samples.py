"""Slices of labelled cases, ready for the networks: small squares of pixels and masks, kept in memory.

Knows cases, windows, planes and the frozen model; not networks, not losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.learning.cases import LabelledVolume
from wordmask.learning.shown import ShownSlices, slices_worth_learning
from wordmask.models.base import Segmenter, SliceKey
from wordmask.models.taught.committee import Committee
from wordmask.models.taught.segmenter import frozen_maps
from wordmask.progress import CancelToken
from wordmask.words.vocabulary import opposite_word

FROZEN_BATCH = 8  # slices that the frozen model sees at a time


@dataclass(frozen=True)
class Kind:
    """What the slices of one batch have in common.

    Attributes:
        side: of the square, in pixels.
        words: which are labelled in each slice, in alphabetical order.
        mirror: whether they may be mirrored.
        picture: whether they are pictures and not slices of volumes.
    """

    side: int
    words: tuple[str, ...]
    mirror: bool
    picture: bool


@dataclass
class Samples:
    """Slices of one kind.

    Attributes:
        cases: the case of each slice.
        pixels: uint8 [3, s, s] each; the neighbours of a slice in a volume are the first and last channel.
        masks: uint8 [words, s, s] each, 255 where the word is.
        frozen: float16 [words, 2, s, s] each, maps of the frozen model, 0 for a word without its help; empty
            where no word has its help.
    """

    cases: list[str] = field(default_factory=list)
    pixels: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    frozen: list[Tensor] = field(default_factory=list)

    def shows(self, word: int) -> Tensor:
        """Which slices show a word, bool [N]."""
        return torch.tensor([bool((mask[word] > 127).any()) for mask in self.masks])

    def without(self, cases: frozenset[str]) -> Samples:
        """The slices of all other cases."""
        kept = [row for row, case in enumerate(self.cases) if case not in cases]
        return Samples(
            [self.cases[row] for row in kept],
            [self.pixels[row] for row in kept],
            [self.masks[row] for row in kept],
            [self.frozen[row] for row in kept] if self.frozen else [],
        )


def collect(
    cases: Sequence[LabelledVolume],
    base: Segmenter,
    committee: Committee,
    frozen: frozenset[str],
    *,
    cancel: CancelToken,
) -> dict[Kind, Samples]:
    """Cut cases into samples.

    Args:
        cases: to learn from.
        base: the frozen model.
        committee: what will learn.
        frozen: words for which the frozen model's maps are computed.
        cancel: its ``cancel()`` ends the work with CancelledError.
    """
    found: dict[Kind, Samples] = {}
    for case in cases:
        cancel.check()
        for shown in slices_worth_learning(case, base.preset):
            if not shown.indices:
                continue
            picture = case.volume.is_picture
            words = tuple(sorted(shown.masks))
            mirror = picture and committee.card.mirror and not any(opposite_word(word) for word in words)
            frame = Letterbox.fit(*_sizes(shown, committee), "top_left")
            samples = found.setdefault(Kind(frame.model[0], words, mirror, picture), Samples())
            _add(samples, shown, words, frame)
            samples.frozen += _frozen_maps(shown, words, frame, base, frozen)
    return found


def _sizes(shown: ShownSlices, committee: Committee) -> tuple[tuple[int, int], tuple[int, int]]:
    size = shown.view.shape[1:]
    side = committee.side_for(size)
    return size, (side, side)


def _add(samples: Samples, shown: ShownSlices, words: Sequence[str], frame: Letterbox) -> None:
    view, window = shown.view, shown.window[1]
    cut = view.unit_range if shown.case.volume.is_picture else view.with_neighbours
    pixels = frame.to_model(torch.from_numpy(cut(shown.indices, window)))
    masks = np.stack([shown.masks[word][shown.indices] for word in words], axis=1)
    drawn = frame.to_model(torch.from_numpy(masks).float())
    samples.cases += [shown.case.case.name] * len(shown.indices)
    samples.pixels += list(_as_bytes(pixels))
    samples.masks += list(_as_bytes(drawn))


@torch.no_grad()
def _frozen_maps(
    shown: ShownSlices, words: Sequence[str], frame: Letterbox, base: Segmenter, frozen: frozenset[str]
) -> list[Tensor]:
    side, count = frame.model[0], len(shown.indices)
    asked = [row for row, word in enumerate(words) if word in frozen]
    if not asked:
        return []
    maps = torch.zeros(count, len(words), 2, side, side, dtype=torch.float16)
    prompts = base.encode_prompts([shown.case.prompts[words[row]] for row in asked])
    digest, plane = shown.case.volume.digest, str(shown.view.plane)
    for start in range(0, count, FROZEN_BATCH):
        indices = shown.indices[start : start + FROZEN_BATCH]
        pixels = torch.from_numpy(shown.view.unit_range(indices, shown.window[1])).to(base.device)
        features = base.encode_slices(pixels, [SliceKey(digest, plane, index) for index in indices])
        found = frozen_maps(base(features, prompts), frame).cpu().half()
        maps[start : start + len(indices), asked] = found.unflatten(0, (len(indices), len(asked)))
    return list(maps)


def _as_bytes(unit: Tensor) -> Tensor:
    return (unit * 255).round().to(torch.uint8)
