"""Refuses NIfTI files that ITK reads in silence and that must not be segmented, before ITK reads them.

ITK 5.4 fills what a truncated file lacks with noise, takes NaN and infinite voxels for 0, a dimension of 0
for 1 and a spacing below 0 for a mirrored image, and it does not compare the checksum of a gzip stream. Costs
one more pass over a compressed or floating-point file, in pieces of 4 MiB. Knows the format only; the image
is read in image_files.py.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import DTypeLike

from wordmask.data.limits import reason_of, refuse_not_finite, refuse_too_large
from wordmask.errors import VolumeError

_HEADER_BYTES = 348  # the length of a header is also its first number
_NIFTI_2 = ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))
_PIECE = 2**22  # bytes


@dataclass(frozen=True)
class _Layout:
    """Where the voxels lie in the uncompressed file, in bytes."""

    offset: int
    voxels: int
    type: np.dtype[Any]

    @property
    def end(self) -> int:
        return self.offset + self.voxels * self.type.itemsize


def check_nifti(path: Path, max_voxels: int | None = None) -> None:
    """Check the file from the header to the last voxel.

    Raises:
        VolumeError: it is truncated, damaged or empty, has a spacing of 0 or less, or voxels that are NaN or
            infinite.
        TooLargeError: the header announces more than ``max_voxels``; no voxel was read.
    """
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as file:
            layout = _layout(file.read(_HEADER_BYTES), path.name)
            refuse_too_large(layout.voxels, max_voxels, path.name)
            file.seek(0)
            if compressed or layout.type.kind == "f":
                found, bad = _scan(file, layout)
            else:
                found, bad = path.stat().st_size, 0
    except (OSError, EOFError, zlib.error) as error:
        raise VolumeError(
            f"{path.name} is truncated or damaged ({reason_of(error)}); copy or export it again."
        ) from error
    if found < layout.end:
        raise VolumeError(
            f"{path.name} is truncated: it should hold {layout.end} bytes and ends after {found}. Copy or "
            "export it again."
        )
    if bad:
        refuse_not_finite(bad, layout.voxels, path.name)


def _layout(start: bytes, name: str) -> _Layout:
    """Read the layout from the first bytes of the file; VolumeError when the header makes no sense."""
    if start[:4] in _NIFTI_2:
        raise VolumeError(
            f"{name} is in the second version of NIfTI, which ITK and Slicer do not read; save it as NIfTI-1 "
            "or NRRD."
        )
    try:
        header = nib.Nifti1Header(start, check=False)
        voxel_type: DTypeLike = header.get_data_dtype()
        offset = max(0, int(header["vox_offset"]))  # a float in NIfTI-1
    except (WrapStructError, HeaderDataError, KeyError, ValueError, OverflowError) as error:
        raise VolumeError(
            f"{name} is not a NIfTI image, or it is truncated; copy or export it again."
        ) from error
    count = int(header["dim"][0])
    size = header["dim"][1 : count + 1].tolist()
    if not 1 <= count <= 7 or header["sizeof_hdr"] != _HEADER_BYTES:
        raise VolumeError(f"{name} is not a NIfTI image; export it again.")
    if min(size) < 1:
        raise VolumeError(f"{name} is empty: its size is {'x'.join(map(str, size))} voxels.")
    spacing = header["pixdim"][1:4].tolist()
    if any(length > 1 and not 0 < step < np.inf for length, step in zip(size, spacing, strict=False)):
        steps = ", ".join(f"{step:.4g}" for step in spacing[:count])
        raise VolumeError(
            f"{name} cannot be used: the voxel spacing must be above 0 mm along every axis, got {steps}."
        )
    return _Layout(offset, math.prod(size), np.dtype(voxel_type))


def _scan(file: Any, layout: _Layout) -> tuple[int, int]:
    """Read to the end, because the checksum is compared only there.

    Returns:
        (bytes in the uncompressed file, voxels that are NaN or infinite).
    """
    found, bad = len(file.read(layout.offset)), 0
    while piece := file.read(_PIECE):  # whole pieces but for the last: a voxel never lies in two
        if layout.type.kind == "f":
            inside = min(len(piece), max(0, layout.end - found)) // layout.type.itemsize
            bad += inside - int(np.count_nonzero(np.isfinite(np.frombuffer(piece, layout.type, inside))))
        found += len(piece)
    return found, bad
