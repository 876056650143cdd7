"""Any byte of a header may be wrong: the file is read or refused in a sentence; nothing else is raised."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from tests.support.dicom_writer import write_dicom
from tests.support.enhanced_writer import group, write_enhanced

from wordmask.data.label_maps import read_label_map
from wordmask.data.volumes import read_volume
from wordmask.errors import WordMaskError

ARRAY = np.random.default_rng(1).integers(0, 900, (4, 5, 6)).astype(np.int16)
UP = [(0, 0, 2 * index) for index in range(4)]
CONTENT = {"FrameContentSequence": group(StackID="1")}

WRITERS = {
    "slice.dcm": lambda path: write_dicom(path, ARRAY[0], RescaleSlope=1, RescaleIntercept=-1024),
    "frames.dcm": lambda path: write_enhanced(
        path, ARRAY, UP, rescale=[(1, 2)] * 4, groups=lambda k: CONTENT
    ),
    "volume.nii": lambda path: nib.save(nib.Nifti1Image(ARRAY, np.eye(4)), path),
    "volume.nrrd": lambda path: sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(path)),
    "volume.mha": lambda path: sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(path)),
    "picture.png": lambda path: Image.fromarray(ARRAY[0].astype(np.uint8)).save(path),
    "picture.tif": lambda path: Image.fromarray(ARRAY[0].astype(np.uint16)).save(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_header_is_read_or_refused(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    whole, path = (tmp_path / name).read_bytes(), tmp_path / f"damaged_{name}"
    chance = random.Random(7)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 5))):
            data[chance.randrange(min(len(data) - 60, 1800))] = chance.choice(
                (0, 1, 255, chance.randrange(256))
            )
        path.write_bytes(data)
        for read in (read_volume, read_label_map):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    read(path)
                except WordMaskError as error:
                    sentence = str(error)
                    if path.name not in sentence or str(tmp_path) in sentence:
                        pytest.fail(sentence)
