"""Image files that a server sent: complete or refused, on the grid of a volume of the scene.

No node is added to the scene. Knows files, grids and Slicer's storage nodes. Does not know: segments, words,
servers, Qt.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import slicer

from ..client.errors import GeometryError, SegmentsError
from .geometry import Grid, grid_of, is_picture

_PIECE, _TURN = 1 << 20, 1 << 25  # bytes: read at once, and until others have a turn
_NIFTI_HEADER = 348  # bytes; the number also stands at its start, and tells the byte order
_SPACE_SIGNS = {"right": 1, "left": -1, "anterior": 1, "posterior": -1, "superior": 1, "inferior": -1}


def check_whole(path: str | Path) -> Iterator[None]:
    """Raise a SegmentsError for a file that is missing, empty, truncated or damaged, as far as its format
    tells without reading the image.

    Yields between steps, so that a window can stay alive.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size == 0:
        raise SegmentsError("The result is missing or empty, so nothing was changed; request it again.")
    if _is_nifti(path):
        yield from _check_nifti(path)


def read_on_grid(path: str | Path, volume: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """Return voxels [k, j, i] of a file that was computed for a volume, in the order in which the volume
    stores them.

    The file may be stored in another order of axes (Slicer reverses the slices of left-handed files when it
    reads them), but must have the same voxels in the same place. For a picture only rows and columns are
    compared. Call `check_whole` first. The result is a view where possible.

    Raises:
        SegmentsError: the file is not such an image
        GeometryError: it lies elsewhere
    """
    array, found = _read(Path(path))
    grid = grid_of(volume)
    if is_picture(volume) and found.shape == grid.shape:
        return array
    way = found.way_to(grid)
    if way is None:
        raise GeometryError(
            f"The result does not lie on {volume.GetName()!r}, so nothing was changed: "
            f"{found.difference(grid)}."
        )
    return way(array)


def file_grid(path: str | Path, volume: slicer.vtkMRMLVolumeNode) -> Grid:
    """Return the grid of the file that ``volume`` was loaded from; GeometryError if the volume is not that of
    the file.

    Slicer makes left-handed grids right-handed when it reads a file, so the arrays of node and file may
    differ.
    """
    path, grid = Path(path), grid_of(volume)
    stored = grid.k_reversed() if stored_left_handed(path) != grid.is_left_handed else grid
    if not is_picture(volume):
        for _ in check_whole(path):
            pass
        _, read = _read(path)
        if read.way_to(grid) is None:
            difference = read.difference(grid)
            raise GeometryError(
                f"{volume.GetName()!r} does not lie on the server's image: {difference}; load that image and "
                "try again."
            )
    return stored


def stored_left_handed(path: Path) -> bool:
    """Whether a NIfTI or NRRD file stores a left-handed grid, according to its header; False for other files.

    Raises:
        SegmentsError: the header cannot be read
    """
    start = _header(path)
    if _is_nifti(path):
        if len(start) < _NIFTI_HEADER:
            raise _damaged_error()
        order = "<" if struct.unpack("<i", start[:4])[0] == _NIFTI_HEADER else ">"
        qform, sform = struct.unpack(f"{order}2h", start[252:256])
        if sform > 0:
            rows = np.array(struct.unpack(f"{order}12f", start[280:328])).reshape(3, 4)
            return bool(np.linalg.det(rows[:, :3]) < 0)
        return bool(qform > 0 and struct.unpack(f"{order}f", start[76:80])[0] < 0)
    if path.name.lower().endswith(".nrrd"):
        return _nrrd_left_handed(start.split(b"\n\n")[0].decode("ascii", "replace"))
    return False


def _nrrd_left_handed(header: str) -> bool:
    fields = dict(re.findall(r"^([a-z ]+): *(.*?)\r?$", header, re.MULTILINE))
    vectors = re.findall(r"\(([^)]*)\)", fields.get("space directions", ""))
    sign = 1
    for name in fields.get("space", "").split("-"):
        sign *= _SPACE_SIGNS.get(name, 1)
    if len(vectors) != 3:
        return False
    return bool(
        np.linalg.det([[float(number) for number in vector.split(",")] for vector in vectors]) * sign < 0
    )


def _read(path: Path) -> tuple[np.ndarray, Grid]:
    # Stays out of the scene: nothing has to be removed when something goes wrong.
    node = slicer.vtkMRMLLabelMapVolumeNode()
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetSingleFile(1)  # not what lies beside it under a similar name
    if (
        not storage.ReadData(node)
        or node.GetImageData() is None
        or node.GetImageData().GetNumberOfScalarComponents() != 1
    ):
        raise _damaged_error()
    return np.asarray(slicer.util.arrayFromVolume(node)), grid_of(node)


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _header(path: Path) -> bytes:
    try:
        with open(path, "rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else open(path, "rb") as file:
            return file.read(1 << 14)
    except (OSError, EOFError, zlib.error):
        raise _damaged_error() from None


def _check_nifti(path: Path) -> Iterator[None]:
    """Check length and checksum of a NIfTI file.

    ITK fills what a truncated file lacks with zeros and compares no checksum, so half of an organ would be
    missing without a word.
    """
    try:
        with open(path, "rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else open(path, "rb") as file:
            needed = _nifti_bytes(file.read(_NIFTI_HEADER))
            found = at_last_turn = _NIFTI_HEADER
            while piece := file.read(_PIECE):
                found += len(piece)
                if found - at_last_turn >= _TURN:
                    at_last_turn = found
                    yield
    except (OSError, EOFError, zlib.error, struct.error):
        raise _damaged_error() from None
    if found < needed:
        raise _damaged_error()


def _nifti_bytes(header: bytes) -> int:
    """Return how long the uncompressed file has to be."""
    order = next((order for order in "<>" if struct.unpack(f"{order}i", header[:4])[0] == _NIFTI_HEADER), "")
    if not order:
        raise _damaged_error()
    dimensions = struct.unpack(f"{order}8h", header[40:56])
    (bits,) = struct.unpack(f"{order}h", header[72:74])
    (offset,) = struct.unpack(f"{order}f", header[108:112])
    if not 1 <= dimensions[0] <= 7 or min(dimensions[1 : dimensions[0] + 1]) < 1 or bits < 8:
        raise _damaged_error()
    return int(offset) + int(np.prod(dimensions[1 : dimensions[0] + 1], dtype=np.int64)) * bits // 8


def _damaged_error() -> SegmentsError:
    return SegmentsError(
        "The result cannot be read (it is damaged, truncated or not an image), so nothing was changed; "
        "request it again."
    )
