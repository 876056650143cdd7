"""Sentences about a structure, written from its mask: what MedCLIPSeg reads beside the bare word.

The paper's five styles (methods.md 3.4): the sentence itself, the same without the place, with more than is
needed, with what is wrong, and the bare word. Knows words and masks; not tokens, models or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Style = Literal["bare", "original", "missing_location", "overdescriptive", "contradictory"]
# Of sentences that say what is there.
TRUE_STYLES: tuple[Style, ...] = ("original", "missing_location", "overdescriptive")
COUNTS = ("one", "two", "three", "several")
SIZES = ((0.01, "small"), (0.08, "medium"), (1.0, "large"))  # share of the slice, up to which
ROUND, OVAL = 0.75, 0.45  # of the axes' ratio, from which on
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "center", "right")
# All words of the sentences, for text tables that do not have every word.
SENTENCE_WORDS = (
    *COUNTS,
    *(name for _, name in SIZES),
    "round oval elongated",
    *ROWS,
    *COLUMNS,
    "in the part of the image, which covers about percent of what is shown",
    *"0123456789",
)
SMALLEST_PART = 0.1  # of the largest; smaller ones are not counted


@dataclass(frozen=True)
class Appearance:
    """What a structure looks like in a slice.

    Attributes:
        count: number of its parts, in words.
        size: in words.
        shape: likewise.
        row: where its middle lies, 0 to 2 from the top.
        column: likewise from the left of the picture.
        share: of the slice.
    """

    count: str
    size: str
    shape: str
    row: int
    column: int
    share: float

    @property
    def place(self) -> str:
        """Where it lies, in words."""
        if (self.row, self.column) == (1, 1):
            return "center"
        if self.column == 1:
            return f"{ROWS[self.row]} part"
        return COLUMNS[self.column] if self.row == 1 else f"{ROWS[self.row]} {COLUMNS[self.column]}"

    def opposite(self) -> Appearance:
        """What it does not look like."""
        return Appearance(
            COUNTS[-1] if self.count == COUNTS[0] else COUNTS[0],
            "small" if self.size == "large" else "large",
            "elongated" if self.shape == "round" else "round",
            2 - self.row if self.row != 1 else 0,
            2 - self.column if self.column != 1 else 0,
            self.share,
        )


def look_at(mask: NDArray[np.bool_]) -> Appearance:
    """What a mask [h, w] with at least one pixel looks like."""
    pieces, number = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel(), minlength=number + 1)[1:]
    count = int((sizes >= SMALLEST_PART * sizes.max()).sum())
    share = float(mask.mean())
    rows, columns = np.nonzero(pieces == 1 + int(sizes.argmax()))
    # Every pixel is a square, so that a line of pixels has a width.
    spread = np.cov(np.stack([rows, columns]), bias=True) + np.eye(2) / 12
    narrow, wide = np.sqrt(np.linalg.eigvalsh(spread))
    ratio = narrow / wide
    all_rows, all_columns = np.nonzero(mask)
    return Appearance(
        COUNTS[min(count, len(COUNTS)) - 1],
        next(name for limit, name in SIZES if share <= limit),
        "round" if ratio >= ROUND else "oval" if ratio >= OVAL else "elongated",
        min(2, int(3 * (all_rows.mean() + 0.5) / mask.shape[0])),
        min(2, int(3 * (all_columns.mean() + 0.5) / mask.shape[1])),
        share,
    )


def describe(word: str, mask: NDArray[np.bool_], style: Style) -> str:
    """A sentence about a word's structure in a slice.

    Args:
        word: of the structure.
        mask: [h, w], where it is.
        style: what the sentence says; an empty mask has the word alone in every style, because a sentence
            that says that nothing is there would give the answer away.
    """
    if style == "bare" or not mask.any():
        return word
    seen = look_at(mask)
    if style == "contradictory":
        seen = seen.opposite()
    text = f"{seen.count} {seen.size} {seen.shape} {word}"
    if style == "missing_location":
        return text
    text += f" in the {seen.place} of the image"
    if style == "overdescriptive":
        text += f", which covers about {max(1, round(100 * seen.share))} percent of what is shown"
    return text
