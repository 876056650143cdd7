"""Which entries of a folder are images, and why the others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.dicom_writer import write_dicom, write_series
from tests.support.volume_files import save

from wordmask.data.studies import id_of, list_studies
from wordmask.data.volumes import read_volume

VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    return folder


def series(folder: Path) -> None:
    write_series(folder, VOXELS, positions=[(0, 0, 2 * k) for k in range(len(VOXELS))])


def picture(path: Path) -> Path:
    Image.new("RGB", (8, 6), "grey").save(path)
    return path


def test_endings_in_capitals_dicom_files_and_dicom_folders_are_images(folder):
    save(folder / "a.nii.gz", VOXELS).rename(folder / "A.NII.GZ")
    picture(folder / "b.png").rename(folder / "b.PNG")
    series(folder / "series")
    write_dicom(folder / "IM0001", VOXELS[0], SeriesInstanceUID="1.2.3")
    write_dicom(folder / "one.dcm", VOXELS[0], SeriesInstanceUID="1.2.4")
    found = list_studies(folder)
    assert list(found.images) == ["A", "IM0001", "b", "one", "series"]
    assert found.left_out == {}
    for path in found.images.values():
        assert read_volume(path).array.size


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("._ct.nii.gz", "hidden file"),
        (".hidden.png", "hidden file"),
        ("notes.txt", "not an image"),
        ("Thumbs.db", "not an image"),
        ("head.mhd", "in another file"),
        ("a\\b.png", "cannot be an id"),
        ("x" * 201 + ".png", "cannot be an id"),
        ("é" * 110 + ".png", "cannot be an id"),
    ],
)
def test_what_is_left_out_is_named_with_the_reason(folder, name, reason):
    (folder / name).write_bytes(b"x")
    picture(folder / "good.png")
    found = list_studies(folder)
    assert list(found.images) == ["good"]
    assert list(found.left_out) == [name]
    assert reason in found.left_out[name]


def test_folders_links_and_twins_are_left_out_with_the_reason(folder):
    (folder / "more").mkdir()
    picture(folder / "more" / "c.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    picture(folder / "twin.jpg")
    picture(folder / "twin.png")
    found = list_studies(folder)
    assert list(found.images) == ["twin"]
    assert "without a DICOM series" in found.left_out["more"]
    assert "a file that is missing" in found.left_out["gone.png"]
    assert "the same name as twin.jpg" in found.left_out["twin.png"]


def test_the_files_of_one_series_are_not_so_many_images(folder):
    series(folder)
    picture(folder / "a.png")
    found = list_studies(folder)
    assert list(found.images) == ["a"]
    assert all("files of a DICOM series" in reason for reason in found.left_out.values())


def test_what_a_server_keeps_beside_the_images_is_not_reported(folder):
    (folder / "labels").mkdir()
    found = list_studies(folder, ignore=("labels",))
    assert (found.images, found.left_out) == ({}, {})


def test_an_id_is_the_name_without_the_ending(tmp_path):
    names = {"a.nii.gz": "a", "a.b.NII": "a.b", "IM1": "IM1", "x.dcm": "x", "ct.1": "ct.1"}
    assert {name: id_of(tmp_path / name) for name in names} == names
    (tmp_path / "ct.nii").mkdir()
    assert id_of(tmp_path / "ct.nii") == "ct.nii"


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        list_studies(tmp_path / "nowhere")
