"""The table of results: what the server says about each word, where its segment is now, and how to go there.

Knows segments and the server's statistics. Does not know: requests, Qt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import slicer

from ..client.errors import SegmentsError
from ..client.job_answers import WordStatistics
from ..scene.geometry import Slicing, grid_of, is_picture, to_world
from ..scene.masks import Cropped, cropped_mask, digest
from ..scene.overlay import SlicePosition
from ..scene.segments import own_segment
from ..scene.terminology import DIGEST, tag


@dataclass(frozen=True)
class ResultRow:
    """One row of the table.

    Attributes:
        segment_id: None if the word was not found
        color: 0..255
        edited: whether a person changed the voxels since the result came
        voxels, millilitres, largest: of the segment as it is now; millilitres is None for pictures
        presence, mean_probability: 0..1, from the server; the mean is None once the segment was edited
        mean_uncertainty: nats, from the server; None once the segment was edited
    """

    word: str
    segment_id: str | None
    name: str
    color: tuple[int, int, int] | None
    voxels: int
    millilitres: float | None
    presence: float | None
    mean_probability: float | None
    mean_uncertainty: float | None
    largest: SlicePosition | None
    edited: bool


def result_rows(
    words: Sequence[str],
    segmentation: slicer.vtkMRMLSegmentationNode | None,
    volume: slicer.vtkMRMLVolumeNode,
    statistics: Mapping[str, WordStatistics],
    plane: str,
) -> list[ResultRow]:
    """Make one row per word, in their order.

    Args:
        words: to list
        segmentation: with their segments, None without one
        volume: that was segmented
        statistics: of the server's answer; words may be missing
        plane: along which the server cut the volume
    """
    slicing = grid_of(volume).slicing(plane, picture=is_picture(volume))
    return [_result_row(word, segmentation, volume, statistics.get(word), slicing) for word in words]


def largest_slice(cropped: Cropped, volume: slicer.vtkMRMLVolumeNode, slicing: Slicing) -> SlicePosition:
    """Find the slice with most voxels of a mask (the first among equals), and its voxel nearest to their
    centre.
    """
    counts = np.count_nonzero(cropped.mask, axis=tuple(axis for axis in range(3) if axis != slicing.axis))
    first = cropped.first[2 - slicing.axis]
    index = min(slicing.entry(first + int(entry)) for entry in np.flatnonzero(counts == counts.max()))
    entry = slicing.entry(index) - first
    inside = np.argwhere(np.take(cropped.mask, entry, axis=slicing.axis)).astype(float)
    nearest = inside[((inside - inside.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    voxel = np.insert(nearest, slicing.axis, entry)[::-1] + cropped.first
    position = to_world(volume, [voxel])[0]
    return SlicePosition(index, (float(position[0]), float(position[1]), float(position[2])))


def jump_to(position: Sequence[float]) -> None:
    """Show a point (world RAS, mm) in all slice views; zoom and pan stay."""
    mode = slicer.vtkMRMLSliceNode.OffsetJumpSlice
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *(float(number) for number in position), mode)


def _result_row(
    word: str,
    segmentation: slicer.vtkMRMLSegmentationNode | None,
    volume: slicer.vtkMRMLVolumeNode,
    said: WordStatistics | None,
    slicing: Slicing,
) -> ResultRow:
    presence = None if said is None else said.presence
    segment_id = None if segmentation is None else own_segment(segmentation, word)
    if segmentation is None or segment_id is None:
        return ResultRow(word, None, word, None, 0, None, presence, None, None, None, False)
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    try:
        cropped = cropped_mask(segmentation, segment_id, volume)
    except SegmentsError:  # a person turned it into a surface
        cropped = None
    voxels = 0 if cropped is None else int(np.count_nonzero(cropped.mask))
    edited = digest(cropped) != tag(segment, DIGEST)
    red, green, blue = (round(255 * channel) for channel in segment.GetColor())
    return ResultRow(
        word=word,
        segment_id=segment_id,
        name=str(segment.GetName()),
        color=(red, green, blue),
        voxels=voxels,
        millilitres=None if is_picture(volume) else voxels * grid_of(volume).voxel_millilitres(),
        presence=presence,
        mean_probability=None if said is None or edited else said.mean_probability,
        mean_uncertainty=None if said is None or edited else said.mean_uncertainty,
        largest=None if cropped is None else largest_slice(cropped, volume, slicing),
        edited=edited,
    )
