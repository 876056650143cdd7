"""Images with their geometry: read any supported file or DICOM folder, write label maps onto the same grid.

Knows files, grids and what kind of image it is. Does not know: words, models, torch. What files hold is in
image_files.py and dicom_files.py; how a volume is cut is in geometry.py.
"""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

from wordmask.data.dicom_files import read_dicom_file, read_dicom_folder
from wordmask.data.geometry import Geometry
from wordmask.data.image_files import (
    NIFTI_SUFFIXES,
    PICTURE_SUFFIXES,
    VOLUME_SUFFIXES,
    Decoded,
    ImageKind,
    grey_range,
    read_image_file,
    suffix_of,
)
from wordmask.data.limits import check_finite, refuse_fill_values
from wordmask.data.nifti_check import check_nifti
from wordmask.data.picture_files import read_picture
from wordmask.errors import OutOfMemoryError, RequestError, VolumeError
from wordmask.files import replace_file

IMAGE_KINDS: tuple[ImageKind, ...] = get_args(ImageKind)
LABEL_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
DICOM_SUFFIXES = ("", ".dcm", ".dicom", ".ima")

_CANNOT_WRITE = (
    "{} cannot be written: its folder is not writable, or the disk is full. Choose another folder."
)

# Files round numbers differently (NIfTI keeps 32 bits): within these a digest is the same for the same image.
_DIGEST_DECIMALS = 3  # mm, and direction cosines

# Hounsfield units: outside air is below, and the soft tissue of the body fills much of what is above.
_AIR_BELOW_HU = -500
_AIR_SHARE = 0.001
_SOFT_TISSUE_HU = (-200, 300)
_SOFT_TISSUE_SHARE = 0.25
_SAMPLED_VOXELS = 2**20


@dataclass(frozen=True, eq=False)
class Volume:
    """An image on its grid. The array is read-only because the digest stands for it.

    Attributes:
        array: [k, j, i] grey values (CT: Hounsfield units), or [1, h, w, 3] uint8 of a picture.
        geometry: the grid of the array.
        modality: "unknown" is treated as MR; an ultrasound picture is "US", any other picture "picture".
        name: of the file, without its folder.
        warnings: sentences about what the file leaves open, for whoever sees the result.

    Raises:
        VolumeError: array and geometry do not fit together.
    """

    array: NDArray[Any]
    geometry: Geometry
    modality: ImageKind = "unknown"
    name: str = "volume"
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.array.shape[:3] != self.geometry.shape or self.array.shape[3:] not in ((), (3,)):
            raise VolumeError(
                f"{self.name} has an array of shape {self.array.shape} on a grid of shape "
                f"{self.geometry.shape}."
            )
        if self.is_picture and (self.array.dtype != np.uint8 or len(self.array) != 1):
            raise VolumeError(
                f"{self.name} is not a picture: it has {len(self.array)} slices of {self.array.dtype}, and a "
                "picture is one slice of 8-bit colours."
            )
        view = self.array.view()
        view.flags.writeable = False
        object.__setattr__(self, "array", view)
        if self.is_picture:
            object.__setattr__(self, "geometry", replace(self.geometry, oriented=False))

    @property
    def is_picture(self) -> bool:
        """Whether this is an 8-bit colour picture, without a unit, an orientation, or millilitres."""
        return self.array.ndim == 4

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of voxels and geometry, the same for every file format and number type.

        Values count as 32-bit floats, as models see them, and the geometry to a thousandth. It is computed
        once, slice by slice.
        """
        geometry = self.geometry
        numbers = (
            np.round([*geometry.spacing, *geometry.origin, *geometry.direction], _DIGEST_DECIMALS) + 0.0
        )  # -0.0 is 0.0
        digest = hashlib.sha256(repr((self.array.shape, numbers.tolist(), geometry.oriented)).encode())
        for image in self.array:
            digest.update(np.ascontiguousarray(image, dtype="<f4").data)
        return digest.hexdigest()

    @cached_property
    def grey_range(self) -> tuple[float, float]:
        """The percentiles 0.5 and 99.5 of the volume: black and white where grey values have no unit."""
        return grey_range(self.array)


def read_volume(path: str | Path, *, modality: str | None = None, max_voxels: int | None = None) -> Volume:
    """Read NIfTI, NRRD, MetaImage, a DICOM file, a folder with one DICOM series, PNG, JPEG, TIFF or BMP.

    Args:
        path: of the file or folder.
        modality: what the image is, if the caller knows better. None: what the DICOM tag says, else a guess:
            "CT" if the values look like Hounsfield units, "unknown" otherwise.
        max_voxels: how many are accepted; None: any number.

    Raises:
        VolumeError: the image cannot be read; the sentence names the file (not its folder) and the reason.
        RequestError: the modality is unknown.
        TooLargeError: the header announces more than ``max_voxels``.
        OutOfMemoryError: the image does not fit into memory.
    """
    path = Path(path)
    if modality is not None and modality not in IMAGE_KINDS:
        raise RequestError(f"There is no modality {modality!r}. Modalities: {', '.join(IMAGE_KINDS)}.")
    name = path.name or path.resolve().name
    try:
        decoded = _read(path, name, max_voxels)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise OutOfMemoryError(
                f"{name} does not fit into the memory of this machine; crop it or resample it."
            ) from error
        raise VolumeError(f"{name} cannot be read ({error.strerror or error}).") from error
    if decoded.array.dtype.kind not in "iuf":
        raise VolumeError(
            f"{name} holds values of type {decoded.array.dtype}; save it with whole or real numbers."
        )
    check_finite(decoded.array, name)
    refuse_fill_values(decoded.array, name)
    array = _narrow(decoded.array)
    if modality is not None:
        return _as_modality(replace(decoded, array=array), modality, name)
    guessed: ImageKind = "CT" if decoded.modality is None and looks_like_ct(array) else "unknown"
    return Volume(array, decoded.geometry, decoded.modality or guessed, name, decoded.warnings)


def looks_like_ct(array: NDArray[Any]) -> bool:
    """Judge whether grey values are Hounsfield units: some air below -500, much of the rest soft tissue.

    About a million voxels at even distances are looked at. A CT without any air, or one stored without its
    offset of -1000, is not recognised; ``modality`` of `read_volume` says what it is.
    """
    flat = array.reshape(-1)
    sample = flat[:: max(1, flat.size // _SAMPLED_VOXELS)]
    denser = sample[sample > _AIR_BELOW_HU]
    if sample.size - denser.size < _AIR_SHARE * sample.size or sample.size == denser.size or not denser.size:
        return False
    soft = np.count_nonzero((denser >= _SOFT_TISSUE_HU[0]) & (denser <= _SOFT_TISSUE_HU[1]))
    return bool(soft >= _SOFT_TISSUE_SHARE * denser.size)


def write_label_map(
    path: str | Path,
    labels: NDArray[Any],
    geometry: Geometry,
    *,
    compress: bool = True,
    dtype: str | None = None,
) -> None:
    """Write labels on exactly the given grid. The file appears whole or not at all.

    NIfTI keeps 32 bits of each number of the geometry, NRRD and MetaImage 64, PNG only the pixel spacing.

    Args:
        path: .nii, .nii.gz, .nrrd, .mha, or .png for one slice; the suffix chooses the format.
        labels: [k, j, i], whole numbers 0..65535.
        geometry: the grid of the labels.
        compress: whether to compress the voxels.
        dtype: numpy's name of a type of whole numbers. None: uint8, or uint16 where values need it.

    Raises:
        VolumeError: the labels cannot be written.
    """
    path = Path(path)
    if labels.dtype.kind not in "iub":
        raise VolumeError(f"{path.name} cannot be written: labels are whole numbers, got {labels.dtype}.")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise VolumeError(
            f"{path.name} cannot be written: labels lie between 0 and 65535, got {low} to {high}."
        )
    kind = np.dtype(dtype or ("uint8" if high <= np.iinfo(np.uint8).max else "uint16"))
    if kind.kind not in "iu" or high > np.iinfo(kind).max:
        raise VolumeError(f"{path.name} cannot be written: labels up to {high} do not fit into {kind.name}.")
    _write(path, labels.astype(kind, copy=False), geometry, compress)


def write_scalar_map(
    path: str | Path, values: NDArray[Any], geometry: Geometry, *, compress: bool = True
) -> None:
    """Write numbers, such as probabilities, as float32, on exactly the given grid.

    Args:
        path: .nii, .nii.gz, .nrrd or .mha; the suffix chooses the format.
        values: [k, j, i].
        geometry: the grid of the values.
        compress: whether to compress the voxels.

    Raises:
        VolumeError: the values cannot be written.
    """
    path = Path(path)
    if suffix_of(path) == ".png":
        raise VolumeError(
            f"{path.name} cannot be written: PNG holds no fractions; use one of {', '.join(LABEL_SUFFIXES)}."
        )
    _write(path, values.astype(np.float32, copy=False), geometry, compress)


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write an image with its grey values on its grid, or a picture.

    Args:
        path: .nii, .nii.gz, .nrrd or .mha; .png for a picture.
        volume: the image.

    Raises:
        VolumeError: the image cannot be written.
    """
    path = Path(path)
    if volume.is_picture:
        _write_picture(path, volume.array[0])
    else:
        _write(path, volume.array, volume.geometry, compress=True)


def _write_picture(path: Path, colours: NDArray[np.uint8]) -> None:
    if suffix_of(path) != ".png":
        raise VolumeError(f"{path.name} cannot be written: a picture is written as .png.")
    try:
        with replace_file(path, ending=".png") as part:
            Image.fromarray(colours).save(part)
    except OSError as error:
        raise VolumeError(_CANNOT_WRITE.format(path.name)) from error


def _read(path: Path, name: str, max_voxels: int | None) -> Decoded:
    if not path.exists():
        raise VolumeError(f"{name} does not exist; check the name.")
    if path.is_dir():
        return read_dicom_folder(path.resolve(), max_voxels)
    if path.stat().st_size == 0:
        raise VolumeError(f"{name} is empty (0 bytes); copy or export it again.")
    suffix = suffix_of(path)
    if suffix in PICTURE_SUFFIXES:
        return read_picture(path, max_voxels)
    if suffix in VOLUME_SUFFIXES:
        return read_image_file(path, max_voxels)
    if suffix in DICOM_SUFFIXES or suffix[1:].isdigit():  # files of a series are often called by their UID
        return read_dicom_file(path, max_voxels)
    raise VolumeError(
        f"{name} is in a format that is not read here; use "
        f"{', '.join((*VOLUME_SUFFIXES, '.dcm', *PICTURE_SUFFIXES))} "
        "or the folder of a DICOM series."
    )


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    """Store the same values in less memory: 64-bit floats as 32-bit, wide integers as 16-bit if they fit."""
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype.kind in "iu" and array.dtype.itemsize > 2:
        limits = np.iinfo(np.int16)
        fits = limits.min <= array.min() and array.max() <= limits.max
        return array.astype(np.int16 if fits else np.float32)
    return array


def _as_modality(decoded: Decoded, modality: ImageKind, name: str) -> Volume:
    array = decoded.array
    if modality == "picture" and array.ndim == 3:
        if array.dtype != np.uint8 or len(array) != 1:
            raise VolumeError(f"{name} cannot be taken as a picture: that is one slice of 8-bit values.")
        array = np.repeat(array[..., None], 3, axis=-1)
    if modality in ("CT", "MR", "unknown") and array.ndim == 4:
        raise VolumeError(
            f"{name} is a colour picture and cannot be taken as {modality}; its grey values have no unit."
        )
    return Volume(array, decoded.geometry, modality, name, decoded.warnings)


def _check_written(path: Path) -> None:
    """Raise VolumeError or RuntimeError if a file is not whole: ITK says nothing when the disk is full."""
    if suffix_of(path) in NIFTI_SUFFIXES:
        check_nifti(path)
    else:
        sitk.ReadImage(str(path))


def _write(path: Path, array: NDArray[Any], geometry: Geometry, compress: bool) -> None:
    suffix = suffix_of(path)
    if array.shape != geometry.shape:
        raise VolumeError(
            f"{path.name} cannot be written: an array of shape {array.shape} does not fit the grid "
            f"{geometry.shape}."
        )
    if suffix not in (*LABEL_SUFFIXES, ".png") or path.name.lower().endswith(".seg.nrrd"):
        raise VolumeError(
            f"{path.name} cannot be written; label maps are {', '.join(LABEL_SUFFIXES)}, and .png for "
            "pictures."
        )
    if suffix == ".png" and geometry.size[2] != 1:
        raise VolumeError(
            f"{path.name} cannot be written: PNG holds one slice, not {geometry.size[2]}; use .nii.gz."
        )
    if not path.parent.is_dir():
        raise VolumeError(f"{path.name} cannot be written: its folder does not exist; choose another one.")
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    try:
        with replace_file(path, ending=suffix) as part:
            sitk.WriteImage(image, str(part), compress)
            _check_written(part)
    except (OSError, RuntimeError, VolumeError) as error:
        raise VolumeError(_CANNOT_WRITE.format(path.name)) from error
