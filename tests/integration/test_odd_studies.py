"""Studies that are no tidy NIfTI files: DICOM files and folders, endings in capitals, nothing at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from tests.support.dicom_writer import write_dicom, write_series

from wordmask.data.label_maps import check_same_grid, read_label_map
from wordmask.data.volumes import read_volume
from wordmask.errors import RequestError
from wordmask.words.prompts import parse_prompts
from wordmask_app import app as app_module
from wordmask_app.app import WordMaskApp
from wordmask_app.tasks.labelled import labelled_cases
from wordmask_app.tasks.scoring import score_datastore
from wordmask_app.tasks.summary import log_summary

MODEL = "simple_vilmedsam"
ODD = ("IM0001", "LOUD", "one", "series.v2")


@pytest.fixture
def odd(a_stub_server):
    """The stub server with a CT in four forms, which are its only images."""
    studies, voxels = a_stub_server.studies, a_stub_server.voxels
    for path in studies.iterdir():
        if path.is_file() and not path.name.startswith((".", "datastore")):
            path.unlink() if path.name != "ct.nii.gz" else path.rename(studies / "LOUD.NII.GZ")
    turned = (1, 0, 0, 0, 0.8, 0.6)
    places = [(-20.0, 30.0 - 2.4 * k, 12.5 + 3.2 * k) for k in range(len(voxels))]
    write_series(studies / "series.v2", voxels, positions=places, orientation=turned)
    write_dicom(studies / "IM0001", voxels[2], series="1.2.3")
    write_dicom(studies / "one.dcm", voxels[2], series="1.2.4")
    a_stub_server.app.datastore().refresh()
    return a_stub_server


def test_all_of_them_are_listed(odd):
    listed = odd.http.get("/datastore/", params={"output": "all"}).json()["objects"]
    assert tuple(listed) == ODD


@pytest.mark.parametrize("image", ODD)
def test_what_is_downloaded_lies_on_the_grid_that_the_server_computes_on(odd, image, tmp_path):
    answer = odd.http.get("/datastore/image", params={"image": image})
    assert answer.status_code == 200, answer.text
    assert f"{image}.nii.gz" in answer.headers["content-disposition"]
    (tmp_path / "image.nii.gz").write_bytes(answer.content)
    own = read_volume(odd.app.datastore().get_image_uri(image))
    sent = read_volume(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(sent.array, own.array)
    assert sent.digest == own.digest
    fields, labels = odd.read(odd.post(image, '{"words": "liver"}'))
    assert fields["statistics"]["liver"]["voxels"] > 0
    sitk.WriteImage(labels, str(tmp_path / "labels.nii.gz"))
    check_same_grid(
        read_label_map(tmp_path / "labels.nii.gz"), tmp_path, sent, tmp_path
    )  # neither is a picture, so their paths do not matter
    head = odd.http.request("HEAD", "/datastore/image", params={"image": image})
    assert head.status_code == 200
    assert list(odd.app.runtime.spool.folder.glob("image-*")) == []


@pytest.mark.parametrize("image", ODD)
def test_they_are_scored_offered_labelled_and_learned_from(odd, image, tmp_path):
    skip = [other for other in ODD if other != image]
    found = odd.http.post("/wordmask/next", params={"strategy": "first", "skip": skip}).json()
    assert (found["case"], found["skipped"]) == (image, [])
    assert odd.finished(found["preview"]["id"])["state"] == "done"
    served = odd.app.runtime.models[MODEL]
    done = score_datastore(served, odd.app.datastore(), parse_prompts("liver"), max_voxels=10**6)
    assert done == {"scored": 4, "kept": 0, "unreadable": 0}
    _, labels = odd.read(odd.post(image, '{"words": "liver"}'))
    sitk.WriteImage(labels, str(tmp_path / "labels.nii.gz"))
    sent = odd.http.put(
        "/datastore/label",
        params={"image": image, "tag": "final"},
        data={"params": json.dumps({"label_info": [{"name": "liver", "idx": 1}]})},
        files={"label": ("label.nii.gz", (tmp_path / "labels.nii.gz").read_bytes())},
    )
    assert sent.status_code == 200, sent.text
    (case,), problems = labelled_cases(odd.app.datastore())
    assert problems == []
    assert case.read().masks["liver"].any()


def test_a_series_that_changes_is_scored_again(odd):
    served, words = odd.app.runtime.models[MODEL], parse_prompts("liver")
    score_datastore(served, odd.app.datastore(), words, max_voxels=10**6)
    file = sorted((odd.studies / "series.v2").iterdir())[0]
    file.write_bytes(file.read_bytes())
    done = score_datastore(served, odd.app.datastore(), words, max_voxels=10**6)
    assert done == {"scored": 1, "kept": 3, "unreadable": 0}


def test_a_picture_in_a_dicom_file_is_sent_as_a_picture(odd, tmp_path):
    colours = np.zeros((9, 12, 3), dtype=np.uint8)
    colours[2:5, 3:9] = (200, 100, 50)
    write_dicom(odd.studies / "echo.dcm", colours, series="1.2.5", modality="US", color=True)
    odd.app.datastore().refresh()
    answer = odd.http.get("/datastore/image", params={"image": "echo"})
    assert 'filename="echo.png"' in answer.headers["content-disposition"]
    (tmp_path / "echo.png").write_bytes(answer.content)
    np.testing.assert_array_equal(read_volume(tmp_path / "echo.png").array[0], colours)


def test_what_can_be_used_is_summarised_as_the_check_of_the_command_line_does(a_stub_server, caplog):
    datastore = a_stub_server.app.datastore()
    for image, value, names in (("ct", 1, {"liver": 1}), ("scan", 255, {"liver": 1}), ("series", 1, {})):
        drawn = a_stub_server.studies.parent / "drawn.nii.gz"
        labels = sitk.GetImageFromArray(((a_stub_server.voxels > 0) * value).astype(np.uint8))
        labels.CopyInformation(sitk.ReadImage(str(a_stub_server.studies / "ct.nii.gz")))
        sitk.WriteImage(labels, str(drawn))
        info = {"label_info": [{"name": name, "idx": idx} for name, idx in names.items()]}
        datastore.save_label(image, str(drawn), "final", info)
    (a_stub_server.studies / "notes.txt").write_text("x")
    with caplog.at_level("INFO"):
        log_summary(datastore, 10**6)
    counts = "Images of the studies: 5 read, 1 refused, 1 left out. Final labels: 1 read, 2 refused."
    assert counts in caplog.text
    assert "The image of 'broken' is refused: broken.nii.gz" in caplog.text
    assert "The final label of 'scan' is refused" in caplog.text
    assert "The final label of 'series' is refused" in caplog.text


def test_an_empty_folder_says_that_it_is_empty(a_stub_server):
    for path in a_stub_server.studies.iterdir():
        if path.is_file():
            path.unlink()
    (a_stub_server.studies / "notes.txt").write_text("x")
    a_stub_server.app.datastore().refresh()
    found = a_stub_server.http.post("/wordmask/next", params={"strategy": "first"}).json()
    assert found["case"] is None
    assert found["reason"].startswith("The studies folder has no image yet; ")
    assert "1 file or folder is left out" in found["reason"]


def test_a_studies_folder_that_is_not_there_is_refused_by_any_start(tmp_path: Path, monkeypatch):
    with pytest.raises(RequestError, match=r"There is no studies folder .*typo"):
        WordMaskApp(str(tmp_path), str(tmp_path / "typo"), {})
    assert not (tmp_path / "typo").exists()
    (tmp_path / "typo").mkdir()  # as MONAI Label does before the app can know
    monkeypatch.setattr(app_module, "_is_start_of_monai_label", lambda: True)
    monkeypatch.setattr(app_module.psutil.Process, "create_time", lambda process: 0.0)
    with pytest.raises(RequestError, match=r"There is no studies folder .*typo"):
        WordMaskApp(str(tmp_path), str(tmp_path / "typo"), {})
    assert not (tmp_path / "typo").exists()
