"""Reads DICOM headers: what an object is, where its frames lie, and what their stored values mean.

Knows pydicom and the frames of dicom_stack.py; not pixels. Messages never name a patient.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.uid import UID, generate_uid

from wordmask.data.dicom_stack import Frame, grid_of
from wordmask.data.geometry import Geometry
from wordmask.errors import VolumeError

# Values that break the rules are common and mostly do not matter here: what matters is checked below, and
# pydicom's warnings about the rest would be shown to people who cannot act on them.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

# Objects that hold pixels and are not images.
_SEGMENTATION, _DOSE = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.2"
_NOT_IMAGES = (_SEGMENTATION, "1.2.840.10008.5.1.4.1.1.66.7", _DOSE, "1.2.840.10008.5.1.4.1.1.30")
_SLICE_VECTOR = 0x00540080
_PIXEL_DATA = BaseTag(0x7FE00010)
_UNDEFINED_LENGTH = 0xFFFFFFFF  # compressed pixels come in pieces
_DEFERRED = 4096  # bytes: longer attributes stay in the file
_PLAIN_FRAMES = "1.2.840.10008.5.1.4.1.1.7.3"  # Multi-frame Grayscale Word Secondary Capture
_PIXEL_KEYWORDS = (
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelData",
)  # fmt: skip

# Functional group and attribute -> what tells the volumes of one file apart.
_TRAITS = {
    ("FrameContentSequence", "StackID"): "stack",
    ("FrameContentSequence", "TemporalPositionIndex"): "time point",
    ("MREchoSequence", "EffectiveEchoTime"): "echo time",
    ("MRDiffusionSequence", "DiffusionBValue"): "b-value",
    ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"): "cardiac phase",
    ("MRImageFrameTypeSequence", "ComplexImageComponent"): "component",
    ("MRImageFrameTypeSequence", "FrameType"): "kind",
    ("CTImageFrameTypeSequence", "FrameType"): "kind",
    ("PixelValueTransformationSequence", "RescaleType"): "unit",
}
_SERIES_TRAITS = {
    "TemporalPositionIdentifier": "time point",
    "EchoTime": "echo time",
    "DiffusionBValue": "b-value",
    "PhotometricInterpretation": "meaning of black",
    "RescaleType": "unit",
    "Units": "unit",
}
_BROKEN = (
    InvalidDicomError, BytesLengthException, AttributeError, EOFError, IndexError, KeyError, OverflowError,
    NotImplementedError, RuntimeError, TypeError, ValueError, struct.error,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class FrameTable:
    """The frames of one file, in stored order.

    Attributes:
        frames: where they lie.
        rescale: [n, 2], slope and intercept of each.
        rescaled: whether the file says so, or slope 1 and intercept 0 stand for nothing said.
        thickness: mm, of a slice that is alone.
    """

    frames: tuple[Frame, ...]
    rescale: np.ndarray[Any, np.dtype[np.float64]]
    rescaled: bool
    thickness: float

    def grid(self, name: str) -> Geometry:
        """Make the grid of a file with one frame."""
        return grid_of(self.frames[0], self.thickness, 1, name)


def read_header(path: Path) -> Dataset | None:
    """Read a DICOM file but for its pixels; None when it is not one that pydicom understands."""
    try:
        header = pydicom.dcmread(path, defer_size=_DEFERRED)
        for keyword in ("Modality", "NumberOfFrames", "FrameIncrementPointer"):
            header.get(keyword)  # pydicom decodes a value when it is asked for
        return header
    except _BROKEN:
        return None


def check_object(header: Dataset, name: str) -> None:
    """Refuse what is not an image (segmentations, plans, doses, reports, mosaics) or lacks pixels.

    Args:
        header: of the file.
        name: of the file, for sentences.

    Raises:
        VolumeError: the file is one of these.
    """
    with _explaining(name):
        kind = UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")))
        title = str(kind.name).removesuffix(" Storage")
        if kind in _NOT_IMAGES or ("Rows" not in header and not title.endswith("Image")):
            what = "of an unknown kind" if title == kind else f"of the kind {title!r}"
            raise VolumeError(
                f"{name} is not an image but an object {what}; choose the files of the image series instead."
            )
        if "MOSAIC" in header.get("ImageType", ()):
            raise VolumeError(
                f"{name} is a mosaic: all slices of a volume lie in one picture. Convert it with dcm2niix "
                "and try again."
            )
        _refuse_short(header, name)


def _refuse_short(header: Dataset, name: str) -> None:
    """Refuse fewer pixels than announced: ITK fills up with noise what uncompressed pixels lack."""
    pixels: Any = dict(header.items()).get(_PIXEL_DATA)  # as it lies in the file, not read
    if pixels is None or "Rows" not in header:
        raise VolumeError(f"{name} holds no pixels, only a header; copy or export it again.")
    syntax = header.file_meta.get("TransferSyntaxUID")
    if pixels.length == _UNDEFINED_LENGTH or (syntax is not None and syntax.is_compressed):
        return
    samples, count = header.get("SamplesPerPixel", 1), read_frame_count(header)
    size = math.prod((header.Rows, header.Columns, samples, count)) * header.BitsAllocated // 8
    if header.get("PhotometricInterpretation") == "YBR_FULL_422":
        size = size * 2 // 3  # two pixels share their colour
    if pixels.length < size:
        raise _truncated(name, size, pixels.length)


def _truncated(name: str, size: int, found: int) -> VolumeError:
    return VolumeError(
        f"{name} is truncated: it should hold {size} bytes of pixels and holds {found}. Copy or export it "
        "again."
    )


def read_frame_count(header: Dataset) -> int:
    """Return the number of frames, 1 where the header does not say."""
    try:
        return int(header.get("NumberOfFrames") or 1)
    except _BROKEN:
        return 1


def is_enhanced(header: Dataset) -> bool:
    """Whether functional groups describe the frames, or slices are stacked as in nuclear medicine."""
    return "PerFrameFunctionalGroupsSequence" in header or _is_slice_vector(header)


def read_frames(header: Dataset, name: str) -> FrameTable:
    """Read what an enhanced object, or one of nuclear medicine, says about each of its frames.

    Args:
        header: of the file; `is_enhanced`.
        name: of the file, for sentences.

    Raises:
        VolumeError: the header contradicts itself, cannot be read, or is a part of a larger object.
    """
    with _explaining(name):
        if int(header.get("InConcatenationTotalNumber") or 1) > 1:
            raise VolumeError(
                f"{name} is part {header.get('InConcatenationNumber', '?')} of "
                f"{header.InConcatenationTotalNumber} of one volume; export it in one piece."
            )
        if _is_slice_vector(header):
            return _read_slice_vector(header)
        groups = header.PerFrameFunctionalGroupsSequence
        count = read_frame_count(header)
        if len(groups) != count:
            raise VolumeError(
                f"{name} describes {len(groups)} of its {count} frames; it is damaged. Export it again."
            )
        shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        layers = [(group, shared, header) for group in groups]
        frames = tuple(_read_frame(layer, header) for layer in layers)
        scales = [_read_rescale(layer) for layer in layers]
        if len({scale is None for scale in scales}) > 1:
            raise VolumeError(
                f"{name} gives a slope and intercept for some of its frames only; export it again."
            )
        measures = _find_group(layers[0], "PixelMeasuresSequence")
        thickness = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1.0
        return FrameTable(
            frames,
            np.array([scale or (1.0, 0.0) for scale in scales]),
            scales[0] is not None,
            abs(float(thickness)),
        )


def read_series_traits(header: Dataset, name: str) -> dict[str, str]:
    """Read what tells apart the volumes of a series that has a file for each slice."""
    with _explaining(name):
        return {
            trait: _show(header[keyword].value)
            for keyword, trait in _SERIES_TRAITS.items()
            if header.get(keyword) is not None
        }


def is_rescaled(header: Dataset) -> bool:
    """Whether a file with one frame says what its stored values mean."""
    return "RescaleSlope" in header or "RescaleIntercept" in header or is_enhanced(header)


def is_spaced(header: Dataset) -> bool:
    """Whether a file with one frame says how large its pixels are."""
    names = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
    return any(name in header for name in names) or is_enhanced(header)


def copy_pixels(path: Path, copy: Path) -> None:
    """Write the stored values of a file, and nothing else of it, as frames without order or meaning.

    ITK applies the slope of one frame to all, so that it must not see any.

    Raises:
        VolumeError: the pixels cannot be read.
    """
    with _explaining(path.name):
        source = pydicom.dcmread(path)
        pixels: Any = source.get_item("PixelData")  # as it lies in the file
        if pixels.length != _UNDEFINED_LENGTH and len(pixels.value) < pixels.length:
            raise _truncated(path.name, pixels.length, len(pixels.value))
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = UID(_PLAIN_FRAMES)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.PhotometricInterpretation = "MONOCHROME2"  # the other one is about display, not about values
        data.NumberOfFrames = read_frame_count(source)
        for keyword in _PIXEL_KEYWORDS:
            data[keyword] = source[keyword]
        data.is_little_endian, data.is_implicit_VR = source.is_little_endian, source.is_implicit_VR
        data.save_as(copy, write_like_original=False)


def _read_frame(layers: Sequence[Dataset], header: Dataset) -> Frame:
    """Read one frame from its own groups, those shared by all, and the attributes of the object."""
    place = _find_group(layers, "PlanePositionSequence").get("ImagePositionPatient")
    direction = _find_group(layers, "PlaneOrientationSequence").get("ImageOrientationPatient")
    spacing = _find_group(layers, "PixelMeasuresSequence").get("PixelSpacing")
    if spacing is None:
        raise ValueError("no pixel spacing")
    traits = {}
    for (sequence, keyword), trait in _TRAITS.items():
        if (value := _find_group(layers, sequence).get(keyword)) is not None:
            traits[trait] = _show(value)
    return Frame(
        (int(header.Columns), int(header.Rows)),
        None if place is None or direction is None else _numbers(place, 3),
        _axes(direction),
        (float(spacing[1]), float(spacing[0])),
        traits,
    )


def _read_rescale(layers: Sequence[Dataset]) -> tuple[float, float] | None:
    """Read slope and intercept of a frame; None where nothing is said."""
    group = _find_group(layers, "PixelValueTransformationSequence")
    for source in (group, layers[-1]):
        if "RescaleSlope" in source or "RescaleIntercept" in source:
            scale = float(source.get("RescaleSlope", 1)), float(source.get("RescaleIntercept", 0))
            if not np.isfinite(scale).all() or scale[0] == 0:
                raise ValueError("a slope of 0, or one that is not a number")
            return scale
    return None


def _find_group(layers: Sequence[Dataset], name: str) -> Dataset:
    for layer in layers:
        if layer.get(name):
            item: Dataset = layer[name].value[0]
            return item
    return Dataset()


def _is_slice_vector(header: Dataset) -> bool:
    """Whether slices of nuclear medicine are stacked, without times, gates or energies beside each other."""
    pointer = header.get("FrameIncrementPointer")
    return (
        pointer == _SLICE_VECTOR
        and "PerFrameFunctionalGroupsSequence" not in header
        and "DetectorInformationSequence" in header
        and "SpacingBetweenSlices" in header
    )


def _read_slice_vector(header: Dataset) -> FrameTable:
    """Place slices along the normal: a distance above 0 puts them behind the first (DICOM PS3.3 C.8.4.15)."""
    detector = header.DetectorInformationSequence[0]
    axes = _axes(detector.ImageOrientationPatient)
    start, distance = _numbers(detector.ImagePositionPatient, 3), float(header.SpacingBetweenSlices)
    numbers = np.atleast_1d(np.array(header.SliceVector, dtype=np.float64))
    if len(numbers) != read_frame_count(header):
        raise ValueError("a slice vector of another length than the number of frames")
    size = (int(header.Columns), int(header.Rows))
    spacing = (float(header.PixelSpacing[1]), float(header.PixelSpacing[0]))
    scale = _read_rescale([header])
    frames = tuple(
        Frame(size, start + (number - 1) * distance * np.cross(*axes), axes, spacing) for number in numbers
    )
    return FrameTable(frames, np.array([scale or (1.0, 0.0)] * len(frames)), scale is not None, abs(distance))


def _axes(direction: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return [2, 3] unit vectors along a row and along a column."""
    return np.eye(3)[:2] if direction is None else _numbers(direction, 6).reshape(2, 3)


def _numbers(values: Any, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    numbers = np.array([float(value) for value in values])
    if numbers.shape != (count,):
        raise ValueError(f"{numbers.size} numbers instead of {count}")
    return numbers


def _show(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) or hasattr(value, "__iter__"):
        return "/".join(_show(item) for item in value)
    return f"{float(value):g}"


@contextmanager
def _explaining(name: str) -> Iterator[None]:
    """Turn what pydicom raises on a header that breaks the rules into one sentence."""
    try:
        yield
    except _BROKEN as error:
        raise VolumeError(f"{name} has a header that breaks the rules of DICOM; export it again.") from error
