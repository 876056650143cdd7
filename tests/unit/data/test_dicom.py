"""DICOM files and folders, written by pydicom.

What becomes a volume, what a picture, and what would be a wrong volume.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tests.support.dicom_writer import SERIES, write_dicom, write_series

from wordmask.data.volumes import read_volume
from wordmask.errors import VolumeError


@pytest.fixture
def slices():
    return np.random.default_rng(1).integers(0, 3000, (4, 5, 6)).astype(np.int16)


def at(*heights: float) -> list[tuple[float, float, float]]:
    return [(-10.0, 20.0, height) for height in heights]


def refusal(path) -> str:
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert str(path.parent) not in message
    assert "Secret" not in message, "patients have no name here"
    return message


def test_a_series_is_sorted_by_position_and_rescaled(tmp_path, slices):
    write_series(
        tmp_path / "ct", slices, positions=at(0, 2.5, 5, 7.5), RescaleSlope="1", RescaleIntercept="-1024"
    )
    volume = read_volume(tmp_path / "ct")
    np.testing.assert_array_equal(volume.array, slices - 1024)
    assert (volume.modality, volume.name) == ("CT", "ct")
    assert volume.geometry.spacing == (0.75, 0.5, 2.5)
    assert volume.geometry.origin == (-10, 20, 0)
    assert volume.array.dtype == np.int16, "ITK gives 32 bits, the values need 16"


def test_files_that_are_no_images_are_passed_over(tmp_path, slices):
    write_series(tmp_path / "ct", slices, positions=at(0, 1, 2, 3))
    (tmp_path / "ct" / "README.txt").write_text("hello")
    report = tmp_path / "ct" / "report.dcm"
    write_dicom(report, slices[0], modality="SR", series="1.2.3", position=None)
    remove_pixels(report)
    assert read_volume(tmp_path / "ct").geometry.size == (6, 5, 4)


def test_a_sagittal_series_keeps_its_direction(tmp_path, slices):
    positions = [(x, 0.0, 0.0) for x in (0, 2, 4, 6)]
    write_series(tmp_path / "mr", slices, positions=positions, orientation=(0, 1, 0, 0, 0, -1), modality="MR")
    volume = read_volume(tmp_path / "mr")
    assert volume.modality == "MR"
    np.testing.assert_allclose(volume.geometry.direction_matrix[:, 0], (0, 1, 0))
    np.testing.assert_allclose(volume.geometry.direction_matrix[:, 1], (0, 0, -1))
    normal = volume.geometry.direction_matrix[0, 2]
    np.testing.assert_array_equal(volume.array, slices if normal > 0 else slices[::-1])


@pytest.mark.parametrize(("tag", "modality"), [("CT", "CT"), ("MR", "MR"), ("PT", "unknown")])
def test_a_single_file_is_one_slice_with_the_modality_of_its_tag(tmp_path, slices, tag, modality):
    write_dicom(tmp_path / "slice.dcm", slices[0], modality=tag)
    volume = read_volume(tmp_path / "slice.dcm")
    np.testing.assert_array_equal(volume.array, slices[:1])
    assert volume.modality == modality


def test_files_named_by_their_uid_and_folders_of_one_file_are_read(tmp_path, slices):
    (tmp_path / "one").mkdir()
    write_dicom(tmp_path / "one" / "1.2.840.113", slices[0])
    assert read_volume(tmp_path / "one" / "1.2.840.113").digest == read_volume(tmp_path / "one").digest


def test_colour_ultrasound_is_a_picture(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    write_dicom(tmp_path / "us.dcm", pixels, modality="US", position=None, color=True)
    volume = read_volume(tmp_path / "us.dcm")
    np.testing.assert_array_equal(volume.array[0], pixels)
    assert (volume.modality, volume.is_picture) == ("US", True)


@pytest.mark.parametrize(("tag", "modality"), [("US", "US"), ("OT", "picture")])
def test_grey_of_8_bits_is_the_same_picture_as_a_png_of_it(tmp_path, tag, modality):
    pixels = np.random.default_rng(3).integers(0, 256, (5, 6)).astype(np.uint8)
    write_dicom(tmp_path / "grey.dcm", pixels, modality=tag, position=None)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    volume = read_volume(tmp_path / "grey.dcm")
    assert volume.modality == modality
    assert volume.digest == read_volume(tmp_path / "grey.png").digest


def test_a_radiograph_whose_white_is_low_is_turned_over(tmp_path, slices):
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        write_dicom(
            tmp_path / f"{kind}.dcm",
            slices[0].astype(np.uint16),
            modality="DX",
            position=None,
            PhotometricInterpretation=kind,
        )
    low_is_white, low_is_black = (
        read_volume(tmp_path / f"MONOCHROME{n}.dcm").array.astype(int) for n in (1, 2)
    )
    assert len(np.unique(low_is_white + low_is_black)) == 1


@pytest.mark.parametrize("color", [False, True])
def test_films_are_refused(tmp_path, color):
    pixels = np.zeros((7, 5, 6, 3) if color else (7, 5, 6), np.uint8)
    write_dicom(tmp_path / "cine.dcm", pixels, modality="US", position=None, frames=7, color=color)
    assert refusal(tmp_path / "cine.dcm").startswith("cine.dcm is a film of 7 frames")


def test_a_truncated_file_is_refused_alone_and_in_its_series(tmp_path, slices):
    write_series(tmp_path / "ct", slices, positions=at(0, 1, 2, 3))
    path = tmp_path / "ct" / "slice002.dcm"
    path.write_bytes(path.read_bytes()[:-20])
    assert "slice002.dcm" in refusal(path)
    refusal(tmp_path / "ct")


def test_two_series_in_a_folder_are_named_with_what_to_do(tmp_path, slices):
    write_series(tmp_path / "study", slices, positions=at(0, 1, 2, 3))
    write_series(
        tmp_path / "study",
        slices[:2],
        positions=at(0, 1),
        series=f"{SERIES}.1",
        prefix="b",
        SeriesNumber=7,
        SeriesDescription="",
    )
    message = refusal(tmp_path / "study")
    assert "The folder study holds 2 series: " in message
    assert "3 'Abdomen 5 mm' (4 images)" in message
    assert "7 (2 images)" in message
    assert "a folder of its own" in message


def test_a_folder_without_dicom_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    assert (
        refusal(tmp_path / "empty")
        == "The folder empty holds no DICOM images; choose the folder with the files of one series."
    )


@pytest.mark.parametrize(
    ("positions", "reason"),
    [
        (at(0, 5, 10, 20), "uneven distances between its images (5 to 10 mm)"),
        (at(0, 0, 5, 5), "4 images at 2 positions"),
        ([None] * 4, "does not say where its 4 images lie"),
        ([(0, 2 * n, 5 * n) for n in range(4)], "tilted gantry"),
    ],
)
def test_series_that_would_make_a_wrong_volume_are_refused(tmp_path, slices, positions, reason):
    write_series(tmp_path / "ct", slices, positions=positions)
    assert reason in refusal(tmp_path / "ct")


def test_rounded_positions_are_no_missing_slices(tmp_path, slices):
    write_series(tmp_path / "ct", slices, positions=at(0, 0.667, 1.333, 2.0))
    assert read_volume(tmp_path / "ct").geometry.spacing[2] == pytest.approx(2 / 3, abs=1e-3)


def test_a_localiser_in_the_series_is_refused(tmp_path, slices):
    write_series(tmp_path / "ct", slices, positions=at(0, 1, 2, 3))
    write_dicom(tmp_path / "ct" / "scout.dcm", slices[0], orientation=(0, 1, 0, 0, 0, -1))
    assert "mixes images of different size or direction" in refusal(tmp_path / "ct")


def remove_pixels(path) -> None:
    import pydicom

    data = pydicom.dcmread(path)
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated", "SamplesPerPixel"):
        delattr(data, name)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = (
        "1.2.840.10008.5.1.4.1.1.88.11"  # a text report
    )
    data.save_as(path)


def test_a_folder_without_images_is_one_sentence_without_warnings_of_itk(tmp_path, capfd):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(VolumeError, match="DICOM"):
        read_volume(tmp_path)
    assert capfd.readouterr() == ("", "")
