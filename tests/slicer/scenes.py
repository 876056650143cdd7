"""Small scenes for the tests, and judges that are not our own code: Slicer's export of a segment, and
SimpleITK for files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from WordMaskLib.client.answers import Code
from WordMaskLib.scene.terminology import Word

SHAPE = (6, 7, 8)  # (k, j, i)
BINARY = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Words of a request, of which a result has the first two.
LIVER = Word("liver", 1, (221, 130, 101), Code("SCT", "10200004", "Liver"))
RIGHT_KIDNEY = Word(
    "right kidney", 2, (185, 65, 110), Code("SCT", "64033007", "Kidney"), Code("SCT", "24028007", "Right")
)
SPLEEN = Word("spleen", 3, (157, 108, 162), Code("SCT", "78961009", "Spleen"))
WORDS = [LIVER, RIGHT_KIDNEY, SPLEEN]


def affine(
    degrees: tuple[float, float] = (12, 7),
    spacing: Sequence[float] = (1.5, 2, 4),
    origin: Sequence[float] = (10, -20, 30.5),
    *,
    left: bool = False,
) -> np.ndarray:
    """[4, 4] voxel -> RAS: turned about R and S; left: a left-handed grid."""
    a, b = np.deg2rad(degrees)
    about_r = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_s = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_r @ about_s @ np.diag([*spacing[:2], -spacing[2] if left else spacing[2]])
    matrix[:3, 3] = origin
    return matrix


def vtk_matrix(array: np.ndarray) -> vtk.vtkMatrix4x4:
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, dtype=float).ravel().tolist())
    return matrix


def add_volume(
    values: np.ndarray, matrix: np.ndarray, name: str = "CT", node_class: str = "vtkMRMLScalarVolumeNode"
) -> Any:
    """values: [k, j, i] or [k, j, i, c]; matrix: voxel -> RAS."""
    image = vtk.vtkImageData()
    image.SetDimensions(*values.shape[2::-1])
    flat = values.reshape(-1, values.shape[3]) if values.ndim == 4 else values.ravel()
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(flat), deep=True))
    node = slicer.mrmlScene.AddNewNodeByClass(node_class, name)
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(vtk_matrix(matrix))
    return node


def add_transform(matrix: np.ndarray) -> Any:
    """A linear transform node."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
    node.SetMatrixTransformToParent(vtk_matrix(matrix))
    return node


def add_bent_transform() -> Any:
    """A transform that is not linear: a thin-plate spline that moves one corner."""
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for corner in np.array(np.meshgrid((-50, 50), (-50, 50), (-50, 80))).reshape(3, -1).T.astype(float):
        source.InsertNextPoint(*corner)
        target.InsertNextPoint(corner[0] + (6 if corner.sum() > 100 else 0), *corner[1:])
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Bent")
    node.SetAndObserveTransformToParent(spline)
    return node


def add_segmentation(
    volume: Any,
    masks: Mapping[str, np.ndarray],
    *,
    shared: bool = False,
    surfaces: bool = False,
    name: str = "Mine",
) -> Any:
    """A person's own segmentation, made with Slicer's calls; shared: as few images as the overlaps allow."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for segment_name, mask in masks.items():
        add_segment(node, segment_name, mask, volume)
    if shared:
        node.GetSegmentation().CollapseBinaryLabelmaps(False)
    if surfaces:
        node.CreateClosedSurfaceRepresentation()
    return node


def add_segment(node: Any, name: str, mask: np.ndarray, volume: Any) -> str:
    """As a person does: an empty segment, then its voxels."""
    segment_id = node.GetSegmentation().AddEmptySegment("", name)
    paint(node, segment_id, mask, volume)
    return str(segment_id)


def paint(node: Any, segment_id: str, mask: np.ndarray, volume: Any) -> None:
    """Replace a segment's voxels with Slicer's own call; others stay, also in a shared image."""
    oriented = slicer.vtkSlicerSegmentationsModuleLogic.CreateOrientedImageDataFromVolumeNode(volume)
    oriented.UnRegister(None)
    oriented.GetPointData().SetScalars(
        numpy_to_vtk(np.ascontiguousarray(mask, dtype=np.uint8).ravel(), deep=True)
    )
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.SetBinaryLabelmapToSegment(oriented, node, segment_id, logic.MODE_REPLACE)


def slicers_mask(node: Any, segment_id: str, volume: Any) -> np.ndarray:
    """Boolean [k, j, i] by Slicer's own export; leaves no node behind, as `arrayFromSegmentBinaryLabelmap`
    does.
    """
    scene = slicer.mrmlScene
    before = {scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())}
    ids = vtk.vtkStringArray()
    ids.InsertNextValue(segment_id)
    target = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "judge")
    assert slicer.modules.segmentations.logic().ExportSegmentsToLabelmapNode(node, ids, target, volume)
    mask = slicer.util.arrayFromVolume(target) > 0
    for made in [scene.GetNthNode(number) for number in range(scene.GetNumberOfNodes())]:
        if made.GetID() not in before:
            scene.RemoveNode(made)
    return np.array(mask)


def segment_state(node: Any, volume: Any) -> dict[str, Any]:
    """All that a person can see of every segment, in order: voxels, name, colour, terminology, tags,
    visibility.
    """
    contents, display = node.GetSegmentation(), node.GetDisplayNode()
    state = {}
    for segment_id in contents.GetSegmentIDs():
        segment = contents.GetSegment(segment_id)
        state[segment_id] = (
            slicers_mask(node, segment_id, volume).tobytes(),
            segment.GetName(),
            segment.GetColor(),
            str(segment)[str(segment).find("Tags:") :],
            (segment.GetNameAutoGenerated(), segment.GetColorAutoGenerated()),
            display.GetSegmentVisibility(segment_id),
            display.GetSegmentOpacity3D(segment_id),
            display.GetSegmentVisibility2DFill(segment_id),
            _surface(segment),
        )
    return state


def scene_state(volume: Any) -> dict[str, Any]:
    """All nodes of the scene by id, and every segment of every segmentation."""
    scene = slicer.mrmlScene
    nodes = [scene.GetNthNode(number) for number in range(scene.GetNumberOfNodes())]
    segmentations = [node for node in nodes if node.IsA("vtkMRMLSegmentationNode")]
    return {
        "nodes": [node.GetID() for node in nodes],
        "segments": {node.GetID(): list(segment_state(node, volume).items()) for node in segmentations},
        "reference": {node.GetID(): _reference(node) for node in segmentations},
    }


def _reference(node: Any) -> tuple[str | None, str]:
    role = node.GetReferenceImageGeometryReferenceRole()
    return node.GetNodeReferenceID(role), node.GetSegmentation().GetConversionParameter(
        "Reference image geometry"
    )


def write_file(path: Path, array: np.ndarray, matrix: np.ndarray) -> Path:
    """A file of the server's, written by SimpleITK. matrix: voxel -> RAS."""
    lps = LPS @ matrix
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), True)
    return path


def file_matrix(path: Path) -> np.ndarray:
    """[4, 4] voxel -> RAS of a file, as SimpleITK sees it."""
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return LPS @ matrix


def box(shape: tuple[int, ...], *ranges: tuple[int, int]) -> np.ndarray:
    """A mask that is true within (first, behind the last) along k, j, i."""
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*ends) for ends in ranges)] = True
    return mask


def labels_of(masks: Sequence[np.ndarray]) -> np.ndarray:
    """A label map with the values 1..N; a voxel goes to the last mask that has it."""
    labels = np.zeros(masks[0].shape, dtype=np.uint8)
    for value, mask in enumerate(masks, start=1):
        labels[mask] = value
    return labels


LIVER_MASK, KIDNEY_MASK = box(SHAPE, (0, 3), (1, 5), (2, 6)), box(SHAPE, (3, 5), (1, 5), (0, 4))
LABELS = labels_of([LIVER_MASK, KIDNEY_MASK])  # no spleen


def _surface(segment: Any) -> bytes | None:
    """The points of a segment's surface; None without one."""
    names: list[str] = []
    segment.GetContainedRepresentationNames(names)
    if "Closed surface" not in names:
        return None
    points = segment.GetRepresentation("Closed surface").GetPoints()
    return vtk_to_numpy(points.GetData()).tobytes() if points is not None else b""
