"""The files that pydicom and nibabel ship for their tests: read as those packages read them, or refused."""

from __future__ import annotations

import collections
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.pixel_data_handlers.util import apply_modality_lut, convert_color_space

from wordmask.data.volumes import read_volume
from wordmask.errors import WordMaskError

DICOM = Path(pydicom.__file__).parent / "data" / "test_files"
NIFTI = Path(nib.__file__).parent / "tests" / "data"


def read_or_refuse(path: Path):
    try:
        return read_volume(path)
    except WordMaskError:
        return None


def pixels_by_pydicom(path: Path) -> np.ndarray | None:
    """Values [n, h, w] or [n, h, w, 3]; None where pydicom needs a decoder that is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path)
        try:
            pixels = data.pixel_array
        except (AttributeError, NotImplementedError, OSError, RuntimeError, ValueError):
            return None
        if data.SamplesPerPixel == 3:
            if "YBR" in data.PhotometricInterpretation:
                pixels = convert_color_space(pixels, data.PhotometricInterpretation, "RGB")
            return pixels.reshape(-1, *pixels.shape[-3:])
        values = apply_modality_lut(pixels, data).astype(float)
    return values.reshape(-1, *values.shape[-2:])


@pytest.mark.skipif(not DICOM.is_dir(), reason="pydicom came without its test files")
def test_dicom_files_are_read_as_pydicom_reads_them_or_refused():
    counts: collections.Counter[str] = collections.Counter()
    for path in sorted(DICOM.rglob("*")):
        if not path.is_file() or path.suffix in (".py", ".pyc", ".zip", ".txt", ".json", ".md"):
            continue
        volume = read_or_refuse(path)
        if volume is None:
            counts["refused"] += 1
            continue
        truth = pixels_by_pydicom(path)
        if truth is None:
            counts["read, not compared"] += 1
            continue
        seen = volume.array.astype(float)
        seen = seen[..., 0] if volume.is_picture and truth.ndim == 3 else seen
        assert seen.shape == truth.shape, path.name
        if pydicom.dcmread(path, stop_before_pixels=True).PhotometricInterpretation == "MONOCHROME1":
            seen = seen.min() + truth.max() - seen  # white is low there, and turned over here
            truth = truth - truth.min() + seen.min()
        np.testing.assert_allclose(seen, truth, atol=1e-3 * max(1, np.abs(truth).max()), err_msg=path.name)
        counts["same"] += 1
    assert counts["same"] >= 50, counts


def test_nifti_files_are_read_as_nibabel_reads_them_or_refused():
    counts: collections.Counter[str] = collections.Counter()
    for path in sorted(NIFTI.glob("*.nii*")):
        volume = read_or_refuse(path)
        if volume is None:
            counts["refused"] += 1
            continue
        image = nib.load(path)
        np.testing.assert_allclose(volume.array, np.squeeze(image.get_fdata()).T, rtol=1e-5)
        np.testing.assert_allclose(volume.geometry.affine_ras, image.affine, atol=1e-3)
        counts["same"] += 1
    assert counts["same"] >= 3, counts
