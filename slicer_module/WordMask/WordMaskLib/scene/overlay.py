"""What the model thought, in colour over the image: probability, uncertainty or attribution as a volume of
its own.

Knows slicer, vtk, numpy and files of numbers. Does not know: the meaning of words, segments, servers, Qt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from ..client.errors import SegmentsError
from .export import check_volume
from .geometry import Slicing, grid_of, is_picture, to_world
from .image_reading import check_whole, read_on_grid

KIND = "WordMask.overlay"  # attributes of the node
WORD = "WordMask.word"
VOLUME = "WordMask.volume"  # role of the reference to the volume
MOST_NATS = math.log(2)  # the uncertainty of a coin
COLORS = {  # kind -> one of Slicer's own colour tables
    "probability": "vtkMRMLColorTableNodeIron",
    "uncertainty": "vtkMRMLColorTableNodeWarm1",
    "attribution": "vtkMRMLColorTableNodeRainbow",
}
LEAST_SHOWN = 0.02  # of the range; below it the image shows through


@dataclass(frozen=True)
class SlicePosition:
    """A slice to jump to.

    Attributes:
        index: as the server counts along the plane
        position: a point in it, world RAS in mm
    """

    index: int
    position: tuple[float, float, float]


def load_overlay(path: str | Path, volume: slicer.vtkMRMLVolumeNode, kind: str, word: str) -> Any:
    """Load a result of numbers over a volume, with the same grid and parent transform, colours and a fixed
    range.

    An earlier overlay of the same volume, kind and word is replaced. Returns the scalar volume node.

    Args:
        path: of the file
        volume: that was segmented
        kind: "probability" or "attribution" (0..1), or "uncertainty" (nats; 0 to ln 2, more only if a model
            says more)
        word: for the name

    Raises:
        SegmentsError: the file cannot be used, and the scene is as it was
    """
    if kind not in COLORS:
        raise ValueError(f"kind is one of {', '.join(COLORS)}, not {kind!r}.")
    check_volume(volume)
    for _ in check_whole(path):
        pass
    values = np.array(read_on_grid(path, volume), dtype=np.float32)
    if not np.isfinite(values).all():
        raise SegmentsError(
            f"The {kind} of {word!r} contains values that are not numbers, so nothing was changed; request "
            "it again."
        )
    earlier = find_overlay(volume, kind, word)
    node = earlier
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLScalarVolumeNode", f"{volume.GetName()} {kind} of {word}"
        )
    try:
        _fill(node, values, volume)
        if earlier is None:
            for name, text in ((KIND, kind), (WORD, word)):
                node.SetAttribute(name, text)
            node.SetNodeReferenceID(VOLUME, volume.GetID())
        _display(node, kind, float(values.max()))
    except Exception:
        if earlier is None:
            remove_overlay(node)
        raise
    return node


def find_overlay(volume: slicer.vtkMRMLVolumeNode, kind: str, word: str) -> Any | None:
    """Return the overlay of this kind and word for a volume; None without one."""
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if (
            node.GetAttribute(KIND) == kind
            and node.GetAttribute(WORD) == word
            and node.GetNodeReference(VOLUME) is volume
        ):
            return node
    return None


def show_overlay(overlay: slicer.vtkMRMLScalarVolumeNode, opacity: float = 0.5) -> None:
    """Show an overlay in front of the image in all slice views, with an opacity of 0..1."""
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        composite.SetForegroundVolumeID(overlay.GetID())
        composite.SetForegroundOpacity(min(1.0, max(0.0, opacity)))


def hide_overlay(overlay: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Remove an overlay from the slice views; other images in front stay."""
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        if composite.GetForegroundVolumeID() == overlay.GetID():
            composite.SetForegroundVolumeID(None)


def remove_overlay(overlay: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Remove an overlay with its display node."""
    hide_overlay(overlay)
    display = overlay.GetDisplayNode()
    slicer.mrmlScene.RemoveNode(overlay)
    if display is not None and slicer.mrmlScene.IsNodePresent(display):
        slicer.mrmlScene.RemoveNode(display)


def most_uncertain_slice(overlay: slicer.vtkMRMLScalarVolumeNode, plane: str) -> SlicePosition:
    """Return the slice with the largest sum of an overlay's values and the voxel with its largest value; the
    first among equals.

    Raises:
        SegmentsError: unknown plane, or the overlay is 0 everywhere
    """
    values, slicing = slicer.util.arrayFromVolume(overlay), _slicing(overlay, plane)
    sums = values.sum(axis=tuple(axis for axis in range(3) if axis != slicing.axis), dtype=np.float64)
    if not sums.max() > 0:
        raise SegmentsError(f"{overlay.GetName()!r} is 0 everywhere, so no slice stands out.")
    index = min((slicing.entry(entry) for entry in np.flatnonzero(sums == sums.max())), default=0)
    return strongest_in(overlay, plane, int(index))


def strongest_in(overlay: slicer.vtkMRMLScalarVolumeNode, plane: str, index: int) -> SlicePosition:
    """Return a slice and the voxel with the largest value in it, the first among equals.

    Args:
        overlay: whose values count
        plane: along which slices are counted
        index: of the slice, as the server counts

    Raises:
        SegmentsError: unknown plane, or there is no such slice
    """
    values, slicing = slicer.util.arrayFromVolume(overlay), _slicing(overlay, plane)
    if not 0 <= index < values.shape[slicing.axis]:
        raise SegmentsError(f"{overlay.GetName()!r} has no slice {index}; request it again.")
    entry = slicing.entry(index)
    part = np.take(values, [entry], axis=slicing.axis)
    voxel = [int(place) for place in np.unravel_index(int(part.argmax()), part.shape)]
    voxel[slicing.axis] = entry
    return SlicePosition(index, tuple(float(number) for number in to_world(overlay, [voxel[::-1]])[0]))  # type: ignore[arg-type]


def _slicing(overlay: Any, plane: str) -> Slicing:
    owner = overlay.GetNodeReference(VOLUME)
    return grid_of(overlay).slicing(plane, picture=owner is not None and is_picture(owner))


def _fill(node: Any, values: np.ndarray, volume: Any) -> None:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    slicer.util.updateVolumeFromArray(node, values)
    node.SetIJKToRASMatrix(matrix)
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())


def _display(node: Any, kind: str, largest: float) -> None:
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    high = max(MOST_NATS, largest) if kind == "uncertainty" else 1.0
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0.0, high)
    display.SetAndObserveColorNodeID(COLORS[kind])
    display.SetInterpolate(0)
    display.AutoThresholdOff()
    display.SetThreshold(LEAST_SHOWN * high, max(high, largest))
    display.SetApplyThreshold(1)
