"""Checks that segments do not change: made before a change, asked after it.

Knows vtkSegmentation and its display. Does not know: words, files, servers, Qt.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from typing import Any

import slicer

from .masks import BINARY, layer_array


class UnchangedCheck:
    """Watches all segments except those in ``but``: voxels, surfaces, names, colours, terminologies, tags,
    order, visibility.

    An image that only watched segments use is unchanged if it is the same object and was not modified. One
    that is shared with a segment which may change is compared voxel by voxel.
    """

    def __init__(self, segmentation: slicer.vtkMRMLSegmentationNode, but: Collection[str] = ()) -> None:
        self._segmentation, self._but = segmentation, frozenset(but)
        contents = segmentation.GetSegmentation()
        touched = [contents.GetSegment(segment_id) for segment_id in self._but]
        self._shared = [
            image for image in (segment.GetRepresentation(BINARY) for segment in touched) if image is not None
        ]
        self._names = {
            segment_id: contents.GetSegment(segment_id).GetName() for segment_id in self._watched_ids()
        }
        self._before = {segment_id: self._describe(segment_id) for segment_id in self._names}
        self._order = self._watched_ids()

    def changed(self) -> list[str]:
        """Return the names of segments that changed; the name of the segmentation if only their order did."""
        now = self._watched_ids()
        found = [
            name
            for segment_id, name in self._names.items()
            if segment_id not in now or self._before[segment_id] != self._describe(segment_id)
        ]
        kept_order = [segment_id for segment_id in now if segment_id in self._names] == self._order
        return found if found or kept_order else [self._segmentation.GetName()]

    def _watched_ids(self) -> list[str]:
        return [
            segment_id
            for segment_id in self._segmentation.GetSegmentation().GetSegmentIDs()
            if segment_id not in self._but
        ]

    def _describe(self, segment_id: str) -> tuple[Any, ...]:
        segment = self._segmentation.GetSegmentation().GetSegment(segment_id)
        names: list[str] = []
        segment.GetContainedRepresentationNames(names)
        data = tuple((name, self._data(segment, name)) for name in sorted(names))
        described = (
            segment.GetName(),
            segment.GetColor(),
            segment.GetLabelValue(),
            segment.GetTerminology(),
            _tags_of(segment),
        )
        return (*described, data, self._display(segment_id))

    def _data(self, segment: slicer.vtkSegment, name: str) -> Any:
        found = segment.GetRepresentation(name)
        if name == BINARY and any(found is image for image in self._shared):
            layer = layer_array(found)
            return None if layer is None else zlib.crc32((layer == segment.GetLabelValue()).tobytes())
        return found, found.GetMTime()

    def _display(self, segment_id: str) -> tuple[Any, ...]:
        display = self._segmentation.GetDisplayNode()
        if display is None:
            return ()
        return (
            display.GetSegmentVisibility(segment_id),
            display.GetSegmentVisibility3D(segment_id),
            display.GetSegmentVisibility2DFill(segment_id),
            display.GetSegmentVisibility2DOutline(segment_id),
            display.GetSegmentOpacity3D(segment_id),
            display.GetSegmentOpacity2DFill(segment_id),
            display.GetSegmentOpacity2DOutline(segment_id),
        )


def _tags_of(segment: slicer.vtkSegment) -> str:
    """All tags of a segment as one text, for comparison."""
    # Python has GetTag for a known name only: vtkSegment.GetTags takes a std::map, which VTK does not wrap.
    text = str(segment)
    return text[text.find("Tags:") :]
