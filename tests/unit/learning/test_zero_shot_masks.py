"""A committee that learns from the zero-shot masks of unlabelled images: what is published, and when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.support.weak_images import WORD, draw_image

from wordmask.errors import RequestError
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.cases import Study
from wordmask.learning.training import CaseReport, TrainingOptions, find_training, recipe_names
from wordmask.models.loading import load_segmenter
from wordmask.weights.checkpoint import read_card
from wordmask.weights.versions import ModelStore

MODEL, RECIPE = "medclip_samv2", "zero_shot_masks"
TINY = {"steps": 2, "batch": 2, "members": ("lean",), "sides": (32,)}


def teach(
    images: list[Study], folder: Path, words: str = WORD, *, force: bool = False, start: int | None = None
) -> tuple[CaseReport, ModelStore]:
    training, store = find_training(MODEL, RECIPE), ModelStore(folder / MODEL)
    options = TrainingOptions(
        recipe=RECIPE, settings=TINY, words=words, device="cpu", force=force, start=start
    )
    request = training.make_request(MODEL, "tiny", options)
    return training.run(images, request, store, run_folder=folder / "run"), store


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    folder = tmp_path_factory.mktemp("studies") / "images"
    return [draw_image(folder, seed, labelled=seed < 2) for seed in range(4)]


def test_without_labels_it_is_published_and_the_committee_answers_for_these_words_alone(images, tmp_path):
    unlabelled = [replace(image, case=None) for image in images]
    report, store = teach(unlabelled, tmp_path)
    assert report.version == store.served() == 1
    assert report.mean is None
    assert report.message.endswith("look at its masks before you rely on them.")
    assert report.training_cases == sorted(image.name for image in images)
    card = read_card(store.folder(1)).committee
    assert card is not None
    assert list(card.words) == [WORD]
    assert not card.words[WORD].frozen
    assert card.words[WORD].presence is None
    served = VolumeSegmenter(load_segmenter(MODEL, device="cpu", weights=store.folder(1)))
    base, volume = VolumeSegmenter(load_segmenter(MODEL, device="cpu")), images[3].read()
    other = "skin lesion"
    np.testing.assert_array_equal(
        served.segment(volume, other).mask(other), base.segment(volume, other).mask(other)
    )
    with pytest.raises(RequestError, match="Version 1 would forget 'polyp'"):
        teach(unlabelled, tmp_path, "skin lesion")


def test_held_out_labels_judge_and_a_result_that_is_worse_is_not_published(images, tmp_path):
    report, store = teach(images, tmp_path)
    assert report.version is None
    assert store.served() is None
    assert report.mean is not None
    assert report.mean_before is not None
    assert report.mean < report.mean_before
    assert "of the zero-shot masks on 1 validation cases" in report.message
    forced, store = teach(images, tmp_path / "forced", "", force=True)  # the words of the labels
    assert forced.version == 1
    (judge,) = forced.validation_cases
    assert read_card(store.folder(1)).committee.held_out == (judge,)


def test_what_cannot_be_learned_is_said(images, tmp_path):
    unlabelled = [replace(image, case=None) for image in images]
    for given, words, sentence in (
        (unlabelled, "", "There are no words to learn"),
        (unlabelled, "flurbinator", "cannot draw masks of 'flurbinator'"),
        ([], WORD, "There is no image"),
        (unlabelled[:1], "bladder", "has a mask of 'bladder'"),
    ):
        with pytest.raises(RequestError, match=sentence):
            teach(given, tmp_path, words)


def test_the_recipe_is_one_of_the_models():
    assert RECIPE in recipe_names(MODEL, "tiny")
