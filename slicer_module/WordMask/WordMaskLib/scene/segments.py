"""Results of the server as segments: one per word that was found, beside other segments, which never change.

All or nothing: whatever goes wrong, the scene is as it was, and the error is one sentence. Every new segment
gets an image (a layer) of its own, cut to its box. Shared images are left alone, because there Slicer's own
import can change other segments.

Transforms: files contain the volume in its own frame, before its parent transform, and so do segments. A
segmentation under the same transform, linear or not, shows the mask in the right place without resampling.

Knows slicer, vtk and numpy. Does not know: servers, Qt.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from ..client.errors import GeometryError, SegmentsError
from ..client.prompts import same_text
from .export import check_volume
from .geometry import grid_of
from .masks import BINARY, Cropped, crop, cropped_mask, digest, image_of, place_of, uncrop
from .result_reading import FoundWord, SliceRange, check_words, found_words
from .terminology import DIGEST, MODEL, OWNER, QUERY, VERSION, Word, describe, set_tag, tag
from .unchanged_check import UnchangedCheck
from .undo import UndoHistory, UndoStep, leave_layer, remove_node, shares_layer

__all__ = ["GeometryError", "Imported", "SegmentsError", "SliceRange", "UndoHistory", "UndoStep", "Word"]
__all__ += [
    "edited_segments",
    "import_in_steps",
    "import_labels",
    "own_segment",
    "segmentation_of",
    "show_3d",
    "word_of",
]

EDITED = "edited"  # in place of a digest: no mask has this one
MADE_HERE = "WordMask.result"  # attribute of segmentation nodes that were made here


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        segmentation: None if no word was found and no segmentation was given
        ids: word -> id of its segment
        replaced: words that had a segment before
        not_found: words without a voxel
        kept: words without a voxel whose earlier segment stays as it was
        step: for `UndoHistory.add`, None if nothing changed
    """

    segmentation: Any
    ids: dict[str, str]
    replaced: tuple[str, ...]
    not_found: tuple[str, ...]
    kept: tuple[str, ...]
    step: UndoStep | None


@dataclass(frozen=True)
class _Planned:
    """A word that was found, ready to be shown: nothing that follows can fail because of the file."""

    word: Word
    image: Any
    digest: str
    segment_id: str | None


def import_labels(
    path: str | Path,
    words: Sequence[Word],
    volume: slicer.vtkMRMLVolumeNode,
    segmentation: slicer.vtkMRMLSegmentationNode | None = None,
    *,
    model: str = "",
    version: str = "",
    only: SliceRange | None = None,
) -> Imported:
    """Show a label map of the server: one segment per word that has a voxel.

    A word that already has its segment (by the tag ``WordMask.query``; a person's copy does not count)
    replaces only that segment, which keeps its id and what a person changed of its name, colour and
    terminology. A word without a voxel gets no segment, and its earlier one stays as it is.

    Args:
        path: the label map, on the grid of the exported volume (`export_volume`)
        words: what its values mean
        volume: that was segmented
        segmentation: where the segments go; None makes one under the volume's transform
        model, version: what made the result
        only: outside of these slices, the earlier segment's voxels stay

    Raises:
        GeometryError: the file does not lie on the volume, or the segmentation belongs to another one
        SegmentsError: anything else that cannot be done; in both cases the scene is as it was
    """
    steps = import_in_steps(path, words, volume, segmentation, model=model, version=version, only=only)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def import_in_steps(
    path: str | Path,
    words: Sequence[Word],
    volume: slicer.vtkMRMLVolumeNode,
    segmentation: slicer.vtkMRMLSegmentationNode | None = None,
    *,
    model: str = "",
    version: str = "",
    only: SliceRange | None = None,
) -> Generator[None, None, Imported]:
    """Run `import_labels` in steps, for a window that must not freeze: yields before each, and returns the
    same.

    The scene changes only in the last step, and giving up before it changes nothing. What a person does
    meanwhile is respected, or refused with a sentence if the volume or the segmentation is gone.
    """
    check_words(words)
    _check_places(volume, segmentation)
    grid = grid_of(volume)
    found = yield from found_words(path, words, volume, only)
    _check_places(volume, segmentation)
    if grid_of(volume).way_to(grid) is None:
        raise GeometryError(
            f"{volume.GetName()!r} was moved or resampled meanwhile, so nothing was changed; try again."
        )
    planned = [_plan(entry, volume, segmentation, only) for entry in found]
    missing = tuple(word.text for word in words if word.text not in {plan.word.text for plan in planned})
    kept = tuple(
        text for text in missing if segmentation is not None and own_segment(segmentation, text) is not None
    )
    if not planned:
        return Imported(segmentation, {}, (), missing, kept, None)
    target = _new_segmentation(volume) if segmentation is None else segmentation
    step = UndoStep(target, tuple(plan.word.text for plan in planned), made_node=segmentation is None)
    try:
        ids = _commit(planned, target, volume, step, model, version)
    except Exception as error:
        step.undo()
        if isinstance(error, SegmentsError):
            raise
        sentence = (
            f"The result could not be shown, so nothing was changed ({type(error).__name__}); please "
            "report this."
        )
        raise SegmentsError(sentence) from error
    return Imported(
        target, ids, tuple(plan.word.text for plan in planned if plan.segment_id), missing, kept, step
    )


def own_segment(segmentation: slicer.vtkMRMLSegmentationNode, word: str) -> str | None:
    """Return the id of the segment that shows a word's result, None without one; case, hyphens and repeated
    spaces do not matter.
    """
    contents = segmentation.GetSegmentation()
    for segment_id in contents.GetSegmentIDs():
        segment = contents.GetSegment(segment_id)
        if same_text(tag(segment, QUERY)) == same_text(word) and tag(segment, OWNER) == segment_id:
            return str(segment_id)
    return None


def word_of(segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str) -> str:
    """Return the word whose result a segment is; "" for a person's segments and copies of results."""
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    return tag(segment, QUERY) if segment is not None and tag(segment, OWNER) == segment_id else ""


def edited_segments(
    segmentation: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLVolumeNode
) -> dict[str, str]:
    """Return word -> segment id of results that a person edited: what another request would replace."""
    contents, edited = segmentation.GetSegmentation(), {}
    for segment_id in contents.GetSegmentIDs():
        word = word_of(segmentation, segment_id)
        if word and digest(cropped_mask(segmentation, segment_id, volume)) != tag(
            contents.GetSegment(segment_id), DIGEST
        ):
            edited[word] = str(segment_id)
    return edited


def segmentation_of(volume: slicer.vtkMRMLVolumeNode) -> slicer.vtkMRMLSegmentationNode | None:
    """Return the newest segmentation that was made here for a volume; None without one."""
    for segmentation in reversed(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")):
        role = segmentation.GetReferenceImageGeometryReferenceRole()
        if segmentation.GetAttribute(MADE_HERE) and segmentation.GetNodeReference(role) is volume:
            return segmentation
    return None


def show_3d(segmentation: slicer.vtkMRMLSegmentationNode, shown: bool = True) -> None:
    """Show or hide all segments in 3-D. Missing surfaces are created, which takes Slicer seconds on large
    volumes.
    """
    if shown and not segmentation.CreateClosedSurfaceRepresentation():
        raise SegmentsError(
            f"A surface could not be made of {segmentation.GetName()!r}; are its segments empty?"
        )
    segmentation.CreateDefaultDisplayNodes()
    segmentation.GetDisplayNode().SetVisibility3D(shown)


def check_segmentation(
    segmentation: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLVolumeNode
) -> None:
    """Raise a SegmentsError or GeometryError if results on a volume cannot be put into a segmentation without
    damaging it.
    """
    name = segmentation.GetName()
    contents = segmentation.GetSegmentation()
    if not slicer.mrmlScene.IsNodePresent(segmentation):
        raise SegmentsError(f"The segmentation {name!r} is no longer in the scene; choose another one.")
    if contents.GetNumberOfSegments() and contents.GetSourceRepresentationName() != BINARY:
        raise SegmentsError(
            f"{name!r} is made of surfaces, which a mask cannot be added to; choose another segmentation, or "
            "a new one."
        )
    if segmentation.GetParentTransformNode() is not volume.GetParentTransformNode():
        raise GeometryError(
            f"{name!r} and {volume.GetName()!r} are under different transforms; put both under the same one."
        )
    owner = segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())
    if (
        contents.GetNumberOfSegments()
        and owner is not None
        and owner is not volume
        and not _same_grid(owner, volume)
    ):
        raise GeometryError(
            f"{name!r} belongs to {owner.GetName()!r}, not to {volume.GetName()!r}; choose another one, or a "
            "new one."
        )


def _same_grid(owner: Any, volume: Any) -> bool:
    """Compare two grids; True also if the owner has lost its image: there is nothing to compare."""
    return owner.GetImageData() is None or grid_of(owner).way_to(grid_of(volume)) is not None


def _check_places(volume: Any, segmentation: Any | None) -> None:
    check_volume(volume)
    if not slicer.mrmlScene.IsNodePresent(volume):
        raise SegmentsError(f"{volume.GetName()!r} is no longer in the scene, so nothing was changed.")
    if segmentation is not None:
        check_segmentation(segmentation, volume)


def _plan(found: FoundWord, volume: Any, segmentation: Any | None, only: SliceRange | None) -> _Planned:
    earlier = None if segmentation is None else own_segment(segmentation, found.word.text)
    voxels, mark = found.voxels, digest(found.voxels)
    if only is not None and segmentation is not None and earlier is not None:
        before = cropped_mask(segmentation, earlier, volume)
        was_edited = digest(before) != tag(segmentation.GetSegmentation().GetSegment(earlier), DIGEST)
        voxels = _merge(uncrop(before, grid_of(volume).shape), voxels, only.part_of(volume))
        # What a person drew in other slices is still there, and still theirs.
        mark = EDITED if was_edited else digest(voxels)
    return _Planned(found.word, image_of(voxels, grid_of(volume)), mark, earlier)


def _merge(before: np.ndarray, voxels: Cropped, part: tuple[slice, ...]) -> Cropped:
    before[part] = False
    before[place_of(voxels)] |= voxels.mask
    merged = crop(before)
    return voxels if merged is None else merged


def _commit(
    planned: Sequence[_Planned], segmentation: Any, volume: Any, step: UndoStep, model: str, version: str
) -> dict[str, str]:
    """Change the segmentation. This is the only place that does; the caller undoes the step if it raises."""
    contents = segmentation.GetSegmentation()
    others = UnchangedCheck(segmentation, [plan.segment_id for plan in planned if plan.segment_id])
    if contents.GetNumberOfSegments() == 0:
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        segmentation.SetSourceRepresentationToBinaryLabelmap()
    modifying = segmentation.StartModify()
    try:
        ids = {}
        for plan in planned:
            if plan.segment_id is None:
                ids[plan.word.text] = _add(contents, plan, step)
            else:
                ids[plan.word.text] = _replace(contents, plan, step)
            segment = contents.GetSegment(ids[plan.word.text])
            for name, text in ((MODEL, model), (VERSION, version), (DIGEST, plan.digest)):
                set_tag(segment, name, text)
    finally:
        segmentation.EndModify(modifying)
    if changed := others.changed():
        raise SegmentsError(
            f"Showing the result would have changed {changed[0]!r}, so it was not shown; please report this."
        )
    return ids


def _add(contents: Any, plan: _Planned, step: UndoStep) -> str:
    segment_id = str(contents.GenerateUniqueSegmentID("WordMask"))
    segment = slicer.vtkSegment()
    segment.AddRepresentation(BINARY, plan.image)
    segment.SetLabelValue(1)
    describe(segment, plan.word, _free_name(contents, plan.word.text))
    set_tag(segment, QUERY, plan.word.text)
    set_tag(segment, OWNER, segment_id)
    step.added(segment_id)
    if not contents.AddSegment(segment, segment_id):  # makes the surface, too, where the others have one
        raise SegmentsError(f"Slicer did not accept the segment {plan.word.text!r}, so nothing was changed.")
    return segment_id


def _replace(contents: Any, plan: _Planned, step: UndoStep) -> str:
    segment_id = str(plan.segment_id)
    segment = contents.GetSegment(segment_id)
    step.will_replace(segment_id)
    names: list[str] = []
    segment.GetContainedRepresentationNames(names)
    if shares_layer(contents, segment_id):
        leave_layer(contents, segment_id)
    segment.RemoveAllRepresentations()
    segment.AddRepresentation(BINARY, plan.image)
    segment.SetLabelValue(1)
    describe(segment, plan.word, _free_name(contents, plan.word.text, but=segment_id))
    for name in names:
        if name != BINARY:
            _convert(contents, segment_id, name)
    return segment_id


def _convert(contents: Any, segment_id: str, name: str) -> None:
    """Create one representation (a surface) of one segment: `CreateRepresentation` would create it for every
    segment that lacks it.
    """
    made = slicer.vtkSlicerSegmentationsModuleLogic.CreateRepresentationForOneSegment(
        contents, segment_id, name
    )
    if made is None:
        raise SegmentsError(f"No {name.lower()} could be made of the result, so nothing was changed.")
    contents.GetSegment(segment_id).AddRepresentation(name, made)
    made.UnRegister(None)  # the call hands over a reference that Python does not know of


def _free_name(contents: Any, word: str, but: str | None = None) -> str:
    taken = {
        contents.GetSegment(segment_id).GetName()
        for segment_id in contents.GetSegmentIDs()
        if segment_id != but
    }
    name, number = word, 2
    while name in taken:
        name, number = f"{word} ({number})", number + 1
    return name


def _new_segmentation(volume: Any) -> Any:
    segmentation = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLSegmentationNode", f"{volume.GetName()} segmentation"
    )
    try:
        segmentation.CreateDefaultDisplayNodes()
        segmentation.SetAttribute(MADE_HERE, "1")
        segmentation.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    except Exception:
        remove_node(segmentation)
        raise
    return segmentation
