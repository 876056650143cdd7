"""What a label map of the server says about each word, read and checked before anything is shown.

Knows files of labels, words and grids. Does not know: segmentations, servers, Qt; changes nothing in the
scene.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..client.errors import SegmentsError
from ..client.prompts import same_text
from .geometry import Slicing, grid_of, is_picture
from .image_reading import check_whole, read_on_grid
from .masks import Cropped, crop
from .terminology import Word


@dataclass(frozen=True)
class SliceRange:
    """Slices that were computed again, counted as the server counts along ``plane``; ``first`` and ``last``
    are included.
    """

    plane: str
    first: int
    last: int

    def part_of(self, volume: Any) -> tuple[slice, ...]:
        """Return the part of an array [k, j, i] on a volume's grid; SegmentsError if the volume does not have
        such slices.
        """
        slicing: Slicing = grid_of(volume).slicing(self.plane, picture=is_picture(volume))
        if not 0 <= self.first <= self.last < slicing.count:
            raise SegmentsError(
                f"Slices {self.first} to {self.last} were asked for; this plane has slices 0 to "
                f"{slicing.count - 1}."
            )
        entries = slicing.entries(self.first, self.last)
        return tuple(entries if axis == slicing.axis else slice(None) for axis in range(3))


@dataclass(frozen=True)
class FoundWord:
    """A word that has voxels."""

    word: Word
    voxels: Cropped


def found_words(
    path: str | Path, words: Sequence[Word], volume: Any, only: SliceRange | None
) -> Generator[None, None, list[FoundWord]]:
    """Return the words that have voxels, in their order; yields between steps, so that a window can stay
    alive.

    Voxels outside of the slices ``only`` do not count.

    Raises:
        SegmentsError, GeometryError: the file cannot be used
    """
    check_words(words)
    part = None if only is None else only.part_of(volume)
    yield from check_whole(path)
    yield
    labels = _as_integers(read_on_grid(path, volume))
    yield
    found, named = [], 0
    for word in words:
        mask = labels == word.value
        named += int(np.count_nonzero(mask))
        yield
        cropped = crop(mask if part is None else _keep_part(mask, part))
        if cropped is not None:
            found.append(FoundWord(word, cropped))
        yield
    if named != int(np.count_nonzero(labels)):
        stray = sorted({int(value) for value in np.unique(labels)} - {0, *(word.value for word in words)})
        raise SegmentsError(
            f"The result contains the value {stray[0]}, which does not belong to any word, so nothing was "
            "changed; request it again."
        )
    return found


def check_words(words: Sequence[Word]) -> None:
    """Raise a SegmentsError if there is no word, or a word or a value occurs twice."""
    if not words:
        raise SegmentsError("The server's answer does not name a word, so nothing was changed; try again.")
    both: dict[str, list[Any]] = {
        "value": [word.value for word in words],
        "word": [same_text(word.text) for word in words],
    }
    for what, found in both.items():
        twice = sorted({entry for entry in found if found.count(entry) > 1}, key=str)
        if twice:
            raise SegmentsError(
                f"The server's answer gives the {what} {twice[0]!r} twice, so nothing was changed; try again."
            )


def _as_integers(labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind in "iu":
        return labels
    whole = labels.astype(np.int64) if np.isfinite(labels).all() else None
    if whole is None or not np.array_equal(whole, labels):
        raise SegmentsError(
            "The result contains fractions instead of labels, so nothing was changed; request labels again."
        )
    return whole


def _keep_part(mask: np.ndarray, part: tuple[slice, ...]) -> np.ndarray:
    inside = np.zeros_like(mask)
    inside[part] = mask[part]
    return inside
