"""Labelled cases: every source, every way in which image and label map may not fit, and what absent means."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from tests.support.labelled_pictures import WORD, disc, write_case

from wordmask.errors import VolumeError, WordMaskError
from wordmask.learning.captions import read_caption_list
from wordmask.learning.cases import Case, cases_from_folder, cases_from_json, words_of
from wordmask.words.labels import LabelError


def write_volume(path: Path, array: np.ndarray, spacing: float = 1.0) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((spacing, spacing, 2.0))
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def a_volume(tmp_path: Path) -> Path:
    return write_volume(
        tmp_path / "scan.nii.gz", np.random.default_rng(1).integers(0, 900, (4, 8, 9)).astype(np.int16)
    )


def test_a_word_may_stand_for_several_values_and_a_named_word_without_voxels_is_absent(tmp_path, a_volume):
    labels = np.zeros((4, 8, 9), dtype=np.uint8)
    labels[1, 2:4], labels[2, 2:4] = 1, 2
    label = write_volume(tmp_path / "label.nii.gz", labels)
    read = Case("scan", a_volume, label, {"hippocampus": (1, 2), "left kidney": (2,), "spleen": (7,)}).read()
    np.testing.assert_array_equal(read.masks["hippocampus"], labels > 0)
    assert not read.masks["spleen"].any()
    assert read.groups() == [["hippocampus", "spleen"], ["left kidney"]]


def test_a_picture_and_its_grey_label_map_fit(tmp_path):
    read = write_case(tmp_path, 3, value=255).read()
    np.testing.assert_array_equal(read.masks[WORD][0], disc(3)[1])


def test_a_jpeg_mask_is_cut_in_the_middle(tmp_path):
    case = write_case(tmp_path, 4)
    path = tmp_path / "mask.jpg"
    sitk.WriteImage(sitk.GetImageFromArray((disc(4)[1] * 255).astype(np.uint8)), str(path))
    mask = Case(case.name, case.image, path, {WORD: ()}).read().masks[WORD][0]
    assert (mask != disc(4)[1]).mean() < 0.01


@pytest.mark.parametrize(
    ("labels", "spacing", "message"),
    [
        (np.zeros((4, 8, 8), np.uint8), 1.0, "8 x 8 x 4 voxels and its image scan.nii.gz 9 x 8 x 4"),
        (np.zeros((4, 8, 9), np.uint8), 3.0, "lies elsewhere"),
        (np.full((4, 8, 9), 0.5, np.float32), 1.0, "holds fractions"),
    ],
)
def test_a_label_map_that_does_not_fit_is_refused_with_the_reason(
    tmp_path, a_volume, labels, spacing, message
):
    case = Case("scan", a_volume, write_volume(tmp_path / "label.nii.gz", labels, spacing), {"liver": (1,)})
    with pytest.raises(WordMaskError, match=message):
        case.read()


def test_a_list_in_json_takes_values_lists_and_label_info(tmp_path):
    case = write_case(tmp_path, 5)
    entry = {"image": case.image.name, "label": case.label.name}
    names = [{"Hepar": 1}, {"kidney": [2, 3]}, [{"name": "spleen", "idx": 4}], {"polyp": []}]
    listed = tmp_path / "cases.json"
    listed.write_text(
        json.dumps([{**entry, "names": n, "name": str(i), "group": "one"} for i, n in enumerate(names)])
    )
    cases = cases_from_json(listed)
    assert [case.words for case in cases] == [
        {"liver": (1,)},
        {"kidney": (2, 3)},
        {"spleen": (4,)},
        {"polyp": ()},
    ]
    assert [case.group for case in cases] == ["one"] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable JSON"),
        ("[]", "at least one entry"),
        ('[{"image": "a.png"}]', "needs image and label"),
        ('[{"image": "a.png", "label": "b.png", "names": {"liver": 1}}]', "There is no file a.png"),
        ('[{"image": "cases.json", "label": "cases.json", "names": {}}]', "does not name a label"),
        ('[{"image": "cases.json", "label": "cases.json", "names": {"liver": 0}}]', "above 0"),
        ('[{"image": "cases.json", "label": "cases.json", "names": {"***": 1}}]', "entry 0"),
    ],
)
def test_a_wrong_list_says_which_entry_and_why(tmp_path, text, message):
    (tmp_path / "cases.json").write_text(text)
    with pytest.raises(WordMaskError, match=message):
        cases_from_json(tmp_path / "cases.json")


def test_the_papers_folders_are_read_and_a_missing_label_map_is_named(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for seed in (1, 2):
        case = write_case(tmp_path / "made", seed, value=255)
        case.image.rename(tmp_path / "images" / f"{seed}.png")
        case.label.rename(tmp_path / "labels" / f"{seed}.png")
    cases = cases_from_folder(tmp_path, "Polyps")
    assert [(case.name, case.words) for case in cases] == [("1", {"polyp": ()}), ("2", {"polyp": ()})]
    np.testing.assert_array_equal(cases[0].read().masks["polyp"][0], disc(1)[1])
    (tmp_path / "labels" / "2.png").unlink()
    with pytest.raises(VolumeError, match="first '2'"):
        cases_from_folder(tmp_path, "polyp")


def test_two_names_of_one_thing_share_it():
    assert words_of({"liver": 1, "Hepar": 3}, "x") == {"liver": (1, 3)}
    with pytest.raises(LabelError, match="whole numbers"):
        words_of({"liver": "1"}, "x")


def test_what_is_not_an_image_is_left_out_and_named(tmp_path, caplog):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    case = write_case(tmp_path / "made", 1, value=255)
    case.image.rename(tmp_path / "images" / "a.png")
    case.label.rename(tmp_path / "labels" / "a.png")
    for name in ("a.txt", "Thumbs.db", "._a.png"):
        (tmp_path / "images" / name).write_text("x")
        (tmp_path / "labels" / name).write_text("x")
    with caplog.at_level(logging.WARNING):
        [found] = cases_from_folder(tmp_path, "polyp")
    assert (found.image.name, found.label.name) == ("a.png", "a.png")
    for name in ("a.txt", "Thumbs.db"):
        assert f"{name} of labels is left out: it is not an image that can be read." in caplog.text
    assert "._a.png of images is left out: it is a hidden file." in caplog.text
    (tmp_path / "labels" / "a.nii.gz").write_bytes(b"x")
    with pytest.raises(
        VolumeError, match=r"Two images of labels are called a: a.nii.gz and a.png; rename one"
    ):
        cases_from_folder(tmp_path, "polyp")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image": " "}, "Entry 0 of MyCases.json needs image and label"),
        ({"names": {"liver": "1"}}, "above 0, got '1'"),
    ],
)
def test_a_wrong_entry_is_quoted_as_it_is(change, sentence, tmp_path):
    listed = tmp_path / "MyCases.json"
    listed.write_text(json.dumps([{"image": "a.png", "label": "b.png", "names": {"liver": 1}, **change}]))
    with pytest.raises(WordMaskError) as raised:
        cases_from_json(listed)
    assert sentence in str(raised.value)


def test_cases_without_a_group_do_not_share_one(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    entry = {"image": "a.png", "label": "b.png", "names": {"liver": 1}, "group": None}
    listed = tmp_path / "cases.json"
    listed.write_text(json.dumps([entry]))
    assert cases_from_json(listed)[0].group == ""


def test_json_that_is_nested_too_deeply_or_a_folder_is_refused(tmp_path):
    listed = tmp_path / "deep.json"
    listed.write_text("[" * 100_000)
    with pytest.raises(VolumeError, match=r"deep\.json is not readable JSON"):
        cases_from_json(listed)
    with pytest.raises(VolumeError, match=r"deep\.json is not readable JSON"):
        read_caption_list(listed, least_characters=1)
    with pytest.raises(VolumeError, match="is a folder, not a list of cases"):
        cases_from_json(tmp_path)
