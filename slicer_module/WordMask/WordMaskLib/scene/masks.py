"""Binary masks of segments: from a segmentation onto the grid of a volume, and from arrays into images for a
segment.

Knows vtkSegmentation, grids and numpy. Does not know: words, files, servers, Qt; changes no segmentation.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..client.errors import SegmentsError
from .geometry import TOLERANCE, Grid, as_array, as_matrix, grid_of

BINARY = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
SURFACE = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()

Box = tuple  # of three slices: where a mask lies in [k, j, i]


def mask_of(
    segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str, volume: slicer.vtkMRMLVolumeNode
) -> np.ndarray:
    """Return a segment as boolean [k, j, i] on the grid of a volume, whatever its layer, grid or transform;
    resampled only if necessary.

    Raises:
        SegmentsError: there is no such segment, or it has no label map (a surface)
    """
    return uncrop(cropped_mask(segmentation, segment_id, volume), grid_of(volume).shape)


def cropped_mask(
    segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str, volume: slicer.vtkMRMLVolumeNode
) -> Cropped | None:
    """Return `mask_of` cut to its box, None if it is empty; the cost depends on the segment's own image, not
    on the volume.
    """
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        raise SegmentsError(f"The segment is no longer in {segmentation.GetName()!r}; choose another one.")
    image = segment.GetRepresentation(BINARY)
    if image is None:
        raise SegmentsError(
            f"{segment.GetName()!r} is a surface; convert it to a binary label map in the Segmentations "
            "module first."
        )
    grid = grid_of(volume)
    layer = layer_array(image)
    if layer is None:
        return None
    mask = layer == segment.GetLabelValue()
    offset = (
        _whole_offset(image, grid)
        if segmentation.GetParentTransformNode() is volume.GetParentTransformNode()
        else None
    )
    if offset is not None:
        return _crop_to_grid(mask, offset, grid.shape)
    return _resample(mask, image, segmentation, volume)


def layer_array(image: vtk.vtkImageData) -> np.ndarray | None:
    """Return the label values of a layer in place, [k, j, i]; its segments share it. None if it has no
    voxels.
    """
    scalars = image.GetPointData().GetScalars()
    if scalars is None or min(image.GetDimensions()) < 1:
        return None
    return vtk_to_numpy(scalars).reshape(image.GetDimensions()[::-1])


def box_of(mask: np.ndarray) -> Box | None:
    """Return the smallest box around a mask; None if it is empty."""
    ranges = []
    for axis in range(3):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not filled.size:
            return None
        ranges.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(ranges)


class Cropped(NamedTuple):
    """A mask cut to its box: boolean [k, j, i], and (i, j, k) of its first voxel in the whole grid."""

    mask: np.ndarray
    first: tuple[int, int, int]


def crop(mask: np.ndarray) -> Cropped | None:
    """Cut a mask to its box, as a copy; None if it is empty."""
    box = box_of(mask)
    return None if box is None else Cropped(mask[box].copy(), (box[2].start, box[1].start, box[0].start))


def uncrop(cropped: Cropped | None, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the whole mask [k, j, i] that a part was cut from."""
    whole = np.zeros(shape, dtype=bool)
    if cropped is not None:
        whole[place_of(cropped)] = cropped.mask
    return whole


def place_of(cropped: Cropped) -> Box:
    """Return where a mask lies in the whole array."""
    return tuple(slice(start, start + count) for start, count in zip(cropped.first[::-1], cropped.mask.shape))


def image_of(cropped: Cropped, grid: Grid) -> slicer.vtkOrientedImageData:
    """Make a layer for one segment alone, with label value 1 and no larger than the mask."""
    return _orient(cropped.mask, grid.matrix, cropped.first)


def digest(cropped: Cropped | None) -> str:
    """Return a text that is equal for equal masks on one grid, wherever they are stored; tells whether a
    segment was edited.
    """
    if cropped is None:
        return "empty"
    place = repr((cropped.first, cropped.mask.shape)).encode()
    return hashlib.sha256(place + np.packbits(cropped.mask).tobytes()).hexdigest()[:16]


def _orient(mask: np.ndarray, matrix: np.ndarray, first: tuple[int, ...]) -> slicer.vtkOrientedImageData:
    """Make an oriented image of a mask.

    Args:
        mask: [k, j, i]
        matrix: voxel -> local RAS of the whole grid
        first: (i, j, k) of the mask's first voxel in the whole grid
    """
    image = slicer.vtkOrientedImageData()
    last = [start + count - 1 for start, count in zip(first, mask.shape[::-1])]
    image.SetExtent(first[0], last[0], first[1], last[1], first[2], last[2])
    image.SetImageToWorldMatrix(as_matrix(matrix))
    image.GetPointData().SetScalars(
        numpy_to_vtk(np.ascontiguousarray(mask, dtype=np.uint8).ravel(), deep=True)
    )
    return image


def _image_matrix(image: slicer.vtkOrientedImageData) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return as_array(matrix)


def _whole_offset(image: slicer.vtkOrientedImageData, grid: Grid) -> tuple[int, int, int] | None:
    """Return (i, j, k) of the layer's first voxel in the grid if their voxels coincide, otherwise None."""
    first = np.array(image.GetExtent()[::2], dtype=float)
    last = np.array(image.GetExtent()[1::2], dtype=float)
    step = np.linalg.inv(grid.matrix) @ _image_matrix(image)
    ends = [
        (step @ np.append(corner, 1))[:3] - corner
        for corner in (first, last, np.array([first[0], last[1], first[2]]))
    ]
    offset = np.round(ends[0])
    if any(np.abs(end - offset).max() > TOLERANCE for end in ends):
        return None
    start = (first + offset).astype(int)
    return int(start[0]), int(start[1]), int(start[2])


def _crop_to_grid(
    mask: np.ndarray, first: tuple[int, int, int], shape: tuple[int, int, int]
) -> Cropped | None:
    """Return the part of a mask that lies in an array of ``shape``; ``first`` is (i, j, k) of its first
    voxel, which may lie outside.
    """
    kept = tuple(slice(max(0, -start), max(0, room - start)) for start, room in zip(first[::-1], shape))
    part = crop(mask[kept])
    if part is None:
        return None
    i, j, k = (max(0, start) + shift for start, shift in zip(first, part.first))
    return Cropped(part.mask, (i, j, k))


def _resample(
    mask: np.ndarray,
    image: slicer.vtkOrientedImageData,
    segmentation: slicer.vtkMRMLSegmentationNode,
    volume: slicer.vtkMRMLVolumeNode,
) -> Cropped | None:
    """Resample by nearest neighbour through the transforms of both, like Slicer's own export."""
    grid = grid_of(volume)
    source = _orient(mask, _image_matrix(image), image.GetExtent()[::2])
    reference = _orient(np.zeros(grid.shape, dtype=np.uint8), grid.matrix, (0, 0, 0))
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        segmentation.GetParentTransformNode(), volume.GetParentTransformNode(), transform
    )
    target = slicer.vtkOrientedImageData()
    resample = slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage
    if not resample(source, reference, target, False, False, transform):
        raise SegmentsError(
            f"{segmentation.GetName()!r} cannot be resampled to the grid of {volume.GetName()!r}."
        )
    found = layer_array(target)
    return None if found is None else _crop_to_grid(found > 0, target.GetExtent()[::2], grid.shape)
