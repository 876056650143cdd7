"""What a server or a training would make of files, told before either is started."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.support.dicom_writer import write_series
from tests.support.labelled_pictures import WORD, write_case
from tests.support.volume_files import save

from wordmask.errors import VolumeError
from wordmask.learning.inspection import inspect_path, summarise

VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
HU = {"RescaleSlope": "1", "RescaleIntercept": "0"}


def states(path, **options):
    return {finding.name: finding.state for finding in inspect_path(path, **options)}


def test_a_folder_of_studies_is_read_as_the_server_lists_it(tmp_path):
    save(tmp_path / "good.nii.gz", VOXELS)
    (tmp_path / "bad.nii.gz").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "labels").mkdir()
    write_series(tmp_path / "series", VOXELS, positions=[(0, 0, k) for k in range(4)], **HU)
    assert states(tmp_path) == {
        "good": "read",
        "bad": "refused",
        "notes.txt": "left out",
        "series": "read",
    }
    assert summarise(inspect_path(tmp_path)) == "2 read, 1 refused, 1 left out"


def test_a_dicom_folder_is_one_image_and_a_broken_one_says_why(tmp_path):
    write_series(tmp_path / "series", VOXELS, positions=[(0, 0, k) for k in range(4)], **HU)
    assert states(tmp_path / "series") == {"series": "read"}
    write_series(tmp_path / "gap", VOXELS, positions=[(0, 0, k) for k in (0, 1, 2, 9)], **HU)
    (finding,) = inspect_path(tmp_path / "gap")
    assert finding.state == "refused"
    assert "slice" in finding.reason


def test_every_case_of_a_list_is_read_with_its_label_map(tmp_path):
    cases = [write_case(tmp_path, seed) for seed in range(2)]
    save(cases[1].label.with_suffix(".nrrd"), VOXELS)
    entries = [
        {"image": case.image.name, "label": case.label.name, "names": {WORD: 1}, "name": f"case {number}"}
        for number, case in enumerate(cases)
    ]
    entries[1]["label"] = cases[1].label.with_suffix(".nrrd").name
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(entries))
    first, second = inspect_path(path)
    assert (first.state, second.state) == ("read", "refused")
    assert "voxels" in second.reason


def test_a_size_limit_is_kept_and_a_missing_path_is_one_sentence(tmp_path):
    path = save(tmp_path / "large.nii.gz", VOXELS)
    (finding,) = inspect_path(path, max_voxels=10)
    assert finding.state == "refused"
    with pytest.raises(VolumeError, match="There is no file or folder nowhere"):
        list(inspect_path(tmp_path / "nowhere"))
    assert summarise([]) == "nothing found"


def test_an_entry_that_cannot_be_used_does_not_hide_the_others(tmp_path):
    case = write_case(tmp_path, 1)
    good = {"image": case.image.name, "label": case.label.name, "names": {WORD: 1}}
    path = tmp_path / "cases.json"
    path.write_text(json.dumps([{**good, "names": {"\u809d": 1}}, {"image": 3}, good]))
    found = list(inspect_path(path))
    assert [finding.state for finding in found] == ["refused", "refused", "read"]
    assert [finding.name for finding in found[:2]] == ["entry 0", "entry 1"]


def test_two_entries_of_one_name_are_refused_as_a_training_refuses_them(tmp_path):
    case = write_case(tmp_path, 1)
    entry = {"image": case.image.name, "label": case.label.name, "names": {WORD: 1}}
    (tmp_path / "cases.json").write_text(json.dumps([entry, entry]))
    found = list(inspect_path(tmp_path / "cases.json"))
    assert [finding.state for finding in found] == ["read", "refused"]
