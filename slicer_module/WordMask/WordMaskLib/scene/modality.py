"""What kind of image a volume is, as far as the scene knows. Knows MRML; not words, not servers."""

from __future__ import annotations

from typing import Any

import slicer

from .geometry import is_picture

AIR = -900  # Hounsfield units; nothing but CT has numbers this low
MOST_SLICES = 8  # that are looked at, about: the window waits, and air is around the patient in every slice


def modality_of(volume: Any | None) -> str:
    """Return DICOM's code of the modality, "picture" for 2-D pictures, "" if it is not known."""
    if volume is None or volume.GetImageData() is None:
        return ""
    if is_picture(volume):
        return "picture"
    if modality := _from_hierarchy(volume):
        return modality
    if volume.GetImageData().GetNumberOfScalarComponents() != 1:
        return ""
    voxels = slicer.util.arrayFromVolume(volume)
    return "CT" if voxels[:: max(1, len(voxels) // MOST_SLICES)].min() <= AIR else ""


def _from_hierarchy(volume: Any) -> str:
    """Return what the DICOM module stores with the series, above the volume."""
    # GetSubjectHierarchyNode would make one.
    hierarchy = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
    if hierarchy is None:
        return ""
    item = hierarchy.GetItemByDataNode(volume)
    while item and item != hierarchy.GetSceneItemID():
        modality = hierarchy.GetItemAttribute(item, "DICOM.Modality")
        if modality:
            return str(modality)
        item = hierarchy.GetItemParent(item)
    return ""
