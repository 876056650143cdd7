"""Hints that a person adds to a word: points on the structure or a box around it.

Given in voxels of the image, and converted to pixels of its slices. Knows geometry; not models or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wordmask.data.geometry import Slicing, Triple
from wordmask.errors import RequestError
from wordmask.models.base import Capabilities, Hints

EDGE = 0.5  # a voxel reaches so far from its centre


@dataclass(frozen=True)
class VoxelHints:
    """Hints in voxels (i, j, k) of the image as it is stored in its file, integers at voxel centres.

    Attributes:
        points: (i, j, k, positive), on the structure or, where positive is false, beside it.
        box: its first and its last voxel, both included.
    """

    points: tuple[tuple[float, float, float, bool], ...] = ()
    box: tuple[Triple, Triple] | None = None

    def kinds(self) -> frozenset[str]:
        """The kinds of hint that are given: "points", "box"."""
        given = {"points": self.points, "box": self.box}
        return frozenset(kind for kind, value in given.items() if value)

    def along(self, slicing: Slicing) -> Hints:
        """The same hints in pixels of slices; a box lies in every slice that it reaches.

        Raises:
            RequestError: a hint lies outside of the image.
        """
        size = slicing.shape[::-1]
        for voxel in [*(point[:3] for point in self.points), *(self.box or ())]:
            _check_inside(voxel, size)
        points = tuple(_in_slice(slicing, point[:3], positive=point[3]) for point in self.points)
        return Hints(points, None if self.box is None else _box_in_slices(slicing, self.box))


def check_kinds(hints: VoxelHints, words: int, capabilities: Capabilities, model: str) -> None:
    """Check that a model can use the hints.

    Args:
        hints: as given.
        words: number of words of the request.
        capabilities: of the model.
        model: its name.

    Raises:
        RequestError: the model cannot use such hints, or the request has several words.
    """
    if unusable := hints.kinds() - capabilities.hints:
        usable = ", ".join(sorted(capabilities.hints)) or "words only"
        raise RequestError(
            f"Model {model!r} cannot use {' and '.join(sorted(unusable))}; it takes {usable}. Leave the "
            "hints out."
        )
    if hints.kinds() and words > 1:
        raise RequestError(
            f"Points and boxes mark one structure, and {words} words were given; ask for one word at a time."
        )


def place_hints(hints: VoxelHints, slicing: Slicing, looked_at: Sequence[int]) -> Hints:
    """Convert hints to pixels of slices; with `check_kinds` before, no hint is ever ignored silently.

    Args:
        hints: in voxels.
        slicing: of the image.
        looked_at: indices of the slices that the request computes.

    Raises:
        RequestError: a hint lies outside of the image, or on a slice that is not computed.
    """
    along = hints.along(slicing)
    missed = [point[0] for point in along.points if point[0] not in looked_at]
    if along.box is not None and not set(range(along.box[0], along.box[1] + 1)) & set(looked_at):
        missed.append(along.box[0])
    if missed:
        raise RequestError(
            f"A hint lies on slice {missed[0]}, which is not computed because it was not asked for or shows "
            "only air; move the hint or ask for this slice."
        )
    return along


def _in_slice(slicing: Slicing, voxel: Sequence[float], *, positive: bool) -> tuple[int, float, float, bool]:
    index, row, column = slicing.voxel_to_slice(voxel).tolist()
    # The outer half of the outermost voxel rounds outwards.
    inside = min(max(round(index), 0), slicing.cut_shape[0] - 1)
    return inside, column, row, positive


def _box_in_slices(
    slicing: Slicing, box: tuple[Triple, Triple]
) -> tuple[int, int, float, float, float, float]:
    corners = slicing.voxel_to_slice(np.array(box))
    (first, top, left), (last, bottom, right) = corners.min(0).tolist(), corners.max(0).tolist()
    return round(first), round(last), left - EDGE, top - EDGE, right + EDGE, bottom + EDGE


def _check_inside(voxel: Sequence[float], size: Sequence[int]) -> None:
    # Written so that NaN fails, too.
    if not all(-EDGE <= value <= count - 1 + EDGE for value, count in zip(voxel, size, strict=True)):
        shown = ", ".join(f"{value:g}" for value in voxel)
        raise RequestError(
            f"A hint lies at voxel ({shown}), outside of the image, which has {'x'.join(map(str, size))} "
            "voxels, counted from 0."
        )
