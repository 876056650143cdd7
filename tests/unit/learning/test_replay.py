"""What is repeated so that old words are not forgotten."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.support.labelled_pictures import WORD, write_case

from wordmask.inference.cache import FeatureCache
from wordmask.learning.earlier_cases import earlier_cases, write_cases
from wordmask.learning.finetuning.pairs import EpochSampler, TrainingPairs
from wordmask.learning.finetuning.replay import REPEAT_SEED, phantom_cases
from wordmask.learning.recipes import Recipe
from wordmask.learning.training import find_training
from wordmask.models.loading import load_segmenter
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import checkpoint_folder, read_card


@pytest.fixture(scope="module")
def card() -> Card:
    return read_card(checkpoint_folder("bundled/simple_vilmedsam_tiny"))


def test_phantoms_show_every_word_of_the_bundle_but_those_that_are_learned_anew(card):
    made = phantom_cases(card, {"liver", "polyp"}, REPEAT_SEED)
    shown = {word for case in made for word, mask in case.masks.items() if mask.any()}
    assert shown == set(card.words) - {"liver", "polyp"}
    assert not any("polyp" in case.masks for case in made)


def test_phantoms_are_the_same_every_time_and_others_for_another_seed(card):
    first, again, other = (phantom_cases(card, set(), seed, 0.1)[0].volume.array for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_weights_that_did_not_come_from_phantoms_get_none(card):
    assert phantom_cases(Card(words=card.words), set(), 1) == []


def test_the_cases_of_a_version_are_found_again_but_for_new_ones_and_lost_files(tmp_path):
    cases = [write_case(tmp_path / "data", seed) for seed in range(4)]
    version = tmp_path / "1"
    version.mkdir()
    write_cases(version, cases)
    cases[3].label.unlink()
    found = earlier_cases(version, {cases[0].name})
    assert [(case.name, dict(case.words)) for case in found] == [
        (case.name, dict(case.words)) for case in cases[1:3]
    ]
    assert found[0].read().masks[WORD].any()


def test_a_damaged_list_of_cases_stops_nothing(tmp_path):
    (tmp_path / "cases.json").write_text(json.dumps({"no": "list"}))
    assert earlier_cases(tmp_path, set()) == []
    assert earlier_cases(None, set()) == []


def test_every_epoch_repeats_old_words_in_the_stated_share_and_each_as_often(tmp_path, card):
    recipe = Recipe.load("decoder", views=1, batch=10, replay=0.5)
    trainee = find_training("simple_vilmedsam", "decoder").start_trainee(
        "simple_vilmedsam", "tiny", None, recipe, [WORD]
    )
    new = [write_case(tmp_path, seed).read() for seed in range(60)]
    old = phantom_cases(card, {WORD}, REPEAT_SEED, 0.3)
    data = TrainingPairs(
        new,
        load_segmenter("simple_vilmedsam"),
        recipe,
        FeatureCache(1 << 20),
        frame_of=trainee.target_frame,
        replayed=[old],
    )
    words = [data.pairs[number].word for batch in EpochSampler(data, recipe) for number, _ in batch]
    repeated = [word for word in words if word != WORD]
    assert len(repeated) == pytest.approx(len(words) / 2, abs=len(words) * 0.1)
    assert len(set(repeated)) > 12
    assert WORD not in data.replayed[0]


def test_a_word_of_ones_own_is_repeated_as_often_as_all_bundled_words_together(tmp_path, card):
    recipe = Recipe.load("decoder", views=1, batch=10, replay=0.5)
    trainee = find_training("simple_vilmedsam", "decoder").start_trainee(
        "simple_vilmedsam", "tiny", None, recipe, ["a new thing", WORD]
    )
    learned_before = [write_case(tmp_path, seed).read() for seed in range(6)]
    new = [replace(found, masks={"a new thing": found.masks[WORD]}) for found in learned_before]
    phantoms = phantom_cases(card, {WORD}, REPEAT_SEED, 0.3)
    data = TrainingPairs(
        new,
        load_segmenter("simple_vilmedsam"),
        recipe,
        FeatureCache(1 << 20),
        frame_of=trainee.target_frame,
        replayed=[learned_before, phantoms],
    )
    words = [data.pairs[number].word for batch in EpochSampler(data, recipe) for number, _ in batch]
    bundled = [word for word in words if word not in (WORD, "a new thing")]
    assert len(bundled) == pytest.approx(words.count(WORD), abs=len(words) * 0.1)
    assert words.count("a new thing") == pytest.approx(len(words) / 2, abs=len(words) * 0.1)
