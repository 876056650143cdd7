"""Reads DICOM, one file or a folder with one series, as an array on a grid.

ITK stacks whatever files it is given. What would become a wrong volume (two series, a localiser, several time
points, missing slices, a tilted gantry) is refused here. Messages name a series by number and description,
never a patient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from wordmask.data.geometry import Geometry
from wordmask.data.image_files import Decoded, ImageKind, decode, geometry_of, open_image
from wordmask.data.limits import refuse_too_large
from wordmask.errors import OutOfMemoryError, VolumeError

_GDCM = "GDCMImageIO"
_MODALITY, _FRAMES, _DESCRIPTION, _NUMBER = "0008|0060", "0028|0008", "0008|103e", "0020|0011"
_MODALITIES: dict[str, ImageKind] = {"CT": "CT", "MR": "MR", "US": "US"}
# Where the frames of one file are slices; elsewhere (US, XA, ES) they are a film.
_FRAMES_IN_SPACE = ("CT", "MR", "PT", "NM")

SAME_PLACE = 1e-3  # mm between slices: closer ones are at the same position
UNEVEN = 0.05  # of the usual distance between slices: more is a missing slice, less is rounding
TILT = 0.01  # sideways shift per distance between slices: more is a tilted gantry


@dataclass(frozen=True)
class _Series:
    uid: str
    files: tuple[str, ...]
    header: sitk.ImageFileReader

    def __str__(self) -> str:
        number, description = _tag(self.header, _NUMBER), _tag(self.header, _DESCRIPTION)
        title = f"{number or '?'} {description!r}" if description else number or "without a number"
        return f"{title} ({len(self.files)} {'image' if len(self.files) == 1 else 'images'})"


def read_dicom_file(path: Path, max_voxels: int | None = None) -> Decoded:
    """Read a single DICOM file: one slice, an enhanced multi-frame volume, or a picture.

    Pictures are 8-bit colours, and 8-bit ultrasound or x-ray.

    Raises:
        VolumeError: the file cannot be read, or does not hold one volume.
        TooLargeError: the header announces more than ``max_voxels``.
        OutOfMemoryError: the image does not fit into memory.
    """
    reader = open_image(path, _GDCM)
    modality, frames = _tag(reader, _MODALITY), _tag(reader, _FRAMES)
    if frames.isdigit() and int(frames) > 1 and modality not in _FRAMES_IN_SPACE:
        raise VolumeError(
            f"{path.name} is a film of {frames} frames; one picture is segmented at a time. Save one frame "
            "and try again."
        )
    return _with_modality(decode(reader.Execute, reader, path.name, max_voxels), modality)


def read_dicom_folder(folder: Path, max_voxels: int | None = None) -> Decoded:
    """Read the one series of a folder; its subfolders are not searched.

    Files that are not images, such as reports, are passed over.

    Raises:
        VolumeError: there is not exactly one series, or it is not one straight volume.
        TooLargeError: it has more than ``max_voxels``.
        OutOfMemoryError: the image does not fit into memory.
    """
    found = _series_in(folder)
    if not found:
        raise VolumeError(
            f"The folder {folder.name} holds no DICOM images; choose the folder with the files of one series."
        )
    if len(found) > 1:
        names = "; ".join(map(str, found))
        raise VolumeError(
            f"The folder {folder.name} holds {len(found)} series: {names}. Put the one to segment into a "
            "folder of its own."
        )
    series = found[0]
    if len(series.files) == 1:
        return read_dicom_file(Path(series.files[0]), max_voxels)
    name = f"The series {series} in {folder.name}"
    refuse_too_large(math.prod(series.header.GetSize()) * len(series.files), max_voxels, name)
    _check_series(series.files, name)
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO(_GDCM)
    reader.SetFileNames(series.files)
    try:
        image = reader.Execute()
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{name} does not fit into the memory of this machine; crop it or resample it."
        ) from error
    except RuntimeError as error:
        raise VolumeError(
            f"{name} cannot be read: a file of it is truncated or damaged. Export it again."
        ) from error
    return _with_modality(decode(lambda: image, image, name), _tag(series.header, _MODALITY))


def _series_in(folder: Path) -> list[_Series]:
    found = []
    for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
        files = tuple(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))
        try:
            header = open_image(Path(files[0]), _GDCM)
        except VolumeError:
            continue  # a report, a dose record, a structure set: a series without pixels
        found.append(_Series(uid, files, header))
    return found


def _check_series(files: Sequence[str], name: str) -> None:
    """Raise VolumeError unless the files, in this order, are evenly spaced slices of one straight volume."""
    grids = []
    for file in files:
        reader = open_image(Path(file), _GDCM)
        grids.append((geometry_of(reader, Path(file).name), reader.GetNumberOfComponents()))
    first = grids[0][0]
    if any(grid.size[2] > 1 for grid, _ in grids):
        raise VolumeError(f"{name} consists of several volumes or films; choose one file of it.")
    if any(components != grids[0][1] or not _same_plane(grid, first) for grid, components in grids):
        raise VolumeError(
            f"{name} mixes slices of different size or direction (a localiser?); put those of one kind into "
            "a folder."
        )
    steps = np.diff([grid.origin for grid, _ in grids], axis=0)
    distances = np.linalg.norm(steps, axis=1)
    if (distances < SAME_PLACE).any():
        places = 1 + int((distances >= SAME_PLACE).sum())
        raise VolumeError(
            f"{name} has {len(files)} images at {places} {'position' if places == 1 else 'positions'}: "
            "several time points or "
            "echoes, or images without a position; put those of one volume into a folder of their own."
        )
    normal = first.direction_matrix[:, 2]
    sideways = np.linalg.norm(steps - np.outer(steps @ normal, normal), axis=1)
    if (sideways > TILT * distances).any():
        raise VolumeError(
            f"{name} was taken with a tilted gantry: its slices are shifted sideways; resample it to a "
            "straight grid."
        )
    usual = float(np.median(distances))
    if (abs(distances - usual) > UNEVEN * usual).any():
        raise VolumeError(
            f"{name} has uneven distances between its slices ({distances.min():.4g} to {distances.max():.4g} "
            "mm): some are "
            "missing. Export it again, or resample it to even slices."
        )


def _same_plane(one: Geometry, other: Geometry) -> bool:
    return (
        one.size == other.size
        and bool(np.allclose(one.direction, other.direction, atol=1e-3))
        and bool(np.allclose(one.spacing[:2], other.spacing[:2], rtol=1e-3))
    )


def _with_modality(decoded: Decoded, tag: str) -> Decoded:
    """Tell CT, MR and US by the tag; 8-bit slices that are neither CT nor MR become pictures, like a PNG."""
    array, geometry = decoded.array, decoded.geometry
    if decoded.modality == "picture":
        return Decoded(array, geometry, "US" if tag == "US" else "picture")
    if array.dtype == np.uint8 and len(array) == 1 and tag not in ("CT", "MR"):
        return Decoded(np.repeat(array[..., None], 3, axis=-1), geometry, "US" if tag == "US" else "picture")
    return Decoded(array, geometry, _MODALITIES.get(tag, "unknown"))


def _tag(header: sitk.ImageFileReader, key: str) -> str:
    return header.GetMetaData(key).strip() if header.HasMetaDataKey(key) else ""
