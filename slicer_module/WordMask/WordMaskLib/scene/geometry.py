"""Voxel grids: where a voxel lies, whether two grids are the same one, and along which axis a plane cuts.

Frames. A voxel is (i, j, k), counted from 0, whole numbers at voxel centres; arrays are [k, j, i]. *Local* is
RAS in millimetres of a node itself, before its parent transform: what a file of the node holds. *World* is
RAS after the parent transform: what views show.

Knows slicer, vtk and numpy. Does not know: segments, files, words, servers, Qt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import slicer
import vtk

from ..client.errors import GeometryError, SegmentsError

# Of a voxel: NIfTI keeps 32 bits of each number, which is far below that, and half a voxel is far above.
TOLERANCE = 0.01
STRAIGHT = 1e-3  # direction cosines: beyond this a grid is sheared, which no label map format keeps
# Axes closer to a tie than this (45 degrees) are told apart by their order, so that rounding cannot decide.
TIE = 1e-6
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS <-> LPS

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# Patient axis across the slices (LPS: 0 left, 1 posterior, 2 superior), and where slice 0 is; as the server.
PLANES = {
    "axial": 2,  # inferior to superior
    "coronal": 1,  # anterior to posterior
    "sagittal": 0,  # right to left
}


@dataclass(frozen=True)
class Reordering:
    """Turns an array on one grid into the same array on another: axes of [k, j, i] in a new order, some of
    them reversed.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """[k, j, i] -> [k, j, i] of the other grid; a view, nothing is copied."""
        return array.transpose(self.axes)[
            tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)
        ]


@dataclass(frozen=True)
class Slicing:
    """How a plane cuts an array [k, j, i].

    Attributes:
        axis: that goes from slice to slice
        reversed: whether slice 0 is its last entry
        count: number of slices
    """

    axis: int
    reversed: bool
    count: int

    def entry(self, index: int) -> int:
        """Convert a slice as the server counts into an entry of the array's axis, and back: it is its own
        inverse.
        """
        return self.count - 1 - index if self.reversed else index

    def entries(self, first: int, last: int) -> slice:
        """Return slices ``first`` to ``last``, both included, as a range of the array's axis."""
        ends = sorted((self.entry(first), self.entry(last)))
        return slice(ends[0], ends[1] + 1)


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxel grid of a volume; GeometryError if it is singular.

    Attributes:
        shape: of arrays, (k, j, i)
        matrix: [4, 4] float64, voxel (i, j, k, 1) -> local RAS in mm
    """

    shape: tuple[int, int, int]
    matrix: np.ndarray

    def __post_init__(self) -> None:
        if not np.isfinite(self.matrix).all() or abs(np.linalg.det(self.matrix[:3, :3])) < 1e-12:
            raise GeometryError(
                "The voxel grid has a spacing of 0, or axes that coincide; export the image again."
            )

    @property
    def spacing(self) -> np.ndarray:
        """Millimetres along (i, j, k)."""
        return np.linalg.norm(self.matrix[:3, :3], axis=0)

    @property
    def is_left_handed(self) -> bool:
        """Whether the axes (i, j, k) form a left-handed system; Slicer makes such grids right-handed when it
        reads a file.
        """
        return bool(np.linalg.det(self.matrix[:3, :3]) < 0)

    @property
    def is_straight(self) -> bool:
        """Whether the axes are at right angles."""
        directions = self.matrix[:3, :3] / self.spacing
        return bool(np.abs(directions.T @ directions - np.eye(3)).max() <= STRAIGHT)

    def voxel_millilitres(self) -> float:
        """Volume of one voxel in ml."""
        return float(abs(np.linalg.det(self.matrix[:3, :3])) / 1000)

    def k_reversed(self) -> Grid:
        """Return the grid of the same voxels with the slices stored in the opposite order."""
        turn = np.eye(4)
        turn[2, 2], turn[2, 3] = -1, self.shape[0] - 1
        return Grid(self.shape, self.matrix @ turn)

    def corners(self) -> np.ndarray:
        """Return the outermost voxel centres as (i, j, k, 1), [8, 4]."""
        last = np.array(self.shape[::-1]) - 1
        choices = np.array(np.meshgrid((0, 1), (0, 1), (0, 1))).reshape(3, -1).T
        return np.hstack([choices * last, np.ones((8, 1))])

    def way_to(self, other: Grid) -> Reordering | None:
        """Return how an array on this grid is stored on another one; None if they do not have the same voxels
        in the same place.
        """
        exact = np.linalg.inv(other.matrix) @ self.matrix
        whole = np.round(exact)
        turn = np.abs(whole[:3, :3])
        if not ((turn.sum(axis=0) == 1).all() and (turn.sum(axis=1) == 1).all()):
            return None
        origin_axis = turn.argmax(axis=1)  # for each axis of the other grid: this grid's
        flips = [bool(whole[axis, origin_axis[axis]] < 0) for axis in range(3)]
        size, other_size = self.shape[::-1], other.shape[::-1]
        whole[:3, 3] = [other_size[axis] - 1 if flips[axis] else 0 for axis in range(3)]
        corners = self.corners().T
        if any(size[origin_axis[axis]] != other_size[axis] for axis in range(3)):
            return None
        if np.abs((exact - whole) @ corners).max() > TOLERANCE:
            return None
        axes = tuple(2 - int(origin_axis[2 - axis]) for axis in range(3))
        return Reordering(axes, tuple(flips[::-1]))  # type: ignore[arg-type]  # three of each

    def difference(self, other: Grid) -> str:
        """Say how this grid differs from the expected one, as the end of a sentence."""
        if sorted(self.shape) != sorted(other.shape):
            return f"it has {_size(self)} voxels instead of {_size(other)}"
        apart = np.abs((self.matrix @ self.corners().T - other.matrix @ self.corners().T)[:3]).max()
        return f"its voxels are off by up to {apart:.3g} mm"

    def slicing(self, plane: str, *, picture: bool = False) -> Slicing:
        """Return along which axis a plane cuts this grid, and at which end slice 0 is; SegmentsError for an
        unknown plane.

        The voxel axis nearest to the plane's normal counts, as in the library's `slicing_for`: oblique
        volumes are not resampled. A picture has one slice, whatever the plane.
        """
        if picture:
            return Slicing(0, False, self.shape[0])
        if plane not in PLANES:
            raise SegmentsError(f"There is no plane {plane!r}; planes are {', '.join(PLANES)}.")
        direction = (LPS @ self.matrix)[:3, :3] / self.spacing
        patient_axis = PLANES[plane]
        voxel_axis = _nearest_axes(direction)[patient_axis]
        return Slicing(
            2 - voxel_axis, bool(direction[patient_axis, voxel_axis] < 0), self.shape[2 - voxel_axis]
        )


def grid_of(volume: slicer.vtkMRMLVolumeNode) -> Grid:
    """Return the grid of a volume node in local RAS; SegmentsError if it has no image."""
    image = volume.GetImageData()
    if image is None:
        raise SegmentsError(f"{volume.GetName()!r} does not contain an image; load it again.")
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return Grid(tuple(image.GetDimensions()[::-1]), as_array(matrix))


def is_picture(volume: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether this is a 2-D picture: one slice of colours, or one grey slice that was loaded from a picture
    file.

    Pictures travel as PNG, which has neither origin nor axes: only rows and columns count.
    """
    image = volume.GetImageData()
    if (
        image is None
        or image.GetDimensions()[2] != 1
        or image.GetScalarType() not in (vtk.VTK_UNSIGNED_CHAR, vtk.VTK_UNSIGNED_SHORT)
    ):
        return False
    if image.GetNumberOfScalarComponents() in (3, 4):
        return True
    storage = volume.GetStorageNode()
    name = (storage.GetFileName() or "").lower() if storage else ""
    return image.GetNumberOfScalarComponents() == 1 and name.endswith(PICTURE_SUFFIXES)


def to_world(volume: slicer.vtkMRMLVolumeNode, voxels: Any) -> np.ndarray:
    """Convert [n, 3] (i, j, k) to [n, 3] world RAS in mm, through any parent transform of the volume."""
    local = (
        np.c_[np.asarray(voxels, dtype=float).reshape(-1, 3), np.ones(np.size(voxels) // 3)]
        @ grid_of(volume).matrix.T
    )
    return _transform_points(volume.GetParentTransformNode(), None, local[:, :3])


def to_voxels(volume: slicer.vtkMRMLVolumeNode, world: Any) -> np.ndarray:
    """Convert [n, 3] world RAS in mm to [n, 3] (i, j, k), not rounded and not limited to the volume; the
    inverse of `to_world`.
    """
    local = _transform_points(
        None, volume.GetParentTransformNode(), np.asarray(world, dtype=float).reshape(-1, 3)
    )
    return (np.c_[local, np.ones(len(local))] @ np.linalg.inv(grid_of(volume).matrix).T)[:, :3]


def as_array(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """Convert VTK's matrix to [4, 4] float64."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def as_matrix(array: np.ndarray) -> vtk.vtkMatrix4x4:
    """Convert [4, 4] float64 to VTK's matrix."""
    matrix = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, float(array[row, column]))
    return matrix


def _transform_points(
    source: slicer.vtkMRMLTransformNode | None, target: slicer.vtkMRMLTransformNode | None, points: np.ndarray
) -> np.ndarray:
    if source is target:
        return points
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(source, target, transform)
    return np.array([transform.TransformPoint(*point) for point in points]).reshape(-1, 3)


def _nearest_axes(direction: np.ndarray) -> Sequence[int]:
    """Find the voxel axis along each axis of LPS: the assignment with the largest product of cosines."""
    best: Sequence[int] = (0, 1, 2)
    best_product = -np.inf
    for axes in permutations(range(3)):
        product = float(
            np.prod([abs(direction[patient_axis, axis]) for patient_axis, axis in enumerate(axes)])
        )
        if product > best_product + TIE:
            best, best_product = axes, product
    return best


def _size(grid: Grid) -> str:
    return " x ".join(str(count) for count in grid.shape[::-1])
