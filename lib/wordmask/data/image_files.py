"""Reads image files as arrays on a grid: NIfTI, NRRD and MetaImage, with SimpleITK.

An image that cannot be segmented is refused here, in one sentence that names the file (never its folder) and
the reason. Knows files and geometry; not DICOM series, the meaning of grey values, or torch.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from wordmask.data.geometry import Geometry
from wordmask.data.limits import refuse_too_large
from wordmask.data.nifti_check import check_nifti
from wordmask.errors import OutOfMemoryError, VolumeError, WordMaskError

# ITK prints warnings about a file before its own error or ours; what matters is in our sentence.
sitk.ProcessObject.SetGlobalWarningDisplay(False)

ImageKind = Literal["CT", "MR", "US", "picture", "unknown"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
GREY_PERCENTILES = (0.5, 99.5)  # what is shown black and white where grey values have no unit
PERCENTILE_VOXELS = 2**24  # larger images are sampled evenly

_LONGEST_HEADER = 1 << 20  # bytes
_META_VOXELS = re.compile(rb"^\s*ElementDataFile\s*=\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_NRRD_ELSEWHERE = re.compile(rb"^\s*data ?file\s*:", re.IGNORECASE | re.MULTILINE)
_UNITS = re.compile(rb"^\s*(?:(?:space )?units\s*:|DistanceUnits\s*=)(.*)$", re.IGNORECASE | re.MULTILINE)
_UNIT = re.compile(rb"[^\s\"]+")
_MILLIMETRES = {"mm", "MM", "millimeter", "millimeters", "millimetre", "millimetres", "none", "???", "?"}
# What places an image in a patient; NRRD also knows spaces of a scanner or of nothing in particular.
_PLACES = [
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        rb"^\s*space\s*:\s*(?:left|right|[LR][AP]S)\b(?:.*\n)*\s*space directions\s*:",
        rb"^\s*(?:TransformMatrix|Rotation|Orientation)\s*=",
    )
]

_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a file holds.

    Attributes:
        array: [k, j, i], or [1, h, w, 3] uint8 of a picture.
        geometry: the grid of the array.
        modality: None when the file does not say.
        warnings: sentences about what the file leaves open.
    """

    array: NDArray[Any]
    geometry: Geometry
    modality: ImageKind | None = None
    warnings: tuple[str, ...] = ()


def suffix_of(path: Path) -> str:
    """Return the file's suffix in lower case, ``.nii.gz`` in one piece."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def read_image_file(path: Path, max_voxels: int | None = None) -> Decoded:
    """Read NIfTI, NRRD or MetaImage.

    Trailing dimensions of 1 are dropped, a 2-D image becomes one slice, and one slice of 8-bit colours
    becomes a picture.

    Raises:
        VolumeError: the image cannot be read.
        TooLargeError: the header announces more than ``max_voxels``.
        OutOfMemoryError: the image does not fit into memory.
    """
    if suffix_of(path) in NIFTI_SUFFIXES:
        return _read_nifti(path, max_voxels)
    head = _check_head(path)
    reader = open_image(path)
    decoded = decode(reader.Execute, reader, path.name, max_voxels)
    placed = decoded.modality == "picture" or not head or any(place.search(head) for place in _PLACES)
    return decoded if placed else replace(decoded, warnings=(_unplaced(path.name),))


def _read_nifti(path: Path, max_voxels: int | None) -> Decoded:
    """Read NIfTI, and refuse it where ITK does not put the voxels where the file says."""
    placement = check_nifti(path, max_voxels)
    reader = open_image(path)
    decoded = decode(reader.Execute, reader, path.name, max_voxels)
    if not placement.agrees_with(decoded.geometry.affine_ras):
        raise VolumeError(
            f"{path.name} cannot be used: its direction matrix is sheared or scaled, or contradicts its "
            "spacing; resample it to a straight grid."
        )
    if placement.affine_ras is not None:
        return decoded
    return replace(decoded, warnings=(_unplaced(path.name),))


def _unplaced(name: str) -> str:
    """Warn of an image without a transform to the patient."""
    return (
        f"{name} does not say how it lies in the patient, so left and right are a guess; check the sides, or "
        "export it again with its orientation."
    )


def _check_head(path: Path) -> bytes:
    """Refuse what ITK reads in silence and would be wrong here.

    That is an image in one file (.nrrd, .mha) that takes its voxels from another one, because an upload could
    name any file of a server, and distances in another unit than millimetres.

    Returns:
        The header of NRRD or MetaImage; nothing where the file is neither.
    """
    suffix = suffix_of(path)
    with path.open("rb") as file:
        head = file.read(_LONGEST_HEADER)
    if suffix in (".nrrd", ".nhdr"):
        head, *voxels = re.split(rb"\r?\n\r?\n", head, maxsplit=1) if head.startswith(b"NRRD") else (b"", b"")
        attached = bool(voxels) and not _NRRD_ELSEWHERE.search(head)
    else:
        found = _META_VOXELS.search(head)
        head = head[: found.end()] if found else head if b"NDims" in head else b""
        attached = not head or (found is not None and found[1].upper() == b"LOCAL")
    if suffix in (".nrrd", ".mha") and not attached:
        raise VolumeError(f"{path.name} takes its voxels from another file; save it in one piece.")
    units = {word.decode("latin-1") for line in _UNITS.findall(head) for word in _UNIT.findall(line)}
    if others := sorted(units - _MILLIMETRES):
        raise VolumeError(
            f"{path.name} gives distances in {', '.join(others)}, and they would be read as millimetres; "
            "save it with distances in mm."
        )
    return head


def open_image(path: Path, image_io: str = "", name: str = "") -> sitk.ImageFileReader:
    """Read the header of a file.

    Args:
        path: of the file.
        image_io: name of an ITK reader; chosen by the content when empty.
        name: of the file in sentences, where it is a copy of another one.

    Raises:
        VolumeError: the file is not an image that ITK reads.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(image_io)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _explain(name or path.name, error) from error
    return reader


def decode(load: Any, header: Any, name: str, max_voxels: int | None = None) -> Decoded:
    """Load the voxels after a look at the header.

    Args:
        load: gives the SimpleITK image.
        header: a reader that has read the header, or the image itself.
        name: of the file, for sentences.
        max_voxels: how many are accepted; None: any number.

    Raises:
        VolumeError: the image is not one volume or picture of real numbers.
        TooLargeError: it has more than ``max_voxels``.
        OutOfMemoryError: it does not fit into memory.
    """
    size = header.GetSize()
    refuse_too_large(math.prod(size), max_voxels, name)
    if any(count != 1 for count in size[3:]):
        raise VolumeError(
            f"{name} has {len(size)} dimensions ({'x'.join(map(str, size))}); one volume is segmented at a "
            "time. "
            "Save one time point or channel and try again."
        )
    if header.GetPixelIDValue() in _COMPLEX:
        raise VolumeError(f"{name} holds complex numbers; save its magnitude as an image and try again.")
    components = (
        header.GetNumberOfComponents()
        if hasattr(header, "GetNumberOfComponents")
        else header.GetNumberOfComponentsPerPixel()
    )
    geometry = geometry_of(header, name)
    is_picture = (
        geometry.size[2] == 1 and components in (3, 4) and header.GetPixelIDValue() == sitk.sitkVectorUInt8
    )
    if components != 1 and not is_picture:
        raise VolumeError(
            f"{name} has {components} values per voxel (a vector image); save one of them as an image and "
            "try again."
        )
    try:
        array = sitk.GetArrayFromImage(load())
    except (RuntimeError, MemoryError) as error:
        raise _explain(name, error if _fits(math.prod(size)) else MemoryError()) from error
    if is_picture:
        geometry = Geometry(
            geometry.size, geometry.spacing, geometry.origin, geometry.direction, oriented=False
        )
        return Decoded(
            np.ascontiguousarray(array.reshape(*geometry.shape, components)[..., :3]), geometry, "picture"
        )
    return Decoded(array.reshape(geometry.shape), geometry)


def geometry_of(header: Any, name: str) -> Geometry:
    """Return the grid of a SimpleITK reader or image, in three dimensions; VolumeError names the file."""
    dimension = min(header.GetDimension(), 3)
    direction = np.eye(3)
    direction[:dimension, :dimension] = np.reshape(header.GetDirection(), (header.GetDimension(),) * 2)[
        :dimension, :dimension
    ]
    missing = 3 - dimension
    size = tuple(header.GetSize()[:dimension]) + (1,) * missing
    spacing = tuple(header.GetSpacing()[:dimension]) + (1.0,) * missing
    origin = tuple(header.GetOrigin()[:dimension]) + (0.0,) * missing
    try:
        return Geometry(size, spacing, origin, tuple(direction.ravel()))
    except VolumeError as error:
        reason = str(error)
        raise VolumeError(f"{name} cannot be used: {reason[0].lower()}{reason[1:]}") from error


def grey_range(array: NDArray[Any]) -> tuple[float, float]:
    """Return the percentiles 0.5 and 99.5 of all voxels, or the extremes when those two are equal.

    They are equal for a small object on an even ground. Images of more than 2^24 voxels are sampled at even
    distances.
    """
    flat = array.reshape(-1)
    low, high = np.percentile(flat[:: -(-flat.size // PERCENTILE_VOXELS)], GREY_PERCENTILES)
    if not high > low:
        low, high = flat.min(), flat.max()
    return float(low), float(high)


def _fits(voxels: int) -> bool:
    """Try whether an image and a copy of it fit into memory: if not, ITK calls a sound file damaged."""
    try:
        np.empty(2 * voxels, dtype=np.int16)
    except MemoryError:
        return False
    return True


def _explain(name: str, error: BaseException) -> WordMaskError:
    text = str(error)
    if isinstance(error, MemoryError) or "alloc" in text.lower():
        return OutOfMemoryError(
            f"{name} does not fit into the memory of this machine; crop it or resample it."
        )
    if "orthonormal" in text:
        return VolumeError(
            f"{name} cannot be used: its direction matrix is singular, sheared or scaled; resample it to a "
            "straight grid."
        )
    if "Unable to determine ImageIO" in text:
        return VolumeError(
            f"{name} is not an image that can be read here, or it is damaged; formats: {_formats()}."
        )
    if "size is zero" in text:
        return VolumeError(f"{name} is empty: a dimension of it is 0.")
    return VolumeError(
        f"{name} cannot be read: it is truncated, damaged, or lacks its data file. Copy or export it again."
    )


def _formats() -> str:
    return "NIfTI, NRRD, MetaImage (mha), DICOM, PNG, JPEG, TIFF, BMP"
