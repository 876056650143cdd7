"""Reads DICOM, one file or a folder with one series, as an array on a grid.

ITK stacks whatever files it is given. What would become a wrong volume (two series, a localiser, several time
points, missing slices, a tilted gantry) is refused here. Messages name a series by number and description,
never a patient.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from wordmask.data.dicom_headers import (
    FrameTable,
    check_object,
    copy_pixels,
    is_enhanced,
    is_rescaled,
    is_spaced,
    read_frame_count,
    read_frames,
    read_header,
    read_series_traits,
)
from wordmask.data.dicom_stack import Frame, Source, stack_frames
from wordmask.data.image_files import Decoded, ImageKind, decode, geometry_of, open_image, suffix_of
from wordmask.data.limits import refuse_too_large
from wordmask.errors import OutOfMemoryError, VolumeError

_GDCM = "GDCMImageIO"
_MODALITY, _DESCRIPTION, _NUMBER = "0008|0060", "0008|103e", "0020|0011"
_MODALITIES: dict[str, ImageKind] = {"CT": "CT", "MR": "MR", "US": "US"}
# Where the frames of one file are slices; elsewhere (US, XA, ES) they are a film.
_FRAMES_IN_SPACE = ("CT", "MR", "PT", "NM")
_MOST_LISTED = 5  # series or files that one sentence names
_SUFFIXES = (".dcm", ".dicom", ".ima")
_DARKEST_HU = -200  # a CT whose smallest value is above has not been converted to Hounsfield units


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
    header = read_header(path)
    if header is None:  # pydicom is stricter than ITK, which has the last word
        reader = open_image(path, _GDCM)
        if math.prod(reader.GetSize()[2:]) > 1:
            raise VolumeError(
                f"{path.name} has a header that breaks the rules of DICOM, so the order of its frames is not "
                "known; export it again."
            )
        return _tell_modality(decode(reader.Execute, reader, path.name, max_voxels), _tag(reader, _MODALITY))
    check_object(header, path.name)
    modality, count = str(header.get("Modality", "")), read_frame_count(header)
    if is_enhanced(header):
        table = read_frames(header, path.name)
        if modality in _FRAMES_IN_SPACE or any(frame.position is not None for frame in table.frames):
            refuse_too_large(count * math.prod(table.frames[0].size), max_voxels, path.name)
            decoded = _tell_modality(_read_enhanced(path, table), modality)
            return _warn(decoded, path.name, rescaled=table.rescaled, spaced=True)
    if count > 1 and modality not in _FRAMES_IN_SPACE:
        raise VolumeError(
            f"{path.name} is a film of {count} frames; one picture is segmented at a time. Save one frame "
            "and try again."
        )
    if count > 1:
        raise VolumeError(
            f"{path.name} does not say where its {count} frames lie in the patient, so they cannot be put in "
            "order; export it with positions, or as NIfTI or NRRD."
        )
    reader = open_image(path, _GDCM)
    decoded = decode(reader.Execute, reader, path.name, max_voxels)
    decoded = _tell_modality(decoded, modality)
    return _warn(decoded, path.name, rescaled=is_rescaled(header), spaced=is_spaced(header))


def read_dicom_folder(folder: Path, max_voxels: int | None = None) -> Decoded:
    """Read the one series of a folder; its subfolders are not searched.

    Files that are not images, such as reports, are passed over.

    Raises:
        VolumeError: there is not exactly one series, or it is not one straight volume.
        TooLargeError: it has more than ``max_voxels``.
        OutOfMemoryError: the image does not fit into memory.
    """
    found = _find_series(folder)
    if not found:
        raise VolumeError(
            f"The folder {folder.name} holds no DICOM images; choose the folder with the files of one series."
        )
    if len(found) > 1:
        names = "; ".join(map(str, found[:_MOST_LISTED])) + ("; ..." if len(found) > _MOST_LISTED else "")
        if len(found) > _MOST_LISTED and all(len(series.files) == 1 for series in found):
            names = "each of one image"
        raise VolumeError(
            f"The folder {folder.name} holds {len(found)} series: {names}. Put the one to segment into a "
            "folder of its own; slices of one volume must have the same SeriesInstanceUID."
        )
    series = found[0]
    if len(series.files) == 1:
        return read_dicom_file(Path(series.files[0]), max_voxels)
    name = f"The series {series} in {folder.name}"
    refuse_too_large(math.prod(series.header.GetSize()) * len(series.files), max_voxels, name)
    files = [Path(file) for file in series.files]
    headers = [_read_series_header(file, name) for file in files]
    frames = [_read_series_frame(file, header, name) for file, header in zip(files, headers, strict=True)]
    source = Source(name, "images", "put those of one volume into a folder of their own")
    order, geometry = stack_frames(frames, source)
    array = _read_slices([files[index] for index in order], name)
    return _warn(
        _tell_modality(Decoded(array, geometry), _tag(series.header, _MODALITY)),
        name,
        rescaled=all(map(is_rescaled, headers)),
        spaced=all(map(is_spaced, headers)),
        left_out=_find_damaged(folder),
    )


def _find_series(folder: Path) -> list[_Series]:
    found = []
    for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
        files = tuple(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))
        try:
            header = open_image(Path(files[0]), _GDCM)
        except VolumeError:
            continue  # a report, a dose record, a structure set: a series without pixels
        found.append(_Series(uid, files, header))
    return found


def _read_series_header(file: Path, name: str) -> Dataset:
    header = read_header(file)
    if header is None:
        raise VolumeError(f"{name} cannot be read: {file.name} is damaged. Export it again.")
    check_object(header, file.name)
    return header


def _read_series_frame(file: Path, header: Dataset, name: str) -> Frame:
    """Read where a file of a series lies; ITK knows which of the tags of a spacing applies."""
    reader = open_image(file, _GDCM)
    grid = geometry_of(reader, file.name)
    if grid.size[2] > 1 or read_frame_count(header) > 1:
        raise VolumeError(f"{name} consists of several volumes or films; choose one file of it.")
    if reader.GetNumberOfComponents() > 1:
        raise VolumeError(f"{name} consists of colour pictures; choose one file of it.")
    placed = is_enhanced(header) or ("ImagePositionPatient" in header and "ImageOrientationPatient" in header)
    return Frame(
        (grid.size[0], grid.size[1]),
        np.array(grid.origin) if placed else None,
        grid.direction_matrix.T[:2],
        (grid.spacing[0], grid.spacing[1]),
        read_series_traits(header, file.name),
    )


def _read_slices(files: Sequence[Path], name: str) -> NDArray[Any]:
    """Read slices one by one, because each has its own slope, intercept, sign and bits."""
    slices: list[NDArray[Any]] = []
    for file in files:
        try:
            slices.append(sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO=_GDCM)))
        except RuntimeError as error:
            raise VolumeError(
                f"{name} cannot be read: {file.name} is truncated or damaged. Export it again."
            ) from error
        except MemoryError as error:
            raise _out_of_memory(name) from error
    try:
        return np.concatenate([image.reshape(1, *image.shape[-2:]) for image in slices])
    except MemoryError as error:
        raise _out_of_memory(name) from error


def _read_enhanced(path: Path, table: FrameTable) -> Decoded:
    """Read the stored values of all frames, put them in order, and convert each by its own slope."""
    source = Source(path.name, "frames", "export one volume as a file of its own")
    if len(table.frames) == 1:
        order, geometry = [0], table.grid(path.name)
    else:
        order, geometry = stack_frames(table.frames, source)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "stored.dcm"
        copy_pixels(path, copy)
        reader = open_image(copy, _GDCM, path.name)
        stored = decode(reader.Execute, reader, path.name).array
    if stored.shape != geometry.shape:
        raise VolumeError(f"{path.name} is truncated or damaged; copy or export it again.")
    return Decoded(_rescale(stored, order, table.rescale), geometry)


def _rescale(stored: NDArray[Any], order: Sequence[int], rescale: NDArray[np.float64]) -> NDArray[Any]:
    """Convert stored values [n, h, w] by the slope and intercept [n, 2] of each frame, in the given order."""
    whole = np.array_equal(rescale, np.round(rescale)) and stored.dtype.itemsize <= 2
    fits = np.abs(rescale).max() < 2**14  # so that 16 bits times a slope plus an intercept fit into 32
    values = np.empty(stored.shape, np.int32 if whole and fits else np.float32)
    for place, index in enumerate(order):
        slope, intercept = rescale[index]
        values[place] = stored[index] * slope + intercept
    return values


def _tell_modality(decoded: Decoded, tag: str) -> Decoded:
    """Tell CT, MR and US by the tag; 8-bit slices that are neither CT nor MR become pictures, like a PNG."""
    array, geometry = decoded.array, decoded.geometry
    if decoded.modality == "picture":
        return Decoded(array, geometry, "US" if tag == "US" else "picture")
    if array.dtype == np.uint8 and len(array) == 1 and tag not in ("CT", "MR"):
        return Decoded(np.repeat(array[..., None], 3, axis=-1), geometry, "US" if tag == "US" else "picture")
    return Decoded(array, geometry, _MODALITIES.get(tag, "unknown"))


def _find_damaged(folder: Path) -> list[str]:
    """List files that are called DICOM and cannot be read as such, which ITK passes over in silence."""
    called = (path for path in sorted(folder.iterdir()) if suffix_of(path) in _SUFFIXES and path.is_file())
    return [path.name for path in called if not path.name.startswith(".") and read_header(path) is None]


def _warn(
    decoded: Decoded, name: str, *, rescaled: bool, spaced: bool, left_out: Sequence[str] = ()
) -> Decoded:
    """Add sentences about what the files leave open.

    Args:
        decoded: the image.
        name: of the file or series.
        rescaled: whether they say how stored values become those of the modality.
        spaced: whether they say how large pixels are.
        left_out: names of files that were passed over.
    """
    warnings = list(decoded.warnings)
    if decoded.modality == "CT" and not rescaled and decoded.array.min() >= _DARKEST_HU:
        low, high = float(decoded.array.min()), float(decoded.array.max())
        warnings.append(
            f"{name} does not say how its values become Hounsfield units (it has no rescale intercept), and "
            f"its values, {low:g} to {high:g}, do not look like them; masks may be wrong or empty. Export it "
            "again with its rescale intercept."
        )
    if decoded.modality in ("CT", "MR") and not spaced:
        warnings.append(
            f"{name} does not say how large its pixels are, so 1 mm was assumed; volumes and shapes may "
            "be wrong. Export it again with its pixel spacing."
        )
    if left_out:
        listed = ", ".join(left_out[:_MOST_LISTED]) + (", ..." if len(left_out) > _MOST_LISTED else "")
        warnings.append(f"{name} may lack slices, because files cannot be read: {listed}. Copy them again.")
    return replace(decoded, warnings=tuple(warnings))


def _out_of_memory(name: str) -> OutOfMemoryError:
    return OutOfMemoryError(f"{name} does not fit into the memory of this machine; crop it or resample it.")


def _tag(header: sitk.ImageFileReader, key: str) -> str:
    return header.GetMetaData(key).strip() if header.HasMetaDataKey(key) else ""
