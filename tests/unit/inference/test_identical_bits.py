"""No result depends on the batch, the chunk, the cache, or what else was asked for."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tests.support.small_volumes import WORDS, a_volume, assert_identical, segment
from tests.support.stub_segmenters import LEVELS, PromptFreeStub, WordDependentStub, random_tiny, stub_preset

from wordmask.inference.cache import FeatureCache
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.result import Segmentation

STUBS = (PromptFreeStub, WordDependentStub)


@pytest.mark.parametrize("stub", STUBS)
def test_chunks_of_1_7_and_64_slices_give_identical_bits(stub, a_volume_with_organs):
    keep = ("labels", "probability", "uncertainty")
    one, seven, many = (segment(stub, a_volume_with_organs, chunk=chunk, keep=keep) for chunk in (1, 7, 64))
    assert one.labels.any()
    assert_identical(one, seven)
    assert_identical(one, many)


@pytest.mark.parametrize("stub", STUBS)
def test_cold_warm_and_disk_cache_give_identical_bits(stub, a_volume_with_organs, tmp_path):
    asked = {"keep": ("labels", "probability")}
    cold = segment(stub, a_volume_with_organs, **asked)
    without_room = segment(stub, a_volume_with_organs, cache=FeatureCache(0), **asked)
    cache = FeatureCache(1 << 28, directory=tmp_path)
    first = segment(stub, a_volume_with_organs, cache=cache, **asked)
    warm = segment(stub, a_volume_with_organs, cache=cache, **asked)
    disk_cache = FeatureCache(1 << 28, directory=tmp_path)
    from_disk = segment(stub, a_volume_with_organs, cache=disk_cache, **asked)
    assert disk_cache.misses == 0
    for other in (without_room, first, warm, from_disk):
        assert_identical(cold, other)


@pytest.mark.parametrize("stub", STUBS)
def test_a_words_probabilities_do_not_depend_on_other_words_or_slices(stub, a_volume_with_organs):
    keep = ("labels", "probability")
    alone = segment(stub, a_volume_with_organs, ["spleen"], keep=keep).maps["probability"]["spleen"]
    company = segment(stub, a_volume_with_organs, ["liver", "kidney", "polyp", "spleen"], keep=keep).maps[
        "probability"
    ]["spleen"]
    part = segment(stub, a_volume_with_organs, ["spleen"], keep=keep, slices=(9, 17)).maps["probability"][
        "spleen"
    ]
    np.testing.assert_array_equal(alone, company)
    np.testing.assert_array_equal(alone[9:18], part[9:18])


def test_the_real_model_with_its_bottleneck_gives_identical_bits_for_every_chunk_and_company():
    array = (
        np.random.default_rng(2)
        .uniform(0, 100, (9, 8, 7))
        .repeat(5, axis=1)
        .repeat(5, axis=2)
        .astype(np.float32)
    )
    volume, keep = a_volume(array), ("labels", "probability", "attribution")
    model = random_tiny()
    answers = [
        VolumeSegmenter(model, chunk=chunk).segment(volume, words, plane="axial", keep=keep).maps
        for chunk, words in ((1, "spleen"), (7, "liver, spleen"), (64, "spleen"))
    ]
    for maps in answers[1:]:
        for name in keep[1:]:
            np.testing.assert_array_equal(maps[name]["spleen"], answers[0][name]["spleen"])


def test_cached_slices_partly_there_change_nothing(a_volume_with_organs):
    cache = FeatureCache(1 << 28)
    segment(PromptFreeStub, a_volume_with_organs, ["liver"], slices=(6, 10), cache=cache)
    mixed = segment(PromptFreeStub, a_volume_with_organs, cache=cache, keep=("probability",))
    assert_identical(mixed, segment(PromptFreeStub, a_volume_with_organs, keep=("probability",)))


@pytest.mark.parametrize("stub", STUBS)
def test_every_batch_that_a_model_sees_has_its_presets_size(stub, a_volume_with_organs):
    segmenter = stub(stub_preset(slice_batch=3, pair_batch=5))
    VolumeSegmenter(segmenter, chunk=7).segment(a_volume_with_organs, WORDS, plane="axial")
    assert set(segmenter.batches) <= {("slices", 3), ("pairs", 5), ("presence", 3), ("presence", 5)}
    assert {kind for kind, _ in segmenter.batches} >= {"slices", "pairs"}


def test_a_picture_is_not_computed_many_times_to_fill_a_batch():
    segmenter = PromptFreeStub(stub_preset())
    picture = np.full((1, 40, 60, 3), round(LEVELS["polyp"] * 255), dtype=np.uint8)
    VolumeSegmenter(segmenter).segment(a_volume(picture, modality="picture"), ["polyp", "skin lesion"])
    assert {rows for _, rows in segmenter.batches} == {1}


def test_two_requests_at_the_same_time_do_not_mix(a_volume_with_organs):
    segmenter = VolumeSegmenter(PromptFreeStub(stub_preset()))
    results: dict[str, Segmentation] = {}

    def ask(word: str) -> None:
        results[word] = segmenter.segment(a_volume_with_organs, [word], plane="axial")

    threads = [threading.Thread(target=ask, args=(word,)) for word in ("liver", "spleen")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for word in ("liver", "spleen"):
        assert_identical(results[word], segment(PromptFreeStub, a_volume_with_organs, [word]))


def test_a_second_word_encodes_no_slice_again(a_volume_with_organs):
    segmenter = PromptFreeStub(stub_preset())
    volumes = VolumeSegmenter(segmenter)
    volumes.segment(a_volume_with_organs, ["liver"], plane="axial")
    assert segmenter.slices_encoded == len(a_volume_with_organs.array)
    volumes.segment(a_volume_with_organs, ["spleen"], plane="axial")
    assert segmenter.slices_encoded == len(a_volume_with_organs.array)


def test_other_weights_other_planes_and_other_voxels_share_no_features(a_volume_with_organs):
    cache = FeatureCache(1 << 28)
    segment(PromptFreeStub, a_volume_with_organs, ["liver"], cache=cache)
    assert cache.misses == 23
    VolumeSegmenter(PromptFreeStub(stub_preset(), seed=1), cache=cache).segment(
        a_volume_with_organs, ["liver"], plane="axial"
    )
    assert cache.misses == 2 * 23
    segment(PromptFreeStub, a_volume_with_organs, ["liver"], cache=cache, plane="coronal")
    assert cache.misses == 2 * 23 + 46
    segment(PromptFreeStub, a_volume(a_volume_with_organs.array + 1), ["liver"], cache=cache)
    assert cache.misses == 3 * 23 + 46
