"""Pairs of pictures and captions: every list, every way in which one may be wrong, and captions that are
written of label maps.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from tests.support.labelled_pictures import WORD, write_case

from wordmask.errors import RequestError, VolumeError
from wordmask.learning.captions import captions_of_cases, names_cases, read_caption_list, read_pictures
from wordmask.learning.cases import Case

LONG = "a caption that is long enough"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, grey in (("One.png", 50), ("two.png", 200)):
        Image.fromarray(np.full((6, 8, 3), grey, np.uint8)).save(tmp_path / name)
    volume = np.zeros((5, 12, 10), np.int16)
    volume[3] = 100
    volume[:, :2] = -1000
    sitk.WriteImage(sitk.GetImageFromArray(volume), str(tmp_path / "ct.nii.gz"))
    return tmp_path


def listed(folder: Path, text: str, name: str = "pairs.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return read_caption_list(folder / name, least_characters=20)


def test_a_csv_gives_pairs_with_paths_beside_it_and_counts_short_captions(folder):
    found = listed(
        folder,
        f'id,image,caption,group\n1,One.png,"{LONG}, with\na '
        f'comma",anna\n2,two.png,short,\n3,two.png,{LONG},\n',
    )
    first, second = found.pairs
    assert found.short == 1
    assert (first.image, first.caption, first.group) == (folder / "One.png", f"{LONG}, with a comma", "anna")
    assert (second.group, second.source) == ("two.png", "line 5 of pairs.csv")


def test_a_json_list_may_name_slices_in_display_order(folder):
    entries = [
        {"image": "ct.nii.gz", "caption": LONG, "slice": 3},
        {"image": "ct.nii.gz", "caption": LONG, "slice": 0, "window": "lung"},
    ]
    found = listed(folder, json.dumps(entries), "pairs.json")
    bright, other = read_pictures(found.pairs)
    assert bright.shape == other.shape == (3, 12, 10)
    assert bright[:, 2:].mean() == pytest.approx((100 - 40) / 400 + 0.5)
    assert other[:, 2:].mean() == pytest.approx((0 + 600) / 1500 + 0.5, abs=0.05)
    restricted = list(read_pictures(found.pairs, windows=("soft_tissue",)))
    assert restricted[1][:, 2:].mean() == pytest.approx((0 - 40) / 400 + 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,text\nOne.png,x\n", "pairs.csv lacks the column 'caption'"),
        ("", "lacks the column 'image'"),
        ("image,caption\n", "pairs.csv has no caption to learn from: it is empty"),
        ("image,caption\nOne.png,short\n", "its 1 captions are all shorter than 20"),
        (f"image,caption\nMissing.png,{LONG}\n", "no file Missing.png, which line 2 of pairs.csv names"),
        (f"image,caption\nOne.png,{LONG}, and more\n", "Line 2 of pairs.csv has more or fewer fields"),
        ("image,caption\nOne.png\n", "Line 2 of pairs.csv has more or fewer fields"),
        (f"image,caption\nOne.png,{LONG}\n,{LONG}\n", "Line 3 of pairs.csv needs image and caption"),
        (f"image,caption,slice\nOne.png,{LONG},-1\n", "slice in line 2 of pairs.csv must be a whole number"),
        (f'image,caption\nOne.png,"{LONG}\n', "is not readable CSV"),
    ],
)
def test_a_wrong_csv_is_refused_with_its_line(folder, text, message):
    with pytest.raises(VolumeError, match=message):
        listed(folder, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "must be a list"),
        ("[]", "must be a list"),
        ("[3]", "Entry 0 of Pairs.json must be a table"),
        ('[{"image": "One.png"}]', "Entry 0 of Pairs.json needs image and caption"),
        ("[", "is not readable JSON"),
    ],
)
def test_a_wrong_json_list_is_refused_with_its_entry(folder, text, message):
    with pytest.raises(VolumeError, match=message):
        listed(folder, text, "Pairs.json")


def test_a_list_that_is_no_text_or_not_there_is_refused(folder):
    (folder / "pairs.csv").write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(VolumeError, match="save it as UTF-8"):
        read_caption_list(folder / "pairs.csv", least_characters=0)
    with pytest.raises(VolumeError, match=r"no file none\.csv"):
        read_caption_list(folder / "none.csv", least_characters=0)
    with pytest.raises(RequestError, match="no window"):
        listed(folder, f"image,caption,window\nOne.png,{LONG},bones\n")


def test_an_image_that_cannot_be_used_is_told_with_the_entry_that_names_it(folder):
    (folder / "broken.png").write_bytes(b"no picture")
    for row, message in (
        (f"broken.png,{LONG},", "line 2 of pairs.csv names cannot be used: broken.png"),
        (f"ct.nii.gz,{LONG},", "ct.nii.gz, which line 2 of pairs.csv names, has 5 slices"),
        (f"ct.nii.gz,{LONG},5", "Line 2 of pairs.csv names slice 5 of ct.nii.gz, which has slices 0 to 4"),
        (f"One.png,{LONG},1", "slices 0 to 0"),
    ):
        with pytest.raises(VolumeError, match=message):
            list(read_pictures(listed(folder, f"image,caption,slice\n{row}\n").pairs))


def a_case(folder: Path, **changes) -> Case:
    """A CT of 9 slices: a liver in slices 2 to 7, a smaller spleen in 4 to 5, and a kidney of one voxel."""
    array, labels = np.full((9, 40, 40), -1000, np.int16), np.zeros((9, 40, 40), np.uint8)
    array[:, 5:35, 5:35] = 20
    labels[2:8, 10:30, 10:20], labels[4:6, 10:20, 22:30], labels[3, 5, 5] = 1, 2, 3
    for name, values in (("scan.nii.gz", array), ("label.nii.gz", labels)):
        image = sitk.GetImageFromArray(values)
        image.SetSpacing((1, 1, 3))
        sitk.WriteImage(image, str(folder / name))
    words = {"spleen": (2,), "liver": (1,), "left kidney": (3,)}
    return Case("scan", folder / "scan.nii.gz", folder / "label.nii.gz", words, **changes)


def test_captions_of_a_case_name_what_its_slices_show_the_largest_first(tmp_path):
    pairs = captions_of_cases([a_case(tmp_path, group="anna")], slices=3, words=None).pairs
    assert [(pair.slice, pair.caption) for pair in pairs] == [
        (3, "CT slice showing liver"),
        (5, "CT slice showing liver and spleen"),
        (7, "CT slice showing liver"),
    ]
    assert {pair.group for pair in pairs} == {"anna"}
    one = captions_of_cases([a_case(tmp_path)], slices=9, words=1).pairs
    assert [pair.slice for pair in one] == [2, 3, 4, 5, 6, 7]
    assert {pair.caption for pair in one} == {"CT slice showing liver"}
    assert len(list(read_pictures(pairs))) == 3


def test_a_labelled_picture_is_one_pair_and_an_empty_one_none(tmp_path):
    cases = [write_case(tmp_path, 1), write_case(tmp_path, 2, empty=True)]
    (pair,) = captions_of_cases(cases, slices=5, words=None).pairs
    assert (pair.caption, pair.slice) == (f"picture showing {WORD}", None)
    with pytest.raises(VolumeError, match="label maps of these cases are empty"):
        captions_of_cases(cases[1:], slices=5, words=None)


def test_what_is_in_a_list_decides_what_it_is(folder):
    (folder / "cases.json").write_text('[{"image": "a", "label": "b"}]', encoding="utf-8")
    (folder / "pairs.json").write_text('[{"image": "a", "caption": "b"}]', encoding="utf-8")
    assert names_cases(folder)
    assert names_cases(folder / "cases.json")
    assert not names_cases(folder / "pairs.json")
    assert not names_cases(folder / "pairs.csv")
