"""``wordmask check PATH``: one row per image or case, and a status that scripts can use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.support.labelled_pictures import write_case
from tests.support.volume_files import save

from wordmask.cli import main

VOXELS = np.zeros((4, 5, 6), np.int16)


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = main(["check", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, " ".join(out.split()), " ".join(err.split())


def test_images_that_can_be_read_are_listed(capsys, tmp_path):
    save(tmp_path / "a.nii.gz", VOXELS)
    (tmp_path / "notes.txt").touch()
    status, out, err = run(capsys, tmp_path)
    assert status == 0
    assert "it is not an image that can be read" in out
    assert f"{tmp_path.name}: 1 read, 1 left out." in err


def test_a_refused_image_is_explained_and_sets_the_status(capsys, tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"text of bytes")
    status, out, err = run(capsys, tmp_path / "bad.nii.gz")
    assert status == 2
    assert "bad.nii.gz" in out
    assert "1 refused" in err


def test_a_folder_of_cases_is_read_with_its_labels(capsys, tmp_path):
    case = write_case(tmp_path, 1)
    for name, file in (("images", case.image), ("labels", case.label)):
        (tmp_path / "data" / name).mkdir(parents=True)
        file.rename(tmp_path / "data" / name / "one.png")
    status, _, err = run(capsys, tmp_path / "data", "--word", "polyp")
    assert (status, "1 read" in err) == (0, True)


def test_a_path_that_is_missing_is_one_sentence(capsys, tmp_path):
    status, _, err = run(capsys, tmp_path / "nowhere")
    assert (status, "There is no file or folder nowhere" in err) == (2, True)
