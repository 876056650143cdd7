"""Files that leave the scene: a volume for the server, and segments as a label map to submit.

Files contain the volume in its own frame, before its parent transform: the voxels of the scanner, on their
own grid. Knows slicer, vtk, numpy and the files that it writes. Does not know: servers, Qt. Changes nothing
in the scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from ..client.errors import GeometryError, SegmentsError
from ..client.prompts import same_text
from .geometry import Grid, as_matrix, grid_of, is_picture
from .image_reading import file_grid
from .masks import mask_of
from .terminology import OWNER, QUERY, keeps_given_name, tag

OVERLAP_RULES = ("refuse", "smaller")
LARGEST_VALUE = 65535


class OverlapError(SegmentsError):
    """Segments share voxels, but a label map has one value per voxel; ``shared`` lists (name, name, voxels)
    of each pair.
    """

    def __init__(self, shared: Sequence[tuple[str, str, int]]) -> None:
        self.shared = tuple(shared)
        first, second, count = self.shared[0]
        more = f" (and {len(shared) - 1} other pairs)" if len(shared) > 1 else ""
        super().__init__(
            f"{first!r} and {second!r} share {count} voxels{more}, but a submitted voxel can have only one "
            "label; erase one of them there, or give shared voxels to the smaller segment."
        )


@dataclass(frozen=True)
class ExportedVolume:
    """A volume that was written.

    Attributes:
        path: of the file
        picture: whether it is a PNG, whose result has rows and columns but no place in the patient
        bytes: its size
    """

    path: Path
    picture: bool
    bytes: int


@dataclass(frozen=True)
class ExportedLabels:
    """A label map that was written.

    Attributes:
        path: of the file
        label_info: the table that the server stores with it
        voxels: word -> number of voxels with its value
    """

    path: Path
    label_info: list[dict[str, Any]]
    voxels: dict[str, int]


def check_volume(volume: slicer.vtkMRMLVolumeNode | None) -> None:
    """Raise a SegmentsError for what cannot be segmented: no volume, no image, a time point, a tensor, a
    label map, 4-D, sheared.
    """
    if volume is None:
        raise SegmentsError("There is no volume; load one and choose it.")
    name = repr(volume.GetName())
    if volume.IsA("vtkMRMLSequenceNode") or _is_time_point(volume):
        raise SegmentsError(
            f"{name} is a sequence, but only one volume can be segmented at a time; clone one time point in "
            "the Data module."
        )
    if (
        volume.IsA("vtkMRMLTensorVolumeNode") and not volume.IsA("vtkMRMLVectorVolumeNode")
    ) or not volume.IsA("vtkMRMLScalarVolumeNode"):
        raise SegmentsError(
            f"{name} is not an image of grey values or colours but a {volume.GetNodeTagName()}; choose "
            "another volume."
        )
    if volume.IsA("vtkMRMLDiffusionWeightedVolumeNode"):
        raise SegmentsError(f"{name} is a diffusion series; segment its baseline or a scalar map of it.")
    if volume.IsA("vtkMRMLLabelMapVolumeNode"):
        raise SegmentsError(f"{name} is a label map; choose the image that it belongs to.")
    image = volume.GetImageData()
    if image is None or min(image.GetDimensions()) < 1 or image.GetPointData().GetScalars() is None:
        raise SegmentsError(f"{name} does not contain an image; load it again.")
    components = image.GetNumberOfScalarComponents()
    if components != 1 and not is_picture(volume):
        raise SegmentsError(
            f"{name} has {components} values per voxel and is not a 2-D picture; save one of them as a "
            "separate volume."
        )
    if not grid_of(volume).is_straight:
        raise GeometryError(
            f"{name} has a sheared grid (a tilted gantry); resample it to a straight one (Resample Scalar "
            "Volume) first."
        )


def export_volume(
    volume: slicer.vtkMRMLVolumeNode, folder: str | Path, *, compress: bool = False
) -> ExportedVolume:
    """Write a volume for the server: PNG for pictures, otherwise NRRD with the node's own grid and voxels.

    Left-handed grids stay left-handed, and the file's name says nothing about the patient. Compressing is
    worth it only on a slow network: it takes three seconds for a large CT.

    Raises:
        SegmentsError: see `check_volume`, or the folder cannot be written to; nothing is left there
    """
    check_volume(volume)
    picture = is_picture(volume)
    path = Path(folder) / ("picture.png" if picture else "volume.nrrd")
    image = volume.GetImageData()
    needed = 64 if picture or compress else image.GetNumberOfPoints() * image.GetScalarSize()
    try:
        written = path.parent.is_dir() and (
            _write_picture(image, path) if picture else _write_volume(volume, path, compress)
        )
        size = path.stat().st_size if path.is_file() else 0
    except OSError:
        written, size = False, 0
    if not written or size < needed:
        _remove(path)
        raise SegmentsError(
            f"{volume.GetName()!r} cannot be written to the temporary folder; is the disk full?"
        )
    return ExportedVolume(path, picture, size)


def export_labels(
    segmentation: slicer.vtkMRMLSegmentationNode,
    segment_ids: Sequence[str],
    volume: slicer.vtkMRMLVolumeNode,
    path: str | Path,
    *,
    absent: Sequence[str] = (),
    overlaps: str = "refuse",
    like: str | Path | None = None,
) -> ExportedLabels:
    """Write segments as a label map for training: values 1..N in the order of ``segment_ids``, then the
    ``absent`` words.

    A result that still has the name it was given counts as its word, any other segment as its name.

    Args:
        segmentation: with the segments
        segment_ids: what to write
        volume: on whose grid
        path: of the label map
        absent: words that are not in this image at all; they get a value and no voxel, from which training
            learns that they are absent (a word that is not named is unknown)
        overlaps: "refuse", or "smaller": a shared voxel goes to the segment with fewer voxels, such as a
            lesion in an organ, or to the earlier one of equals
        like: the server's own file of the image, if the volume was loaded from it; the label map then lies on
            the file's grid even if Slicer stores the slices in reverse

    Raises:
        OverlapError: segments share voxels
        SegmentsError: nothing to submit, two segments of one word, a word both marked and absent, or no room
        GeometryError: a segment cannot be brought onto the grid
    """
    if overlaps not in OVERLAP_RULES:
        raise ValueError(f"overlaps is one of {', '.join(OVERLAP_RULES)}, not {overlaps!r}.")
    check_volume(volume)
    words = [_word(segmentation, segment_id) for segment_id in segment_ids]
    _check_words([*words, *absent])
    masks = [mask_of(segmentation, segment_id, volume) for segment_id in segment_ids]
    empty = [word for word, mask in zip(words, masks) if not mask.any()]
    if empty:
        raise SegmentsError(
            f"{empty[0]!r} has no voxel on {volume.GetName()!r}; mark it, leave it out, or say that it is "
            "absent."
        )
    labels = _merge(masks, words, overlaps, grid_of(volume))
    _write_labels(labels, volume, Path(path), None if like is None else file_grid(like, volume))
    names = [*words, *absent]
    info = [_row(segmentation, segment_ids, value, name) for value, name in enumerate(names, start=1)]
    return ExportedLabels(
        Path(path),
        info,
        {name: int(np.count_nonzero(labels == value)) for value, name in enumerate(names, start=1)},
    )


def _is_time_point(volume: slicer.vtkMRMLVolumeNode) -> bool:
    if volume.GetScene() is None or volume.GetID() is None:
        return False
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode", volume.GetScene())
    return any(browser.IsProxyNodeID(volume.GetID()) for browser in browsers)


def _write_volume(volume: slicer.vtkMRMLVolumeNode, path: Path, compress: bool) -> bool:
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(1 if compress else 0)
    return bool(storage.WriteData(volume))


def _write_picture(image: vtk.vtkImageData, path: Path) -> bool:
    """Write a PNG with row 0 at the top, as in the node.

    A storage node would need ITK's PNG, which slicer-core does not have.
    """
    flip = vtk.vtkImageFlip()  # VTK's pictures begin at the bottom
    flip.SetFilteredAxis(1)
    flip.SetInputData(image)
    writer = vtk.vtkPNGWriter()
    writer.SetInputConnection(flip.GetOutputPort())
    writer.SetFileName(str(path))
    writer.Write()
    return writer.GetErrorCode() == 0


def _write_labels(labels: np.ndarray, volume: Any, path: Path, grid: Grid | None) -> None:
    own = grid_of(volume)
    if grid is not None:
        way = own.way_to(grid)
        # A picture's file may have another spacing than its node; rows and columns are the same.
        if way is None:
            grid = own
        else:
            labels = way(labels)
    image = vtk.vtkImageData()
    image.SetDimensions(*labels.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(labels).ravel(), deep=True))
    node = slicer.vtkMRMLLabelMapVolumeNode()
    node.SetIJKToRASMatrix(as_matrix((grid or own).matrix))
    node.SetAndObserveImageData(image)
    if not path.parent.is_dir() or not _write_volume(node, path, compress=True):
        _remove(path)
        raise SegmentsError(
            "The label map cannot be written to the temporary folder, so nothing was submitted; is the disk "
            "full?"
        )


def _merge(masks: Sequence[np.ndarray], words: Sequence[str], overlaps: str, grid: Grid) -> np.ndarray:
    """Combine masks into [k, j, i], with values 1..N in their order."""
    shared = [
        (words[first], words[second], count)
        for first, second in combinations(range(len(masks)), 2)
        if (count := int(np.count_nonzero(masks[first] & masks[second])))
    ]
    if shared and overlaps == "refuse":
        raise OverlapError(shared)
    labels = np.zeros(grid.shape, dtype=np.uint8 if len(words) < 256 else np.uint16)
    sizes = [int(np.count_nonzero(mask)) for mask in masks]
    # The last one drawn is on top.
    for position in sorted(range(len(masks)), key=lambda index: (-sizes[index], -index)):
        labels[masks[position]] = position + 1
    lost = [word for position, word in enumerate(words) if shared and not (labels == position + 1).any()]
    if lost:
        raise SegmentsError(
            f"{lost[0]!r} lies entirely within smaller segments and would have no voxels; leave it out, or "
            "erase the others."
        )
    return labels


def _word(segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str) -> str:
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        raise SegmentsError(
            f"A segment is no longer in {segmentation.GetName()!r}; choose again what to submit."
        )
    own = tag(segment, OWNER) == segment_id and keeps_given_name(segment)
    return tag(segment, QUERY) if own else str(segment.GetName()).strip()


def _check_words(words: Sequence[str]) -> None:
    if not words:
        raise SegmentsError("There is nothing to submit: choose segments, or say which words are absent.")
    if len(words) > LARGEST_VALUE:
        raise SegmentsError(f"A label map holds at most {LARGEST_VALUE} labels, not {len(words)}.")
    keys = [same_text(word) for word in words]
    for word, key in zip(words, keys):
        if not key:
            raise SegmentsError("A segment has no name; name it and submit again.")
        if keys.count(key) > 1:
            raise SegmentsError(f"The word {word!r} was chosen twice; merge or rename one, or leave one out.")


def _row(
    segmentation: slicer.vtkMRMLSegmentationNode, segment_ids: Sequence[str], value: int, name: str
) -> dict[str, Any]:
    """Make a row like the server's `LabelTable.to_label_info`: name, idx, and where known color (0..255),
    code and modifier.
    """
    row: dict[str, Any] = {"name": name, "idx": value}
    if value > len(segment_ids):
        return row
    segment = segmentation.GetSegmentation().GetSegment(segment_ids[value - 1])
    row["color"] = [round(255 * channel) for channel in segment.GetColor()]
    entry = slicer.vtkSlicerTerminologyEntry()
    parse = slicer.vtkSlicerTerminologiesModuleLogic()
    if parse.DeserializeTerminologyEntry(segment.GetTerminology() or "", entry):
        found = {"code": entry.GetTypeObject(), "modifier": entry.GetTypeModifierObject()}
        for key, code in found.items():
            if code is not None and code.GetCodeValue():
                row[key] = {
                    "scheme": code.GetCodingSchemeDesignator(),
                    "value": code.GetCodeValue(),
                    "meaning": code.GetCodeMeaning(),
                }
    return row


def _remove(path: Path) -> None:
    if path.is_file():
        path.unlink()
