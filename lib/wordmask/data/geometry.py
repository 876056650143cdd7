"""Where voxels lie in the patient, and how a volume is cut into slices and put together again.

Knows numpy only; not files, grey values or torch.

Coordinates. A voxel is (i, j, k), counted from 0, whole numbers at voxel centres; arrays are stored
[k, j, i]. Positions in the patient are LPS in millimetres, as in DICOM and SimpleITK: x grows to the
patient's Left, y to the Posterior, z to the Superior. RAS (NIfTI, nibabel, Slicer, MONAI) has the opposite
sign in x and y and appears here only where a name says so.

    LPS of voxel (i, j, k)  =  origin + direction @ (spacing * (i, j, k))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import permutations, product
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wordmask.errors import VolumeError

# Files round direction cosines to 4 or more digits; beyond this they are sheared or scaled, which no label
# map format keeps.
ORTHONORMAL_TOLERANCE = 1e-3
# Axes closer to a tie than this (45 degrees) are told apart by their order, so that rounding in a file cannot
# decide.
TIE_TOLERANCE = 1e-6

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

Triple = tuple[float, float, float]


class Plane(StrEnum):
    """The anatomical plane that slices are parallel to (the nearest one, when the volume is oblique)."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


@dataclass(frozen=True)
class Geometry:
    """The voxel grid in the patient, with the numbers that SimpleITK gives (float64, LPS, mm).

    Attributes:
        size: voxels along (i, j, k), each at least 1.
        spacing: mm along (i, j, k), above 0.
        origin: LPS of the centre of voxel (0, 0, 0), mm.
        direction: 3x3, row by row; column a is the unit vector along voxel axis a.
        oriented: False for pictures, whose axes are those of the screen: no plane turns them.

    Raises:
        VolumeError: a number is not finite, a size or spacing is not positive, or the direction is not
            orthonormal.
    """

    size: tuple[int, int, int]
    spacing: Triple
    origin: Triple
    direction: tuple[float, ...]
    oriented: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(int(count) for count in self.size))
        for name in ("spacing", "origin", "direction"):
            object.__setattr__(
                self, name, tuple(float(number) for number in np.asarray(getattr(self, name)).ravel())
            )
        lengths = (len(self.size), len(self.spacing), len(self.origin), len(self.direction))
        if lengths != (3, 3, 3, 9):
            raise VolumeError(
                f"A geometry needs 3 sizes, 3 spacings, 3 origin and 9 direction numbers, got {lengths}."
            )
        if min(self.size) < 1:
            raise VolumeError(f"The image is empty: its size is {'x'.join(map(str, self.size))} voxels.")
        if not all(0 < step < np.inf for step in self.spacing):  # written so that NaN fails too
            raise VolumeError(
                f"The voxel spacing must be above 0 mm along every axis, got {_numbers(self.spacing)}."
            )
        if not np.isfinite(self.origin).all():
            raise VolumeError(f"The origin must be finite, got {_numbers(self.origin)}.")
        _check_direction(self.direction_matrix)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(k, j, i): the shape of an array on this grid."""
        return self.size[2], self.size[1], self.size[0]

    @property
    def direction_matrix(self) -> NDArray[np.float64]:
        """[3, 3], LPS; column a is the unit vector along voxel axis a of (i, j, k)."""
        return np.array(self.direction, dtype=np.float64).reshape(3, 3)

    @property
    def affine_ras(self) -> NDArray[np.float64]:
        """[4, 4], voxel (i, j, k, 1) -> RAS in mm: what nibabel and MONAI call the affine."""
        affine = np.eye(4)
        affine[:3, :3] = self.direction_matrix * self.spacing
        affine[:3, 3] = self.origin
        return LPS_TO_RAS @ affine

    def part(self, first: Sequence[int], size: Sequence[int]) -> Geometry:
        """The grid of a part of the image.

        Args:
            first: its first voxel (i, j, k).
            size: its voxels along (i, j, k).
        """
        moved = np.asarray(self.origin) + self.direction_matrix @ (
            np.asarray(self.spacing) * np.asarray(first)
        )
        return replace(self, size=cast(Any, tuple(size)), origin=cast(Any, tuple(moved)))

    @classmethod
    def from_affine_ras(cls, affine: ArrayLike, size: Sequence[int]) -> Geometry:
        """Make the grid with voxel (i, j, k) at ``affine @ (i, j, k, 1)`` in RAS.

        Args:
            affine: [4, 4], mm.
            size: voxels along (i, j, k).

        Raises:
            VolumeError: the axes of the affine are not orthogonal.
        """
        lps = LPS_TO_RAS @ np.asarray(affine, dtype=np.float64)
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        if not (spacing > 0).all():
            raise VolumeError(
                f"The voxel spacing must be above 0 mm along every axis, got {_numbers(spacing)}."
            )
        return cls(
            cast(Any, size), cast(Any, spacing), cast(Any, lps[:3, 3]), cast(Any, lps[:3, :3] / spacing)
        )

    @classmethod
    def of_picture(
        cls,
        width: int,
        height: int,
        spacing: tuple[float, float] = (1.0, 1.0),
        origin: tuple[float, float] = (0.0, 0.0),
    ) -> Geometry:
        """Make the grid of a picture: one slice, with the axes of the screen.

        Args:
            width: pixels along x.
            height: pixels along y.
            spacing: (x, y) in mm, as the image reader gives it.
            origin: (x, y) in mm, as the image reader gives it.
        """
        return cls(
            (width, height, 1), (*spacing, 1.0), (*origin, 0.0), tuple(np.eye(3).ravel()), oriented=False
        )


@dataclass(frozen=True)
class Slicing:
    """How arrays [k, j, i] are cut into slices [n, row, column], by permuted and flipped axes alone.

    Attributes:
        shape: (k, j, i) of the arrays.
        permutation: which of those axes become slices, rows and columns.
        flips: which of slices, rows and columns run against the stored order.
        spacing: mm between slices, rows and columns.
    """

    shape: tuple[int, int, int]
    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    spacing: Triple

    @property
    def cut_shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        slices, rows, columns = (self.shape[axis] for axis in self.permutation)
        return slices, rows, columns

    @property
    def in_plane_spacing(self) -> tuple[float, float]:
        """Millimetres from row to row and from column to column."""
        return self.spacing[1], self.spacing[2]

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """Cut [k, j, i] or [k, j, i, c] into [n, h, w] or [n, h, w, c]: a view, nothing is copied.

        Raises:
            ValueError: the array has another shape.
        """
        if array.shape[:3] != self.shape:
            raise ValueError(f"This slicing cuts arrays of shape {self.shape}, got {array.shape}.")
        return array.transpose(*self.permutation, *range(3, array.ndim))[self._reversal()]

    def restack(self, stack: NDArray[Any]) -> NDArray[Any]:
        """Undo `cut` exactly: [n, h, w] or [n, h, w, c] -> [k, j, i] or [k, j, i, c], contiguous.

        Raises:
            ValueError: the stack has another shape.
        """
        if stack.shape[:3] != self.cut_shape:
            raise ValueError(f"This slicing restacks slices of shape {self.cut_shape}, got {stack.shape}.")
        back = np.argsort(self.permutation)
        return np.ascontiguousarray(stack[self._reversal()].transpose(*back, *range(3, stack.ndim)))

    def voxel_to_slice(self, points: ArrayLike) -> NDArray[np.float64]:
        """Convert voxel coordinates [..., 3] as (i, j, k) to [..., 3] as (slice, row, column).

        Whole numbers are centres in both.
        """
        kji = np.asarray(points, dtype=np.float64)[..., ::-1]
        return self._mirror(kji[..., list(self.permutation)])

    def slice_to_voxel(self, points: ArrayLike) -> NDArray[np.float64]:
        """Undo `voxel_to_slice`: [..., 3] as (slice, row, column) -> [..., 3] as (i, j, k)."""
        kji = self._mirror(np.asarray(points, dtype=np.float64))[..., np.argsort(self.permutation)]
        return kji[..., ::-1]

    def _mirror(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(self.flips, np.array(self.cut_shape) - 1 - points, points)

    def _reversal(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)


# Where slices, rows and columns run: (LPS axis, sign). The patient's right is at the left of the screen, as
# radiologists look.
_DISPLAY = {
    Plane.AXIAL: ((2, +1), (1, +1), (0, +1)),  # slices I to S, rows A to P, columns R to L
    Plane.CORONAL: ((1, +1), (2, -1), (0, +1)),  # slices A to P, rows S to I, columns R to L
    Plane.SAGITTAL: ((0, +1), (2, -1), (1, +1)),  # slices R to L, rows S to I, columns A to P
}


def slicing_for(geometry: Geometry, plane: Plane) -> Slicing:
    """Find how to cut a volume into slices that are displayed as radiologists look at them.

    Oblique volumes are cut along the voxel axes nearest to those of the plane; nothing is resampled. A
    picture stays as it is.
    """
    spacing = geometry.spacing[::-1]
    if not geometry.oriented:
        return Slicing(geometry.shape, (0, 1, 2), (False, False, False), spacing)
    axis_of = _nearest_axes(geometry.direction_matrix)
    voxel_axes = [axis_of[patient_axis] for patient_axis, _ in _DISPLAY[Plane(plane)]]
    flips = [
        bool(geometry.direction_matrix[patient_axis, axis] * sign < 0)
        for axis, (patient_axis, sign) in zip(voxel_axes, _DISPLAY[Plane(plane)], strict=True)
    ]
    permutation = tuple(2 - axis for axis in voxel_axes)  # voxel axes count i, j, k; array axes k, j, i
    return Slicing(
        geometry.shape,
        cast(Any, permutation),
        cast(Any, tuple(flips)),
        cast(Any, tuple(spacing[axis] for axis in permutation)),
    )


def measure_distance(one: ArrayLike, other: ArrayLike, size: Sequence[int]) -> float:
    """Return how far apart two affines put a corner of the image, at most, in mm.

    Args:
        one: [4, 4], voxel (i, j, k, 1) -> mm.
        other: the same.
        size: voxels along (i, j, k).
    """
    corners = np.array([[*corner, 1] for corner in product(*[(0, count - 1) for count in size])], np.float64)
    moved = corners @ (np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)).T
    return float(np.linalg.norm(moved[:, :3], axis=1).max())


def _nearest_axes(direction: NDArray[np.float64]) -> tuple[int, ...]:
    """Find the voxel axis that runs along each of x, y, z of LPS.

    It is the assignment with the largest product of cosines: each axis is used once, and no cosine is 0
    because the determinant is not.
    """
    best: tuple[int, ...] = (0, 1, 2)
    best_product = -np.inf
    for axes in permutations(range(3)):
        product = float(
            np.prod([abs(direction[patient_axis, axis]) for patient_axis, axis in enumerate(axes)])
        )
        if product > best_product + TIE_TOLERANCE:
            best, best_product = axes, product
    return best


def _check_direction(direction: NDArray[np.float64]) -> None:
    if not np.isfinite(direction).all():
        raise VolumeError(f"The direction matrix must be finite, got {_numbers(direction.ravel())}.")
    if abs(np.linalg.det(direction)) < ORTHONORMAL_TOLERANCE:
        raise VolumeError(
            f"The direction matrix is singular ({_numbers(direction.ravel())}); export the image again."
        )
    if np.abs(direction.T @ direction - np.eye(3)).max() > ORTHONORMAL_TOLERANCE:
        raise VolumeError(
            f"The direction matrix is sheared or scaled ({_numbers(direction.ravel())}); resample it to a "
            "straight grid."
        )


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
