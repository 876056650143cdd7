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
            corners: first and last voxel (i, j, k), both included; rounded to whole voxels.
            slicing: of the image.

        Raises:
            RequestError: it is not a part of the image, or its corners are not in ascending order.
        """
        size = slicing.shape[::-1]
        first, last = (np.round(np.array(corner, dtype=np.float64)) for corner in corners)
        if not ((first >= 0) & (first <= last) & (last < size)).all():  # written so that NaN fails, too
            raise RequestError(
                f"The region of interest from voxel {_shown(corners[0])} to {_shown(corners[1])} is not "
                f"a part of the image, which has {'x'.join(map(str, size))} voxels, counted from 0; give its "
                "first and its last voxel."
            )
        placed = np.round(slicing.voxel_to_slice(np.array([first, last]))).astype(int)
        (start, top, left), (end, bottom, right) = placed.min(0).tolist(), placed.max(0).tolist()
        inside = np.zeros(slicing.cut_shape[1:], dtype=bool)
        inside[top : bottom + 1, left : right + 1] = True
        return cls(start, end, inside)

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
        """Raise RequestError when a point on the structure is in none of the region's pixels."""
        height, width = self.inside.shape
        for index, x, y, positive in hints.points:
            row, column = min(max(round(y), 0), height - 1), min(max(round(x), 0), width - 1)
            if positive and not self.inside[row, column]:
                raise RequestError(
                    f"A point on the structure, in slice {index}, lies outside of the region of interest; "
                    "move the point or enlarge the region."
                )


def _shown(voxel: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in voxel) + ")"
