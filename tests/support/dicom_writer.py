"""Writes small DICOM files with pydicom, so that SimpleITK reads what another library wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SERIES = "1.2.826.0.1.3680043.8.498.1"


def write_dicom(
    path: Path,
    pixels: np.ndarray[Any, Any],
    *,
    modality: str = "CT",
    series: str = SERIES,
    position: Sequence[float] | None = (0.0, 0.0, 0.0),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    frames: int = 1,
    color: bool = False,
    **tags: Any,
) -> None:
    """pixels: [h, w], [frames, h, w] or, with color, [..., h, w, 3].

    position: None leaves out the patient's frame.
    """
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.2", series
    data.Modality, data.PatientName = modality, "Secret^Name"
    data.SeriesNumber, data.SeriesDescription = 3, "Abdomen 5 mm"
    if position is not None:
        data.ImagePositionPatient, data.ImageOrientationPatient = list(position), list(orientation)
        data.PixelSpacing = [0.5, 0.75]
    shape = pixels.shape[:-1] if color else pixels.shape
    data.Rows, data.Columns = shape[-2:]
    data.SamplesPerPixel = 3 if color else 1
    data.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        data.PlanarConfiguration = 0
    if frames > 1:
        data.NumberOfFrames = frames
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    data.is_little_endian, data.is_implicit_VR = True, False
    data.save_as(path, write_like_original=False)


def write_series(
    folder: Path, volume: np.ndarray[Any, Any], *, positions: Sequence[Sequence[float]], **options: Any
) -> None:
    """volume: [k, h, w]; positions: of each slice, LPS. The names of the files run against their order."""
    folder.mkdir(exist_ok=True)
    prefix = options.pop("prefix", "slice")
    for index, (pixels, position) in enumerate(zip(volume, positions, strict=True)):
        write_dicom(
            folder / f"{prefix}{len(volume) - index:03}.dcm",
            pixels,
            position=position,
            InstanceNumber=index + 1,
            **options,
        )
