"""The promises of segmenters/base.py as a list; every model goes through the same checks.

A new model joins by a line in `MODELS`: a small one with random weights is enough.
"""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from tests.support.stub_segmenters import (
    PromptFreeStub,
    WordDependentStub,
    random_clip_guided_sam,
    random_medclip_samv2,
    random_medclip_samv2_weak,
    random_medclipseg,
    random_tiny,
    stub_preset,
)
from torch import Tensor

from wordmask.inference.batching import join_prompts, join_slices, store_slice
from wordmask.models.base import (
    PromptFeatures,
    Segmenter,
    SegmenterOutput,
    SliceFeatures,
    SliceKey,
    all_pairs,
)
from wordmask.words.prompts import Prompt, parse_prompts

MODELS = {
    "prompt_free_stub": lambda: PromptFreeStub(stub_preset()),
    "word_dependent_stub": lambda: WordDependentStub(stub_preset()),
    "simple_vilmedsam": random_tiny,
    "medclip_samv2": random_medclip_samv2,
    "medclip_samv2_points": lambda: random_medclip_samv2(prompts="both", negative=3, fusion="scored"),
    "medclip_samv2_weak": random_medclip_samv2_weak,
    "medclipseg": random_medclipseg,
    "medclipseg_with_padding": lambda: random_medclipseg(see_padding=True),
    "clip_guided_sam": random_clip_guided_sam,
    "clip_guided_sam_two_blocks": lambda: random_clip_guided_sam(semantic_blocks=2),
    "clip_guided_sam_as_released": lambda: random_clip_guided_sam(form="released"),
}
HEIGHT, WIDTH = 45, 38
SLICES = 3
KEYS = tuple(SliceKey("0" * 64, "axial", 10 + i) for i in range(SLICES))


@pytest.fixture(scope="module", params=MODELS)
def a_model(request: pytest.FixtureRequest) -> Segmenter:
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def words() -> list[Prompt]:
    return parse_prompts("liver, spleen, left kidney, flurbinator")


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """[3, 3, 45, 38], 0..1: three slices with blobs."""
    torch.manual_seed(5)
    blobs = torch.rand(SLICES, 1, 6, 5)
    return (
        torch.nn.functional.interpolate(blobs, size=(HEIGHT, WIDTH), mode="bicubic")
        .clamp(0, 1)
        .repeat(1, 3, 1, 1)
    )


@pytest.fixture(scope="module")
def slices(a_model: Segmenter, pixels: Tensor) -> SliceFeatures:
    return a_model.encode_slices(pixels, KEYS)


@pytest.fixture(scope="module")
def prompts(a_model: Segmenter, words: list[Prompt]) -> PromptFeatures:
    return a_model.encode_prompts(words)


def run(
    model: Segmenter, slices: SliceFeatures, prompts: PromptFeatures, pairs: list[tuple[int, int]]
) -> SegmenterOutput:
    return model(slices, prompts, torch.tensor(pairs))


def maps_of(output: SegmenterOutput) -> dict[str, Tensor]:
    named = {
        "logits": output.logits,
        "presence": output.presence,
        "uncertainty": output.uncertainty,
        "attribution": output.attribution,
    }
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def test_features_have_a_row_per_slice_and_lie_in_frames_of_the_slice(slices: SliceFeatures):
    assert slices.keys == KEYS
    assert slices.tensors
    assert slices.frames
    assert {len(tensor) for tensor in slices.tensors.values()} == {SLICES}
    assert {frame.original for frame in slices.frames.values()} == {(HEIGHT, WIDTH)}


def test_prompt_features_have_a_row_per_word(prompts: PromptFeatures, words: list[Prompt]):
    assert prompts.prompts == tuple(words)
    assert {len(tensor) for tensor in prompts.tensors.values()} == {len(words)}
    assert prompts.known.shape == (len(words),)
    assert prompts.known.dtype == torch.bool


def test_every_map_has_a_row_per_pair_and_all_pairs_are_slice_major(a_model, slices, prompts):
    everything = a_model(slices, prompts)
    named = a_model(slices, prompts, all_pairs(SLICES, len(prompts)))
    for name, tensor in maps_of(everything).items():
        assert len(tensor) == SLICES * len(prompts)
        assert tensor.isfinite().all()
        torch.testing.assert_close(tensor, maps_of(named)[name], rtol=0, atol=0)
        assert tensor.ndim == (
            1 if name == "presence" else 3
        )  # maps may have a grid of their own over the frame's square
    assert everything.frame.original == (HEIGHT, WIDTH)


def test_the_same_question_gets_the_same_answer(a_model, slices, prompts):
    first, second = (run(a_model, slices, prompts, [(0, 1), (2, 0)]) for _ in range(2))
    for name, tensor in maps_of(first).items():
        torch.testing.assert_close(tensor, maps_of(second)[name], rtol=0, atol=0)


def test_a_row_depends_on_its_own_slice_and_word_alone(a_model, pixels, words, slices, prompts):
    """Bit for bit when shape and row stay: other slices and other words around it change nothing."""
    mine = maps_of(run(a_model, slices, prompts, [(1, 1), (0, 0), (2, 2)]))
    strange_pixels = torch.rand_like(pixels)
    strange_pixels[1] = pixels[1]
    strange_words = [words[3], words[1], words[0], words[2]]
    strangers = a_model.encode_slices(strange_pixels, KEYS), a_model.encode_prompts(strange_words)
    other = maps_of(run(a_model, *strangers, [(1, 1), (2, 3), (0, 2)]))
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor[0], other[name][0], rtol=0, atol=0)


def test_pairs_may_come_in_any_order_and_repeat(a_model, slices, prompts):
    plain = maps_of(a_model(slices, prompts))
    pairs = [(2, 3), (0, 0), (2, 3), (1, 2)]
    for name, tensor in maps_of(run(a_model, slices, prompts, pairs)).items():
        expected = plain[name][[index * len(prompts) + word for index, word in pairs]]
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-4)


def test_slices_and_words_may_be_encoded_one_at_a_time(a_model, pixels, words, slices, prompts):
    one_by_one = [a_model.encode_slices(pixels[i : i + 1], KEYS[i : i + 1]) for i in range(SLICES)]
    joined_words = join_prompts([a_model.encode_prompts([word]) for word in words])
    for name, tensor in slices.tensors.items():
        torch.testing.assert_close(
            torch.cat([features.tensors[name] for features in one_by_one]), tensor, rtol=1e-4, atol=1e-4
        )
    for name, tensor in prompts.tensors.items():
        torch.testing.assert_close(joined_words.tensors[name], tensor, rtol=1e-4, atol=1e-4)
    assert joined_words.known.tolist() == prompts.known.tolist()


def test_what_the_cache_keeps_of_slices_is_all_that_a_model_needs(a_model, slices, prompts):
    stored = [store_slice(slices, row) for row in range(SLICES)]
    restored = join_slices(stored, KEYS, a_model.device)
    for name, tensor in maps_of(a_model(slices, prompts)).items():
        torch.testing.assert_close(maps_of(a_model(restored, prompts))[name], tensor, rtol=1e-4, atol=1e-4)


def test_presence_is_a_logit_per_pair_exactly_when_it_is_among_the_capabilities(a_model, slices, prompts):
    logits = a_model.presence(slices, prompts, torch.tensor([(0, 0), (2, 3)]))
    assert (logits is not None) == a_model.capabilities.presence
    if logits is not None:
        assert logits.shape == (2,)
        assert logits.isfinite().all()


def test_attribution_lies_in_0_to_1_and_is_there_exactly_when_it_is_among_the_capabilities(
    a_model, slices, prompts
):
    attribution = a_model(slices, prompts).attribution
    assert (attribution is not None) == a_model.capabilities.attribution
    if attribution is not None:
        assert 0 <= attribution.min() <= attribution.max() <= 1


def test_constant_slices_give_finite_answers(a_model, prompts):
    for value in (0.0, 1.0):
        flat = a_model.encode_slices(torch.full((1, 3, HEIGHT, WIDTH), value), KEYS[:1])
        for tensor in maps_of(a_model(flat, prompts)).values():
            assert tensor.isfinite().all()


def test_a_fingerprint_is_stable_and_follows_the_weights():
    for build in MODELS.values():
        one, same, other = build(), build(), build()
        for parameter in other.parameters():
            parameter.add_(1e-3)
        assert one.fingerprint == same.fingerprint != other.fingerprint


def test_models_that_share_a_fingerprint_keep_the_same_of_a_slice(pixels):
    """Then one may use what the cache keeps for the other."""
    models = [build() for build in MODELS.values()]
    for one, other in combinations(models, 2):
        kept, theirs = (model.encode_slices(pixels, KEYS) for model in (one, other))
        same = kept.frames == theirs.frames and kept.tensors.keys() == theirs.tensors.keys()
        same = same and all(torch.equal(kept.tensors[name], theirs.tensors[name]) for name in kept.tensors)
        assert (one.fingerprint == other.fingerprint) == same
