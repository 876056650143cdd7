"""What an image is taken to show, which of its slices are learned from, and what of them lies in nnU-Net's
raw data set.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from tests.support.weak_images import WORD, draw_image

from wordmask.errors import VolumeError
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.request import cut_volume
from wordmask.learning.cases import Case, Study, studies_in
from wordmask.learning.weak.pseudo_labels import SliceLabels, choose_slices, label_image
from wordmask.learning.weak.raw_dataset import write_raw_dataset
from wordmask.models.loading import load_segmenter
from wordmask.models.medclip_samv2_weak.model import square_frame
from wordmask.models.registry import load_preset
from wordmask.words.prompts import parse_prompts

PRESET = load_preset("medclip_samv2_weak", "tiny")


@pytest.fixture(scope="module")
def a_teacher() -> VolumeSegmenter:
    return VolumeSegmenter(load_segmenter("medclip_samv2", device="cpu"))


def labelled(image: Study, words: str, teacher: VolumeSegmenter, folder: Path) -> SliceLabels:
    return label_image(image, parse_prompts(words), teacher, folder / f"{image.name}.npz")


def test_without_a_person_the_labels_are_the_teachers(a_teacher, tmp_path):
    image = draw_image(tmp_path / "images", 3)
    found = labelled(image, "polyp, liver", a_teacher, tmp_path).read()
    answer = a_teacher.segment(image.read(), "polyp, liver")
    assert answer.mask(WORD).any()
    np.testing.assert_array_equal(found, answer.labels)


def test_a_persons_label_wins_over_the_mask_and_other_words_keep_theirs(a_teacher, tmp_path):
    image = draw_image(tmp_path / "images", 3)
    zero_shot = a_teacher.segment(image.read(), [WORD]).mask(WORD)
    drawn = np.zeros(zero_shot.shape[1:], np.uint8)
    drawn[:10, :12] = 1
    assert zero_shot.any()
    assert not zero_shot[0, :10, :12].all()
    sitk.WriteImage(sitk.GetImageFromArray(drawn), str(tmp_path / "drawn.png"))
    for word, other in (("polyp", "skin lesion"), ("skin lesion", "polyp")):
        case = Case(image.name, image.path, tmp_path / "drawn.png", {word: (1,)})
        found = labelled(replace(image, case=case), f"{other}, {word}", a_teacher, tmp_path).read()
        np.testing.assert_array_equal(found[0] == 2, drawn.astype(bool))
        of_teacher = a_teacher.segment(image.read(), [other]).mask(other)
        np.testing.assert_array_equal(found[0] == 1, of_teacher[0] & ~drawn.astype(bool))


def test_a_person_who_says_that_nothing_is_there_is_believed(a_teacher, tmp_path):
    image = draw_image(tmp_path / "images", 3)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((72, 64), np.uint8)), str(tmp_path / "empty.png"))
    image = replace(image, case=Case(image.name, image.path, tmp_path / "empty.png", {WORD: (1,)}))
    assert labelled(image, WORD, a_teacher, tmp_path).slices == {0: frozenset()}


def test_every_slice_with_a_mask_is_chosen_and_of_the_others_a_bounded_share(tmp_path):
    stacks = [
        SliceLabels(
            Study(str(number), tmp_path),
            tmp_path,
            {i: frozenset({1} if 10 <= i < 18 else ()) for i in range(40)},
            False,
        )
        for number in range(3)
    ]
    chosen = choose_slices(stacks, negatives=0.2, seed=1)
    assert all({*range(10, 18)} <= set(indices) and indices == sorted(indices) for indices in chosen)
    assert sum(map(len, chosen)) == 24 + 6
    assert choose_slices(stacks, 0.2, 1) == chosen != choose_slices(stacks, 0.2, 2)
    assert choose_slices(stacks, 0.0, 1) == [[*range(10, 18)]] * 3
    assert sum(map(len, choose_slices(stacks, 0.9, 1))) == 120


def test_a_slice_lies_in_its_square_as_the_model_will_see_it(tmp_path):
    image = draw_image(tmp_path / "images", 3)
    labels = np.zeros((1, 72, 64), np.uint8)
    labels[0, 20:40, 10:30], labels[0, 50:60, 40:60] = 1, 3
    np.savez_compressed(tmp_path / "labels.npz", labels=labels)
    one = SliceLabels(image, tmp_path / "labels.npz", {0: frozenset({1, 3})}, True)
    words = parse_prompts("polyp, liver, skin lesion")
    count = write_raw_dataset(
        tmp_path / "raw", [one], [[0]], words, [1, 3], side=96, preset=PRESET, report=lambda done, total: None
    )
    assert count == 1
    dataset = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    assert dataset["numTraining"] == 1
    assert dataset["labels"] == {"background": 0, "word_1": 1, "word_2": 2}
    ((name, files),) = dataset["dataset"].items()
    assert image.name not in name
    frame = square_frame((72, 64), 96)
    seen = frame.to_model(
        torch.from_numpy(
            cut_volume(image.read(), plane="auto", slices=None, skip_air=True).unit_range([0], None)
        )
    )
    kept = tifffile.imread(tmp_path / "raw" / files["images"][0])
    np.testing.assert_array_equal(kept, seen[0].clamp(0, 1).permute(1, 2, 0).numpy())
    classes = tifffile.imread(tmp_path / "raw" / files["label"])
    back = frame.to_original(torch.from_numpy(classes)[None].float(), "nearest")[0].numpy()
    np.testing.assert_array_equal(back, np.array([0, 1, 0, 2])[labels[0]])


def test_a_volume_is_written_once_per_window_and_black_slices_never(tmp_path):
    hounsfield = np.full((4, 40, 40), -1500, np.int16)
    hounsfield[:3, 5:35, 5:35] = 40
    hounsfield[:3, 15:25, 15:25] = -700
    sitk.WriteImage(sitk.GetImageFromArray(hounsfield), str(tmp_path / "ct.nii.gz"))
    image = Study("ct", tmp_path / "ct.nii.gz")
    np.savez_compressed(tmp_path / "labels.npz", labels=np.ones((4, 40, 40), np.uint8))
    one = SliceLabels(image, tmp_path / "labels.npz", {}, False)
    public = load_preset("medclip_samv2_weak", "biomedclip_vit_b")  # trained on any window
    for number, (words, preset, count) in enumerate(
        [("liver, spleen", public, 3), ("liver, lung", public, 6), ("liver, lung", PRESET, 3)]
    ):
        folder = tmp_path / str(number)
        made = write_raw_dataset(
            folder,
            [one],
            [[0, 1, 2, 3]],
            parse_prompts(words),
            [1, 2],
            side=40,
            preset=preset,
            report=lambda done, total: None,
        )
        assert (
            made
            == count
            == len(list((folder / "imagesTr").iterdir()))
            == len(list((folder / "labelsTr").iterdir()))
        )


def test_images_of_a_folder_have_names_and_what_is_wrong_is_said(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(VolumeError, match="does not contain an image"):
        studies_in(tmp_path)
    with pytest.raises(VolumeError, match="There is no folder missing"):
        studies_in(tmp_path / "missing")
    with pytest.raises(VolumeError, match=r"notes\.txt is not a folder"):
        studies_in(tmp_path / "notes.txt")
    first = draw_image(tmp_path / "images", 1)
    assert [image.name for image in studies_in(tmp_path / "images")] == ["picture_1"]
    (tmp_path / "images" / "picture_1.bmp").write_bytes(first.path.read_bytes())
    with pytest.raises(VolumeError, match="Two images of images are called picture_1"):
        studies_in(tmp_path / "images")
