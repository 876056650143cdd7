"""Which case comes next: the choice as a pure function, and what the numbers behind it say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.labelled_pictures import disc
from tests.support.small_volumes import a_volume, organs
from tests.support.stub_segmenters import (
    PromptFreeStub,
    random_medclip_samv2,
    random_medclip_samv2_weak,
    random_tiny,
    stub_preset,
)

from wordmask.data.volumes import Volume
from wordmask.errors import CancelledError, RequestError
from wordmask.inference.cache import FeatureCache
from wordmask.learning.active.embedding import WIDTH, embed_image
from wordmask.learning.active.scores import (
    CaseScore,
    band_of,
    decision_entropy,
    disagreement,
    score_case,
)
from wordmask.learning.active.strategies import STRATEGIES, UNSURE_SHARE, choose
from wordmask.models.loading import load_segmenter
from wordmask.models.presets import PresencePreset
from wordmask.progress import CancelToken
from wordmask.words.prompts import parse_prompts

PARTS = ("uncertainty", "presence", "boundary", "disagreement")


def a_score(case: str, uncertainty: float = 0.5, embedding: tuple[float, ...] = ()) -> CaseScore:
    return CaseScore(case, uncertainty, uncertainty, uncertainty, uncertainty, list(embedding), f"of {case}")


def a_picture() -> Volume:
    return a_volume(disc(1)[0][None], modality="picture")


coordinates = st.floats(-1, 1, allow_nan=False).map(lambda value: round(value, 3))
points = st.tuples(coordinates, coordinates, coordinates)


@st.composite
def pools(draw: st.DrawFn) -> list[CaseScore]:
    count = draw(st.integers(1, 8))
    return [a_score(f"case_{i}", draw(st.floats(0, 1)), draw(points)) for i in range(count)]


def gap(score: CaseScore, labelled: list[CaseScore]) -> float:
    return min(math.dist(score.embedding, other.embedding) for other in labelled)


@given(pools(), st.lists(points, min_size=1, max_size=5))
def test_diversity_takes_the_case_whose_nearest_labelled_case_is_farthest(pool, places):
    labelled = [a_score(f"labelled_{i}", 0.0, place) for i, place in enumerate(places)]
    chosen = next(score for score in pool if score.case == choose("diversity", pool, labelled).case)
    assert gap(chosen, labelled) >= max(gap(score, labelled) for score in pool) - 1e-9


@given(pools(), st.lists(points, max_size=3))
def test_hybrid_takes_one_of_the_less_sure_half_and_there_the_farthest(pool, places):
    labelled = [a_score(f"labelled_{i}", 0.0, place) for i, place in enumerate(places)]
    unsure = sorted(pool, key=lambda score: (-score.uncertainty, score.case))[
        : math.ceil(UNSURE_SHARE * len(pool))
    ]
    assert choose("hybrid", pool, labelled).case == choose("diversity", unsure, labelled).case


@given(pools(), st.sampled_from(sorted(STRATEGIES)), st.randoms(use_true_random=False), st.integers(0, 99))
def test_the_choice_does_not_depend_on_the_order_of_the_cases(pool, strategy, shuffle, seed):
    labelled = [a_score("labelled", 0.0, (0.1, 0.2, 0.3)), a_score("also labelled", 0.0, (-0.3, 0.9, 0.0))]
    mixed = shuffle.sample(pool, len(pool))
    assert choose(strategy, pool, labelled, seed=seed) == choose(strategy, mixed, labelled[::-1], seed=seed)


def test_each_strategy_keeps_its_promise_and_gives_a_sentence():
    pool = [a_score("b", 0.9, (1, 0)), a_score("a", 0.1, (0, 1)), a_score("c", 0.9, (0.8, 0.6))]
    labelled = [a_score("l", 0.0, (1, 0))]
    chosen = {strategy: choose(strategy, pool, labelled) for strategy in STRATEGIES}
    assert {name: choice.case for name, choice in chosen.items() if name != "random"} == {
        "first": "a",
        "uncertainty": "b",  # of two equals the first by name
        "diversity": "a",
        "hybrid": "c",
    }
    assert all(choice.reason.endswith(".") for choice in chosen.values())
    assert "of b" in chosen["uncertainty"].reason
    assert {choose("random", pool, labelled, seed=seed).case for seed in range(30)} == {"a", "b", "c"}


def test_with_nothing_labelled_the_most_typical_case_comes_first():
    pool = [a_score("left", 0.5, (-1, 0)), a_score("middle", 0.5, (0.1, 0)), a_score("right", 0.5, (1, 0))]
    assert choose("diversity", pool, []).case == "middle"


def test_without_embeddings_the_choice_falls_back_and_says_so():
    pool = [a_score("a", 0.2), a_score("b", 0.7)]
    assert "no embeddings" in choose("diversity", pool, []).reason
    assert choose("hybrid", pool, []).case == "b"
    assert choose("diversity", [*pool, a_score("c", 0.1, (1.0,))], [a_score("l")]).case == "c"


def test_what_cannot_be_chosen_is_refuses():
    with pytest.raises(RequestError, match="Did you mean 'diversity'"):
        choose("divresity", [a_score("a")], [])
    with pytest.raises(ValueError, match="a case to choose"):
        choose("first", [], [])


def test_a_decision_is_most_open_at_its_limit():
    assert decision_entropy(0.5, 0.0) == pytest.approx(1.0)
    assert decision_entropy(1 / (1 + math.exp(1.5)), -1.5) == pytest.approx(1.0)
    assert decision_entropy(0.99, 0.0) < decision_entropy(0.7, 0.0) < 1
    assert decision_entropy(0.0, 0.0) == pytest.approx(0.0, abs=1e-6)


def test_masks_disagree_by_what_they_do_not_share():
    one, other, none = np.zeros((3, 1, 4, 4), dtype=bool)
    one[0, :2], other[0, 1:3] = True, True
    assert disagreement([one, one]) == 0
    assert disagreement([none, none]) == 0
    assert disagreement([one, none]) == 1
    assert disagreement([one, other]) == pytest.approx(0.5)
    assert disagreement([one, one, other]) == pytest.approx(1 / 3)


def test_the_band_lies_on_both_sides_of_the_outline_within_each_slice():
    masks = np.zeros((3, 9, 9), dtype=bool)
    masks[1, 2:7, :5] = True  # it touches the left edge of the picture, which is no outline
    band = band_of(masks, 1)
    assert not band[[0, 2]].any()
    assert not band[1, 4, 0]
    assert band[1, 2, 0]
    assert band[1, 1, 0]
    assert (band[1, 4, 4], band[1, 4, 5], band[1, 4, 3], band[1, 4, 6]) == (True, True, False, False)


def test_a_score_is_the_same_every_time_and_within_its_range():
    first, second = (
        score_case(PromptFreeStub(stub_preset()), organs(), "liver, aorta", name="x") for _ in range(2)
    )
    assert first == second
    assert all(0 <= getattr(first, part) <= 1 for part in PARTS)
    assert first.uncertainty == pytest.approx(
        (first.presence + first.boundary + first.disagreement) / 3, abs=1e-5
    )


def test_a_presence_at_the_limit_of_its_word_is_most_uncertain_and_told():
    black = a_volume(np.zeros((1, 40, 40, 3), dtype=np.uint8), modality="picture")
    # The stub's logit is -12 where nothing has the grey value of the word.
    for limit, expected in ((0.0, 0.0), (-12.0, 1.0)):
        preset = stub_preset(presence=PresencePreset(words={"polyp": limit}))
        score = score_case(PromptFreeStub(preset), black, "polyp", name="x")
        assert score.presence == pytest.approx(expected, abs=1e-3)
    assert score.reason.startswith("it is not clear whether 'polyp' is in the image")


def test_a_vague_outline_is_more_uncertain_than_a_sharp_one_and_its_slices_are_told():
    volume = organs()
    blurred = volume.array.copy()
    blurred[6:9, 6:24] = np.linspace(100, 190, 18)[:, None]  # the liver's grey value is 150
    sharp, vague = (
        score_case(PromptFreeStub(stub_preset()), a_volume(array), "liver", name="x")
        for array in (volume.array, blurred)
    )
    assert vague.boundary > sharp.boundary


def test_a_model_with_a_bottleneck_is_asked_again_with_other_noise_on_the_same_features():
    model, cache = random_tiny(), FeatureCache(1 << 26)
    model.preset = model.preset.model_copy(update={"threshold": 0.45})  # random weights hardly pass 0.46
    score = score_case(model, a_picture(), "liver", name="x", cache=cache)
    assert cache.misses == 1
    assert score.disagreement > 0
    assert model.preset.bottleneck.seed == 42, "the model itself is as it was"
    assert np.linalg.norm(score.embedding) == pytest.approx(1, abs=1e-4)


def test_a_model_without_noise_is_asked_again_with_other_grey_values():
    model, volume = PromptFreeStub(stub_preset()), a_picture()
    score = score_case(model, volume, "liver", name="x")
    assert model.slices_encoded == 3, "as it is, brighter, darker"
    assert score == score_case(model, volume, "liver", name="x")


def test_only_models_whose_masks_draw_noise_are_asked_with_other_noise():
    (liver,) = parse_prompts("liver")
    similarity = load_segmenter("simple_vilmedsam", device="cpu")
    for model in (similarity, random_medclip_samv2_weak()):
        assert model.variants(liver) == []
    for model in (random_tiny(), random_medclip_samv2()):
        seed = model.preset.bottleneck.seed
        assert [other.preset.bottleneck.seed for other in model.variants(liver)] == [seed + 1, seed + 2]
        assert {other.fingerprint for other in model.variants(liver)} == {model.fingerprint}


def test_the_disagreement_of_a_weakly_supervised_model_counts():
    model = random_medclip_samv2_weak()
    model.preset = model.preset.model_copy(update={"threshold": 0.35})  # random weights give up to 0.36
    score = score_case(model, a_picture(), "liver", name="x")
    assert score.disagreement > 0


def test_words_that_the_weights_refuse_leave_a_case_wholly_uncertain_with_its_embedding():
    tiny = load_segmenter("simple_vilmedsam", preset="tiny", device="cpu")
    volume = a_picture()
    score = score_case(tiny, volume, "hippocampus", name="x")
    assert [getattr(score, part) for part in PARTS] == [1.0] * 4
    assert "'hippocampus'" in score.reason
    assert score.embedding == embed_image(volume, parse_prompts("hippocampus")[0], tiny.preset)
    assert len(score.embedding) == WIDTH
    mixed = score_case(tiny, volume, "polyp, hippocampus", name="x")
    assert mixed.uncertainty == score_case(tiny, volume, "polyp", name="x").uncertainty


def test_scoring_can_be_stopped():
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(CancelledError):
        score_case(PromptFreeStub(stub_preset()), organs(), "liver", name="x", cancel=cancel)
