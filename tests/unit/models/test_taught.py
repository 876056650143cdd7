"""A model that was taught words: who answers for what, and that a mask depends on nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.support.labelled_pictures import disc
from tests.support.small_volumes import a_volume, organs
from tests.support.taught import EVEN, taught_stub

from wordmask.errors import WeightsError
from wordmask.inference.cache import FeatureCache
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.request import cut_volume
from wordmask.learning.active.scores import score_case
from wordmask.models.base import SliceKey
from wordmask.models.taught.parts import peak_of, standing_out
from wordmask.models.taught.versions import base_of, committee_tensors, load_committee
from wordmask.weights.card import Card, PresenceLimit, TaughtWord
from wordmask.weights.checkpoint import save_checkpoint
from wordmask.words.prompts import parse_prompts

(FEMUR,) = parse_prompts("femur")


def ask(model, volume, words, **settings):
    result = VolumeSegmenter(model, **settings).segment(volume, words, keep=("probability",))
    return {prompt.word: result.maps["probability"][prompt.word] for prompt in result.prompts}


@pytest.fixture(scope="module")
def volume():
    return organs()


@pytest.fixture(scope="module")
def picture():
    return a_volume(disc(3)[0][None], modality="picture")


def test_taught_words_are_answered_by_the_committee_and_others_bit_for_bit_by_the_model(volume):
    model = taught_stub()
    together = ask(model, volume, "femur, liver")
    alone = ask(model.base, volume, "liver")
    assert np.array_equal(together["liver"], alone["liver"])
    assert np.array_equal(together["femur"], ask(model, volume, "femur")["femur"])
    assert 0.05 < (together["femur"] > 0.5).mean() < 0.95


def test_neither_chunk_nor_cache_nor_other_words_change_a_mask(volume):
    words = {name: TaughtWord(weights=EVEN) for name in ("femur", "tibia", "fibula")}
    model = taught_stub(words)
    expected = ask(model, volume, "femur")["femur"]
    cache = FeatureCache(1 << 28)
    assert np.array_equal(ask(model, volume, "tibia, femur, fibula", chunk=5)["femur"], expected)
    for _ in range(2):
        assert np.array_equal(ask(model, volume, "femur", cache=cache, chunk=1)["femur"], expected)
    assert cache.hits


def test_a_person_who_points_is_answered_by_the_model():
    model = taught_stub()
    assert model.answering(FEMUR, picture=False, hinted=True) is model.base
    assert model.answering(FEMUR, picture=False, hinted=False) is not model.base
    assert model.answering(parse_prompts("liver")[0], picture=False, hinted=False) is model.base


def test_a_slice_is_seen_between_its_neighbours_and_at_the_ends_beside_itself(volume):
    view = cut_volume(volume, plane="axial", slices=None, skip_air=True)
    seen, plain = view.with_neighbours([0, 7, 22], None), view.unit_range(range(23), None)[:, 0]
    assert np.array_equal(seen[1], plain[6:9])
    assert np.array_equal(seen[0], plain[[0, 0, 1]])
    assert np.array_equal(seen[2], plain[[21, 22, 22]])


def test_a_mirrored_picture_has_the_mirrored_mask():
    model = taught_stub()
    pixels = disc(3, (64, 64))[0]
    one = ask(model, a_volume(pixels[None], modality="picture"), "femur")["femur"]
    other = ask(model, a_volume(np.ascontiguousarray(pixels[None, :, ::-1]), modality="picture"), "femur")
    np.testing.assert_allclose(other["femur"][..., ::-1], one, atol=2e-3)


def test_a_word_with_a_side_is_not_looked_for_in_the_mirror_image(picture):
    words = {name: TaughtWord(weights=EVEN) for name in ("left lung", "femur")}
    model = taught_stub(words)
    sided, plain = (
        model.answering(parse_prompts(word)[0], picture=True, hinted=False) for word in ("left lung", "femur")
    )
    assert (sided.way.mirrors, plain.way.mirrors) == (False, True)
    assert sided.fingerprint != plain.fingerprint


def test_the_smallest_side_that_holds_the_slice_is_taken():
    committee = taught_stub().committee
    assert [committee.side_for(size) for size in ((20, 32), (33, 4), (64, 64), (512, 300))] == [
        32,
        64,
        64,
        64,
    ]


def test_one_member_alone_and_their_weights(volume):
    model = taught_stub()
    both = ask(model, volume, "femur")["femur"]
    single = [ask(model.only(member), volume, "femur")["femur"] for member in (0, 1)]
    weighted = taught_stub({"femur": TaughtWord(weights=(1.0, 0.0, 0.0, 0.0))})
    assert np.array_equal(ask(weighted, volume, "femur")["femur"], single[0])
    assert not np.allclose(single[0], single[1], atol=0.01)
    assert np.abs(both - sum(single) / 2).mean() < 0.05


def test_the_frozen_model_has_a_vote_where_it_is_of_use(volume):
    words = {"liver": TaughtWord(weights=(0.0, 0.0, 0.0, 1.0), frozen=True)}
    model = taught_stub(words, sides=(64,))
    frozen, own = ask(model, volume, "liver")["liver"], ask(model.base, volume, "liver")["liver"]
    assert ((frozen > 0.5) == (own > 0.5)).mean() > 0.98


def test_a_limit_decides_whether_a_taught_word_is_there(picture):
    for limit, found in ((-20.0, True), (20.0, False)):
        word = TaughtWord(weights=EVEN, presence=PresenceLimit(limit=limit))
        result = VolumeSegmenter(taught_stub({"femur": word})).segment(picture, "femur")
        assert ("femur" not in result.not_found) is found
        assert (result.statistics["femur"].presence > 0.5) is found
    assert "does not seem to be in this image" in " ".join(result.warnings)


def test_only_the_part_of_a_picture_that_stands_out_is_marked():
    probability = np.full((64, 64), 0.02, dtype=np.float32)
    probability[5:60, 2:30] = 0.55  # large and vague
    probability[20:32, 40:52] = 0.95  # small and clear
    part = standing_out(probability)
    assert part.mask[25, 45]
    assert not part.mask[30, 15]
    assert part.mask.sum() == 144
    assert 0.02 < part.level < 0.95
    assert 0.8 < part.contrast < 0.95
    assert peak_of(probability) == pytest.approx(0.95)
    empty = standing_out(np.zeros((32, 32), dtype=np.float32))
    assert not empty.mask.any()
    assert empty.contrast == 0


def test_the_networks_of_a_taught_word_disagree_and_those_of_equal_weights_do_not(picture):
    model = taught_stub()
    assert score_case(model, picture, "femur", name="x").disagreement > 0.01
    equal = taught_stub(members=("lean", "lean"))
    equal.committee.networks[1].load_state_dict(equal.committee.networks[0].state_dict())
    assert score_case(equal, picture, "femur", name="x").disagreement == 0


def test_a_word_that_was_not_taught_is_tinted_as_before(picture):
    model = taught_stub()
    assert score_case(model, picture, "liver", name="x") == score_case(model.base, picture, "liver", name="x")


def test_a_row_depends_on_its_own_slice_and_word_alone(volume):
    words = {name: TaughtWord(weights=EVEN) for name in ("femur", "tibia")}
    segmenter = taught_stub(words).answering(FEMUR, picture=False, hinted=False)
    slices = torch.rand(3, 3, 40, 30, generator=torch.Generator().manual_seed(2))
    keys = [SliceKey("x", "axial", index) for index in range(3)]
    features = segmenter.encode_slices(slices, keys)
    prompts = segmenter.encode_prompts(parse_prompts("femur, tibia"))
    output = segmenter(features, prompts)
    assert output.logits.shape == (6, 64, 64)
    assert not torch.allclose(output.logits[0], output.logits[1])
    pair = torch.tensor([[2, 1]])
    torch.testing.assert_close(segmenter(features, prompts, pair).logits[0], output.logits[5])


def test_a_version_keeps_the_committee_in_half_the_precision(tmp_path, volume):
    model = taught_stub()
    save_checkpoint(tmp_path / "v", committee_tensors(model.committee), Card(committee=model.committee.card))
    loaded = load_committee(tmp_path / "v")
    for name, tensor in model.committee.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor.half().float())
    assert base_of(tmp_path / "v") is None
    (tmp_path / "v" / "base").mkdir()
    assert base_of(tmp_path / "v") == tmp_path / "v" / "base"


def test_a_damaged_version_says_so(tmp_path):
    model = taught_stub()
    tensors = committee_tensors(model.committee)
    tensors["vectors"] = tensors["vectors"][:0]
    save_checkpoint(tmp_path, tensors, Card(committee=model.committee.card))
    with pytest.raises(WeightsError, match="do not fit"):
        load_committee(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    card["committee"]["members"] = ["lean"]
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError):
        load_committee(tmp_path)
