"""Writes enhanced (multi-frame) DICOM objects with pydicom: one file, with groups for each frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    NuclearMedicineImageStorage,
    generate_uid,
)

STORAGE = {"CT": EnhancedCTImageStorage, "MR": EnhancedMRImageStorage, "NM": NuclearMedicineImageStorage}
AXIAL = (1, 0, 0, 0, 1, 0)


def group(**values: Any) -> DicomSequence:
    """A sequence of one item, as every functional group is."""
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return DicomSequence([item])


def write_enhanced(
    path: Path,
    frames: np.ndarray[Any, Any],
    positions: Sequence[Sequence[float]] | None,
    *,
    orientations: Sequence[Sequence[float]] | Sequence[float] = AXIAL,
    spacing: Sequence[float] = (0.5, 0.75),
    rescale: Sequence[tuple[float, float]] | tuple[float, float] | None = (1, -1024),
    modality: str = "CT",
    groups: Callable[[int], Mapping[str, DicomSequence]] = lambda frame: {},
    shared: Mapping[str, DicomSequence] | None = None,
    **tags: Any,
) -> Path:
    """Write an enhanced object.

    Args:
        path: of the file.
        frames: [n, h, w], stored values.
        positions: LPS of each frame; None: the object says nothing about positions.
        orientations: of each frame, or of all.
        spacing: mm from row to row and from column to column.
        rescale: (slope, intercept) of each frame, or of all; None: none.
        modality: CT, MR or NM.
        groups: more functional groups of a frame.
        shared: more functional groups of all frames.
        tags: attributes of the object.
    """
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = STORAGE[modality]
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = generate_uid(), generate_uid(), modality
    data.PatientName, data.SeriesNumber, data.SeriesDescription = "Secret^Name", 7, "Enhanced"
    data.Rows, data.Columns, data.NumberOfFrames = *frames.shape[1:], len(frames)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = frames.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(frames.dtype.kind == "i")
    everywhere = Dataset()
    everywhere.PixelMeasuresSequence = group(PixelSpacing=list(spacing), SliceThickness=3)
    if rescale is not None and np.ndim(rescale) == 1:
        everywhere.PixelValueTransformationSequence = _rescaling(*rescale)
    if positions is not None and np.ndim(orientations) == 1:
        everywhere.PlaneOrientationSequence = group(ImageOrientationPatient=list(map(float, orientations)))
    for name, sequence in (shared or {}).items():
        setattr(everywhere, name, sequence)
    data.SharedFunctionalGroupsSequence = DicomSequence([everywhere])
    data.PerFrameFunctionalGroupsSequence = DicomSequence()
    for index in range(len(frames)):
        one = Dataset()
        if positions is not None:
            one.PlanePositionSequence = group(ImagePositionPatient=list(map(float, positions[index])))
            if np.ndim(orientations) == 2:
                one.PlaneOrientationSequence = group(ImageOrientationPatient=list(orientations[index]))
        if rescale is not None and np.ndim(rescale) == 2:
            one.PixelValueTransformationSequence = _rescaling(*rescale[index])
        for name, sequence in groups(index).items():
            setattr(one, name, sequence)
        data.PerFrameFunctionalGroupsSequence.append(one)
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = frames.tobytes()
    data.is_little_endian, data.is_implicit_VR = True, False
    data.save_as(path, write_like_original=False)
    return path


def _rescaling(slope: float, intercept: float) -> DicomSequence:
    return group(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")
