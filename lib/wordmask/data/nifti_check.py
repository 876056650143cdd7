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
from numpy.typing import DTypeLike, NDArray

from wordmask.data.geometry import measure_distance
from wordmask.data.limits import reason_of, refuse_not_finite, refuse_too_large
from wordmask.errors import VolumeError

_HEADER_BYTES = 348  # the length of a header is also its first number
_NIFTI_2 = ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))
_PIECE = 2**22  # bytes
_MILLIMETRES = {1: 1e3, 2: 1.0, 3: 1e-3}  # metres, millimetres, micrometres; 0, unknown, counts as mm
_SAME_VOXEL = 0.1  # of the smallest spacing: transforms that differ by less are the same, but for rounding
_STRAIGHT = 1e-3  # of a turn from a shear or another scale
_TURNED = 0.1  # degrees: less is rounding of a shift


@dataclass(frozen=True)
class _Layout:
    """Where the voxels lie in the uncompressed file, in bytes."""

    offset: int
    voxels: int
    type: np.dtype[Any]

    @property
    def end(self) -> int:
        return self.offset + self.voxels * self.type.itemsize


@dataclass(frozen=True)
class Placement:
    """Where a NIfTI file says that its voxels lie.

    Attributes:
        affine_ras: [4, 4], mm; None when the file does not say.
        size: voxels along (i, j, k).
        tolerance: mm; corners that are closer are at the same place.
    """

    affine_ras: NDArray[np.float64] | None
    size: tuple[int, ...]
    tolerance: float

    def agrees_with(self, affine_ras: NDArray[np.float64]) -> bool:
        """Whether another transform puts the corners at the same places, or the file does not say where."""
        if self.affine_ras is None:
            return True
        return measure_distance(self.affine_ras, affine_ras, self.size) <= self.tolerance


def check_nifti(path: Path, max_voxels: int | None = None) -> Placement:
    """Check the file from the header to the last voxel.

    Returns:
        Where its voxels lie.

    Raises:
        VolumeError: it is truncated, damaged or empty, has a spacing of 0 or less, voxels that are NaN or
            infinite, an ending that ITK does not follow, or two transforms that disagree.
        TooLargeError: the header announces more than ``max_voxels``; no voxel was read.
    """
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
            layout = _layout(start, path.name)
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
    _check_ending(path.name, compressed)
    return _read_placement(nib.Nifti1Header(start, check=False), path.name)


def _check_ending(name: str, compressed: bool) -> None:
    """Refuse endings for which ITK does not read what the file holds."""
    stem = name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else name[: -len(".nii")]
    if compressed and not name.lower().endswith(".gz"):
        raise VolumeError(f"{name} is compressed, which its ending does not say; rename it to {stem}.nii.gz.")
    ending = name[len(stem) :]
    if ending not in (ending.lower(), ending.upper()):
        raise VolumeError(f"{name} has an ending in mixed case; rename it to {stem}{ending.lower()}.")


def _read_placement(header: nib.Nifti1Header, name: str) -> Placement:
    """Read the two transforms of the header; VolumeError when they disagree."""
    try:
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise VolumeError(f"{name} has a transform that cannot be read; export it again.") from error
    size = tuple(max(1, int(count)) for count in header["dim"][1:4])
    steps = [float(step) for count, step in zip(size, header["pixdim"][1:4], strict=True) if count > 1]
    unit = np.diag([*[_MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)] * 3, 1.0])
    tolerance = _SAME_VOXEL * min(steps, default=1.0) * unit[0, 0]
    forms = [unit @ form for form in (sform, qform) if form is not None]
    if not np.isfinite(forms).all():
        raise VolumeError(f"{name} has a transform that is not finite; export it again.")
    if len(forms) == 2 and (apart := measure_distance(forms[0], forms[1], size)) > tolerance:
        raise VolumeError(
            f"{name} has two transforms that disagree: its sform puts the image elsewhere than its qform, "
            f"{_compare(forms[0], forms[1], apart)}. Keep the one that is right, for example with fslorient "
            "-copysform2qform or -copyqform2sform."
        )
    return Placement(forms[0] if forms else None, size, tolerance)


def _compare(sform: NDArray[np.float64], qform: NDArray[np.float64], apart: float) -> str:
    """Say how the sform differs from the qform: mirrored, turned, shifted, or sheared or scaled."""
    change = sform[:3, :3] @ np.linalg.pinv(qform[:3, :3])  # singular where one slice has no thickness
    if np.linalg.det(change) < 0:
        return f"mirrored (up to {apart:.3g} mm apart)"
    if np.abs(change @ change.T - np.eye(3)).max() > _STRAIGHT:
        return f"sheared or scaled (up to {apart:.3g} mm apart)"
    angle = np.degrees(np.arccos(np.clip((np.trace(change) - 1) / 2, -1, 1)))
    if angle > _TURNED:
        return f"turned by {angle:.3g} degrees (up to {apart:.3g} mm apart)"
    return f"shifted by {apart:.3g} mm"


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
