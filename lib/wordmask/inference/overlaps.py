"""Resolves overlapping masks: assigns each voxel to one word and counts voxels per word.

Each word's marked pixels are kept apart until the end (a bit per pixel plus a float32 per marked one), so a
word that turns out to be absent, or a speck that is removed, leaves its place to the next best word, and no
word's own mask depends on the others. Knows numpy only; the label values come from the caller
(`wordmask.words.labels`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Marks:
    """The pixels of one slice in which one word is above its threshold.

    Attributes:
        shape: (height, width).
        bits: the mask, packed.
        probability: [m] float32, of the marked pixels in row-major order.
        uncertainty: [m] float32, nats, where the model has its own; None stands for the binary entropy of
            the probability.
    """

    shape: tuple[int, int]
    bits: NDArray[np.uint8]
    probability: NDArray[np.float32]
    uncertainty: NDArray[np.float32] | None

    @classmethod
    def above(
        cls,
        probability: NDArray[np.float32],
        threshold: float,
        uncertainty: NDArray[np.float32] | None = None,
    ) -> Marks | None:
        """Marks of one slice; None when no pixel is above the threshold.

        Args:
            probability: [h, w], 0..1.
            threshold: 0..1.
            uncertainty: [h, w], nats, where the model has its own.
        """
        mask = probability > threshold
        if not mask.any():
            return None
        height, width = mask.shape
        return cls(
            (height, width),
            np.packbits(mask),
            probability[mask],
            None if uncertainty is None else uncertainty[mask],
        )

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The marked pixels, [h, w]."""
        return np.unpackbits(self.bits, count=self.shape[0] * self.shape[1]).astype(bool).reshape(self.shape)

    def within(self, kept: NDArray[np.bool_]) -> Marks | None:
        """The marks inside another mask [h, w]; None when none are left."""
        mask = self.mask
        stays = kept[mask]
        if stays.all():
            return self
        if not stays.any():
            return None
        nats = None if self.uncertainty is None else self.uncertainty[stays]
        return Marks(self.shape, np.packbits(mask & kept), self.probability[stays], nats)


WordMarks = dict[int, Marks]  # slice index -> marks; slices without a marked pixel are left out


@dataclass
class Tally:
    """What a word won.

    Attributes:
        voxels: how many.
        probability: sum over these voxels, added up slice by slice.
        uncertainty: likewise, in nats.
        areas: slice index -> voxels.
    """

    voxels: int = 0
    probability: float = 0.0
    uncertainty: float = 0.0
    areas: dict[int, int] = field(default_factory=dict)

    @property
    def largest_slice(self) -> int | None:
        """Index of the slice with most voxels, the first of equals; None when the word has none."""
        return max(self.areas, key=lambda index: self.areas[index]) if self.areas else None


def binary_entropy(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """Entropy of a yes-or-no decision with this probability, in nats: 0..ln 2, exactly 0 at 0 and 1.

    Computed in float64. `wordmask.models.medclip_samv2_weak.model.entropy` is the same in torch and float32,
    on the model's device; the last bits differ.
    """
    p = probability.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        nats = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    return np.nan_to_num(nats, nan=0.0).astype(np.float32)


def mask_of(marks: Mapping[int, Marks], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """A word's own mask before overlaps are resolved.

    Args:
        marks: of the word, slice by slice.
        shape: (slices, height, width), the shape of the mask.
    """
    mask = np.zeros(shape, dtype=bool)
    for index, slice_marks in marks.items():
        mask[index] = slice_marks.mask
    return mask


def resolve(
    words: Sequence[tuple[int, Mapping[int, Marks]]], shape: tuple[int, int, int]
) -> tuple[Labels, list[Tally]]:
    """Give each voxel to the word of the highest probability; of equals to the earlier word.

    Args:
        words: (label value, marks) of each word.
        shape: (slices, height, width).

    Returns:
        Labels [n, h, w], 0 where no word is, uint8, or uint16 where a value needs it, and one tally per word.
    """
    byte = all(value < 256 for value, _ in words)
    labels: Labels = np.zeros(shape, dtype=np.uint8) if byte else np.zeros(shape, dtype=np.uint16)
    tallies = [Tally() for _ in words]
    for index in sorted({index for _, marks in words for index in marks}):
        best = np.zeros(shape[1:], dtype=np.float32)
        nats = np.zeros(shape[1:], dtype=np.float32)
        for value, marks in words:
            if index in marks:
                _claim(marks[index], value, labels[index], best, nats)
        for (value, _), tally in zip(words, tallies, strict=True):
            _count(tally, index, labels[index] == value, best, nats)
    return labels, tallies


def _claim(
    marks: Marks,
    value: int,
    labels: NDArray[np.integer],
    best: NDArray[np.float32],
    nats: NDArray[np.float32],
) -> None:
    """Give ``value`` the pixels in which it beats the best so far.

    Changes labels, best and nats [h, w] in place.
    """
    mask = marks.mask
    wins = marks.probability > best[mask]
    mask[mask] = wins
    labels[mask] = value
    best[mask] = marks.probability[wins]
    nats[mask] = (
        binary_entropy(marks.probability[wins]) if marks.uncertainty is None else marks.uncertainty[wins]
    )


def _count(
    tally: Tally, index: int, won: NDArray[np.bool_], best: NDArray[np.float32], nats: NDArray[np.float32]
) -> None:
    voxels = int(np.count_nonzero(won))
    if voxels:
        tally.voxels += voxels
        tally.areas[index] = voxels
        tally.probability += float(best[won].sum(dtype=np.float64))
        tally.uncertainty += float(nats[won].sum(dtype=np.float64))
