"""Cases of a server as volumes of the scene: opened from their files, and recognised again.

A volume that was opened from a server keeps the case's id and the server's address. Any other volume gets an
id made from its content when it is uploaded, because names of volumes often contain those of patients. Knows
MRML and files; not requests, not Qt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from ..client.addresses import ServerAddress
from ..client.errors import LocalFileError, SegmentsError
from ..scene.geometry import PICTURE_SUFFIXES, as_matrix

CASE = "WordMask.image"  # attributes of volume nodes
SERVER = "WordMask.server"
PIECE = 8 << 20  # bytes that are read at a time
_READERS = {".png": "vtkPNGReader", ".jpg": "vtkJPEGReader", ".jpeg": "vtkJPEGReader", ".bmp": "vtkBMPReader"}
_READERS.update({".tif": "vtkTIFFReader", ".tiff": "vtkTIFFReader"})


def open_case(path: Path, case: str, address: ServerAddress) -> Any:
    """Open the file of a case as a new volume node.

    No storage node is left: it would tell Slicer that the volume is saved in a file, but that file is
    temporary.

    Raises:
        SegmentsError: the file cannot be read, and the scene is as it was
    """
    picture = path.suffix.lower() in PICTURE_SUFFIXES
    node = _read_picture(path) if picture else _read_volume(path)
    if node is None or node.GetImageData() is None or node.GetImageData().GetNumberOfPoints() == 0:
        raise SegmentsError(
            f"The file of {case!r} cannot be read by Slicer, so nothing was changed; check it on the server."
        )
    node.SetName(slicer.mrmlScene.GenerateUniqueName(case))
    volume = slicer.mrmlScene.AddNode(node)
    volume.CreateDefaultDisplayNodes()
    mark_case(volume, case, address)
    return volume


def case_of(volume: Any, address: ServerAddress) -> str:
    """Return the id of a volume on a server; "" if it neither came from there nor was uploaded there."""
    return str(volume.GetAttribute(CASE) or "") if volume.GetAttribute(SERVER) == str(address) else ""


def mark_case(volume: Any, case: str, address: ServerAddress) -> None:
    """Remember which case of which server a volume is."""
    volume.SetAttribute(CASE, case)
    volume.SetAttribute(SERVER, str(address))


def open_volume_of(case: str, address: ServerAddress) -> Any | None:
    """Return the volume of a case that is already open; None without one."""
    for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):  # pictures are of this class, too
        if case_of(volume, address) == case:
            return volume
    return None


def show_volume(volume: Any) -> None:
    """Show a volume in the background of all slice views, and fit it in."""
    application = slicer.app.applicationLogic()
    selection = application.GetSelectionNode()
    if selection is not None:
        selection.SetActiveVolumeID(volume.GetID())
        application.PropagateVolumeSelection(1)


def content_id(path: Path) -> Iterator[str]:
    """Make an id from a file's content alone. Yields "" while it reads, so that the window stays alive, then
    the id.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                yield ""
    except OSError:
        raise LocalFileError("The temporary file of the volume cannot be read; is the disk full?") from None
    yield f"slicer-{digest.hexdigest()[:16]}"


def _read_volume(path: Path) -> Any | None:
    node = slicer.vtkMRMLScalarVolumeNode()
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetSingleFile(1)
    return node if storage.ReadData(node) else None


def _read_picture(path: Path) -> Any | None:
    """Read a picture as Slicer opens it: colours, row 0 at the top, pixels of 1 mm. Without a storage node,
    see `export`.
    """
    reader = getattr(vtk, _READERS[path.suffix.lower()])()
    if not reader.CanReadFile(str(path)):
        return None
    reader.SetFileName(str(path))
    flip = vtk.vtkImageFlip()  # VTK's pictures begin at the bottom
    flip.SetFilteredAxis(1)
    flip.SetInputConnection(reader.GetOutputPort())
    flip.Update()
    image = flip.GetOutput()
    if reader.GetErrorCode() or image.GetPointData().GetScalars() is None:
        return None
    width, height, _ = image.GetDimensions()
    values = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(
        1, height, width, -1
    )
    values = values[..., :3] if values.shape[-1] >= 3 else np.repeat(values[..., :1], 3, axis=-1)
    node = slicer.vtkMRMLVectorVolumeNode()
    node.SetIJKToRASMatrix(as_matrix(np.diag([-1.0, -1.0, 1.0, 1.0])))
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(values))
    return node
