"""Hints that a person places in the views, as voxels of the exported file: points and a box from Markups
nodes.

Voxels are (i, j, k) of the file that `export_volume` writes, with whole numbers at voxel centres. Knows
Markups nodes and volumes. Does not know: servers, Qt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import slicer

from ..client.errors import GeometryError, SegmentsError
from .geometry import grid_of, to_voxels


@dataclass(frozen=True)
class VoxelBox:
    """The outermost voxels (i, j, k) of a box, both included."""

    first: tuple[int, int, int]
    last: tuple[int, int, int]


def hint_options(
    markups: slicer.vtkMRMLMarkupsNode, volume: slicer.vtkMRMLVolumeNode, taken: Sequence[str]
) -> dict[str, Any]:
    """Return a hint as options of a request: ``points`` [[i, j, k], ...], or ``box`` with its first and last
    voxel. For a model that does not take a box, a region of interest is ``roi`` instead, the only part of the
    image where the model marks something.

    ``taken`` are the kinds that the model takes.

    Raises:
        SegmentsError: the node is gone, of another kind, or empty
        GeometryError: it lies outside of the volume
    """
    if not slicer.mrmlScene.IsNodePresent(markups):
        raise SegmentsError("The points or the box are no longer in the scene; choose others, or none.")
    kind = "box" if markups.IsA("vtkMRMLMarkupsROINode") else "points"
    if kind == "points" and kind not in taken:
        raise SegmentsError(
            f"{markups.GetName()!r} cannot be used: this model does not take points; choose a region of "
            "interest, or none."
        )
    if kind == "points":
        return {"points": [list(point) for point in points_in_voxels(markups, volume)]}
    box = box_in_voxels(markups, volume)
    return {"box" if "box" in taken else "roi": [list(box.first), list(box.last)]}


def points_in_voxels(
    markups: slicer.vtkMRMLMarkupsNode, volume: slicer.vtkMRMLVolumeNode
) -> list[tuple[float, float, float]]:
    """Return the placed control points as (i, j, k), in their order; points that were not placed are left
    out.

    Raises:
        SegmentsError: none is placed
        GeometryError: a point lies outside of the volume
    """
    placed = [
        number
        for number in range(markups.GetNumberOfControlPoints())
        if markups.GetNthControlPointPositionStatus(number) == slicer.vtkMRMLMarkupsNode.PositionDefined
    ]
    if not placed:
        raise SegmentsError(f"{markups.GetName()!r} has no placed point; place one in a slice view.")
    voxels = to_voxels(volume, [markups.GetNthControlPointPositionWorld(number) for number in placed])
    last = np.array(grid_of(volume).shape[::-1]) - 0.5
    for number, voxel in zip(placed, voxels):
        if (voxel < -0.5).any() or (voxel > last).any():
            raise GeometryError(
                f"The point {markups.GetNthControlPointLabel(number)!r} lies outside of "
                f"{volume.GetName()!r}; move it."
            )
    return [(float(i), float(j), float(k)) for i, j, k in voxels]


def box_in_voxels(roi: slicer.vtkMRMLMarkupsROINode, volume: slicer.vtkMRMLVolumeNode) -> VoxelBox:
    """Return the voxels whose centres lie in the smallest box along the volume's axes around a region of
    interest.

    Raises:
        SegmentsError: the region has no size yet
        GeometryError: it does not contain a voxel of the volume
    """
    size = _read(roi.GetSizeWorld)
    if not (size > 0).all():
        raise SegmentsError(f"{roi.GetName()!r} has no size; draw the box in a slice view.")
    center = _read(roi.GetCenterWorld)
    axes = np.array([_read(axis) for axis in (roi.GetXAxisWorld, roi.GetYAxisWorld, roi.GetZAxisWorld)])
    corners = to_voxels(
        volume, [center + np.array(signs) * size / 2 @ axes for signs in product((-1, 1), repeat=3)]
    )
    limit = np.array(grid_of(volume).shape[::-1]) - 1
    first = np.maximum(np.ceil(corners.min(axis=0) - 1e-6), 0).astype(int)
    last = np.minimum(np.floor(corners.max(axis=0) + 1e-6), limit).astype(int)
    if (first > last).any():
        raise GeometryError(
            f"The box {roi.GetName()!r} does not contain a voxel of {volume.GetName()!r}; move it onto the "
            "image."
        )
    return VoxelBox((int(first[0]), int(first[1]), int(first[2])), (int(last[0]), int(last[1]), int(last[2])))


def _read(getter: Any) -> np.ndarray:
    """Return three numbers from one of MRML's getters that fill a list."""
    numbers = [0.0, 0.0, 0.0]
    getter(numbers)
    return np.array(numbers)
