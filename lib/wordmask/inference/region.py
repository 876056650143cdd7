"""A region of interest: which slices are computed, and where something may be marked in them.

Slices are seen whole, because what surrounds a structure tells what it is: cropped to a box around an organ,
the sample CTs lose most of their Dice with the weights that ship. Knows geometry and hints; not
models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordmask.data.geometry import Slicing, Triple
from wordmask.errors import RequestError
from wordmask.inference.hints import EDGE
from wordmask.models.base import Hints


@dataclass(frozen=True, eq=False)
class Region:
    """A region of interest along a slicing plane.

    Attributes:
        first: its first slice.
        last: its last slice.
        inside: bool [h, w], its pixels, the same in all of these slices.
    """

    first: int
    last: int
    inside: NDArray[np.bool_]

    @classmethod
    def of(cls, corners: tuple[Triple, Triple], slicing: Slicing) -> Region:
        """Check a region and find its slices and pixels.

        Args:
            corners: two opposite voxels (i, j, k), both included, as for a box; rounded to whole voxels.
            slicing: of the image.

        Raises:
            RequestError: it is not a part of the image.
        """
        size = np.array(slicing.shape[::-1])
        given = np.sort(np.array(corners, dtype=np.float64), axis=0)
        # Written so that NaN fails, too. The outer half of the outermost voxel rounds outwards.
        inside = ((given >= -EDGE) & (given <= size - 1 + EDGE)).all()
        first, last = np.clip(np.floor(given + EDGE), 0, size - 1) if inside else given
        if not inside:
            raise RequestError(
                f"The region of interest from voxel {_shown(corners[0])} to {_shown(corners[1])} is not "
                f"a part of the image, which has {'x'.join(map(str, size))} voxels, counted from 0; give its "
                "first and its last voxel."
            )
        placed = np.round(slicing.voxel_to_slice(np.array([first, last]))).astype(int)
        (start, top, left), (end, bottom, right) = placed.min(0).tolist(), placed.max(0).tolist()
        pixels = np.zeros(slicing.cut_shape[1:], dtype=bool)
        pixels[top : bottom + 1, left : right + 1] = True
        return cls(start, end, pixels)

    def narrow(self, slices: tuple[int, int] | None) -> tuple[int, int]:
        """The slices to compute.

        Args:
            slices: first and last, both included, that were asked for as well; None for all.

        Raises:
            RequestError: none of them is in the region.
        """
        if slices is None:
            return self.first, self.last
        first, last = max(slices[0], self.first), min(slices[1], self.last)
        if first > last:
            raise RequestError(
                f"None of the slices {slices[0]} to {slices[1]} is in the region of interest, which has "
                f"slices {self.first} to {self.last}; leave one of the two out."
            )
        return first, last

    def check_hints(self, hints: Hints) -> None:
        """Raise RequestError when a point on the structure, or the whole box, lies beside the region."""
        height, width = self.inside.shape
        for index, x, y, positive in hints.points:
            row, column = min(max(round(y), 0), height - 1), min(max(round(x), 0), width - 1)
            if positive and not self.inside[row, column]:
                raise RequestError(
                    f"A point on the structure, in slice {index}, lies outside of the region of interest; "
                    "move the point or enlarge the region."
                )
        if hints.box is not None:
            x0, y0, x1, y1 = hints.box[2:]
            part = self.inside[
                max(0, round(y0 + EDGE)) : round(y1 + EDGE), max(0, round(x0 + EDGE)) : round(x1 + EDGE)
            ]
            if not part.any():
                raise RequestError(
                    "The box lies outside of the region of interest; move the box or enlarge the region."
                )


def _shown(voxel: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in voxel) + ")"
