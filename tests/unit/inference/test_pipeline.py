"""Words and a volume in, a label map in the volume's own geometry out: for both kinds of model."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from tests.support.small_volumes import GREY, WORDS, a_volume, organs, segment
from tests.support.stub_segmenters import LEVELS, PromptFreeStub, WordDependentStub, random_tiny, stub_preset

from wordmask.data.volumes import Volume
from wordmask.errors import CancelledError
from wordmask.inference.cache import FeatureCache
from wordmask.inference.pipeline import CancelToken, Progress, Segmentation, VolumeSegmenter
from wordmask.models.base import Capabilities
from wordmask.models.presets import PresencePreset

STUBS = (PromptFreeStub, WordDependentStub)


@pytest.fixture(scope="module")
def a_volume_with_organs() -> Volume:
    return organs()


def assert_identical(one: Segmentation, other: Segmentation) -> None:
    """To the last bit: labels, maps and statistics."""
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.statistics == other.statistics
    assert (one.not_found, one.warnings, one.window) == (other.not_found, other.warnings, other.window)
    for name in one.maps:
        for word in one.maps[name]:
            np.testing.assert_array_equal(one.maps[name][word], other.maps[name][word])


# --- what is marked
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stub", STUBS)
def test_each_word_is_marked_where_its_thing_is(stub, a_volume_with_organs):
    result = segment(stub, a_volume_with_organs, ["liver", "spleen"])
    assert result.names == {"liver": 1, "spleen": 2}
    assert result.labels.shape == a_volume_with_organs.array.shape
    assert result.labels.dtype == np.uint8
    assert (result.labels[4:14, 8:22, 7:17] == 1).all()
    assert (result.labels[9:19, 31:39, 21:30] == 2).all()
    assert not result.labels[:3].any()
    assert not result.labels[20:].any()


@pytest.mark.parametrize("stub", STUBS)
def test_statistics_say_how_much_and_how_sure(stub, a_volume_with_organs):
    result = segment(stub, a_volume_with_organs, ["liver"], keep=("labels", "probability", "uncertainty"))
    liver, mask = result.statistics["liver"], result.mask("liver")
    assert liver.voxels == mask.sum()
    assert liver.millilitres == pytest.approx(mask.sum() * 6 / 1000)
    assert liver.mean_probability == pytest.approx(result.maps["probability"]["liver"][mask].mean(), rel=1e-5)
    assert liver.mean_uncertainty == pytest.approx(result.maps["uncertainty"]["liver"][mask].mean(), rel=1e-5)
    assert liver.largest_slice == np.argmax(mask.sum(axis=(1, 2)))
    assert 0.5 < liver.presence <= 1


def test_uncertainty_is_the_entropy_of_the_probability_unless_the_model_has_its_own(a_volume_with_organs):
    keep = ("labels", "probability", "uncertainty")
    plain = segment(PromptFreeStub, a_volume_with_organs, ["liver"], keep=keep).maps
    p = plain["probability"]["liver"][5].astype(np.float64)
    inside = (p > 1e-6) & (p < 1 - 1e-6)
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))[inside]
    np.testing.assert_allclose(plain["uncertainty"]["liver"][5][inside], entropy, atol=1e-5)
    own = segment(WordDependentStub, a_volume_with_organs, ["liver"], keep=keep).maps
    assert own["uncertainty"]["liver"].max() <= 0.5  # the stub's own scale ends there, entropy at ln 2
    assert own["uncertainty"]["liver"].max() > 0.1


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("stub", STUBS)
def test_every_plane_gives_labels_in_the_volumes_own_axes(stub, plane, a_volume_with_organs):
    result = segment(stub, a_volume_with_organs, ["liver"], plane=plane)
    assert result.plane == plane
    assert result.geometry == a_volume_with_organs.geometry
    truth = np.zeros(result.labels.shape, dtype=bool)
    truth[3:15, 5:25, 4:20] = True
    assert 2 * (result.mask("liver") & truth).sum() / (result.mask("liver").sum() + truth.sum()) > 0.8


def test_a_picture_is_one_slice_and_has_no_millilitres():
    picture = np.full((1, 40, 60, 3), 20, dtype=np.uint8)
    picture[0, 10:30, 20:50] = round(LEVELS["polyp"] * 255)
    result = segment(PromptFreeStub, a_volume(picture, modality="picture"), "polyp", plane="auto")
    assert result.labels.shape == (1, 40, 60)
    assert result.labels[0, 14:26, 24:46].all()
    assert result.statistics["polyp"].millilitres is None
    assert result.statistics["polyp"].largest_slice == 0


def test_only_the_slices_that_were_asked_for_are_computed(a_volume_with_organs):
    segmenter = PromptFreeStub(stub_preset())
    part = VolumeSegmenter(segmenter, clean=False).segment(
        a_volume_with_organs, ["liver"], plane="axial", slices=(5, 6)
    )
    whole = segment(PromptFreeStub, a_volume_with_organs, ["liver"], clean=False)
    np.testing.assert_array_equal(part.labels[5:7], whole.labels[5:7])
    assert not part.labels[:5].any()
    assert not part.labels[7:].any()
    assert segmenter.slices_encoded == 2


def test_maps_are_kept_only_when_asked_for(a_volume_with_organs):
    assert segment(PromptFreeStub, a_volume_with_organs, ["liver"]).maps == {}
    maps = segment(PromptFreeStub, a_volume_with_organs, ["liver"], keep=("attribution",)).maps
    assert set(maps) == {"attribution"}
    attribution = maps["attribution"]["liver"]
    assert attribution.dtype == np.float32
    assert 0 <= attribution.min() <= attribution.max() <= 1
    assert attribution[8, 10:20, 8:16].mean() > attribution[8, 30:40, 20:30].mean() + 0.2


# --- nothing depends on the batch
# -------------------------------------------------------------------------------------------------


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


# --- the cache
# --------------------------------------------------------------------------------------------------


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


# --- absent, unknown and overlapping words
# ----------------------------------------------------------------------------------------


def test_an_absent_word_gives_an_empty_mask_and_one_sentence(a_volume_with_organs):
    result = segment(PromptFreeStub, a_volume_with_organs, ["liver", "polyp"], keep=("labels", "probability"))
    assert result.not_found == ["polyp"]
    assert not (result.labels == 2).any()
    (sentence,) = [sentence for sentence in result.warnings if "Nothing was marked for 'polyp'" in sentence]
    assert "does not seem to be in this image" in sentence
    polyp = result.statistics["polyp"]
    assert (polyp.voxels, polyp.millilitres, polyp.mean_probability, polyp.largest_slice) == (
        0,
        0.0,
        None,
        None,
    )
    assert polyp.presence < 0.5
    assert not result.maps["probability"]["polyp"].any()


def test_a_word_may_need_more_presence_than_others(a_volume_with_organs):
    preset = stub_preset(presence=PresencePreset(words={"spleen": 1e6}))
    assert segment(PromptFreeStub, a_volume_with_organs, ["liver", "spleen"], preset=preset).not_found == [
        "spleen"
    ]


def test_slices_without_the_thing_are_not_segmented(a_volume_with_organs):
    segmenter = PromptFreeStub(stub_preset(pair_batch=1, slice_batch=1))
    VolumeSegmenter(segmenter).segment(a_volume_with_organs, ["liver"], plane="axial")
    assert segmenter.batches.count(("pairs", 1)) == 12
    segmenter = PromptFreeStub(stub_preset(pair_batch=1, slice_batch=1, presence=None))
    VolumeSegmenter(segmenter).segment(a_volume_with_organs, ["liver"], plane="axial")
    assert segmenter.batches.count(("pairs", 1)) == 23


def test_a_model_that_tells_presence_only_with_the_mask_is_judged_afterwards(a_volume_with_organs):
    class Late(PromptFreeStub):
        capabilities = Capabilities()

    late = segment(Late, a_volume_with_organs, ["liver", "polyp"])
    early = segment(PromptFreeStub, a_volume_with_organs, ["liver", "polyp"])
    assert late.not_found == early.not_found == ["polyp"]
    assert late.statistics["liver"].presence == pytest.approx(early.statistics["liver"].presence)


def test_a_word_of_which_only_a_spot_is_found_is_dropped(a_volume_with_organs):
    preset = stub_preset(presence=PresencePreset(minimum_area=0.5))
    result = segment(PromptFreeStub, a_volume_with_organs, ["liver"], preset=preset)
    assert result.not_found == ["liver"]
    assert any("too little" in sentence for sentence in result.warnings)


def test_a_word_that_the_preset_was_not_trained_on_is_refused_or_marked_with_a_warning(a_volume_with_organs):
    refused = segment(
        WordDependentStub,
        a_volume_with_organs,
        ["liver", "gallbladder"],
        preset=stub_preset(unknown_words="refuse"),
    )
    assert refused.not_found == ["gallbladder"]
    assert refused.statistics["gallbladder"].presence == 0
    (sentence,) = [sentence for sentence in refused.warnings if "gallbladder" in sentence]
    assert sentence.startswith("The preset 'tiny' was not trained on 'gallbladder', so nothing was marked")
    marked = segment(
        WordDependentStub, a_volume_with_organs, ["gallbladder"], preset=stub_preset(unknown_words="segment")
    )
    assert any("was not trained on 'gallbladder'" in sentence for sentence in marked.warnings)
    assert marked.statistics["gallbladder"].presence > 0


def test_a_refused_word_costs_no_computation(a_volume_with_organs):
    segmenter = PromptFreeStub(stub_preset(unknown_words="refuse"))
    VolumeSegmenter(segmenter).segment(a_volume_with_organs, ["gallbladder"], plane="axial")
    assert segmenter.batches == []


def test_labels_of_many_words_are_the_overlap_of_each_words_own_mask(a_volume_with_organs):
    words = ["liver", "kidney", "spleen"]
    keep = ("labels", "probability")
    together = segment(WordDependentStub, a_volume_with_organs, words, threshold=0.1)
    alone = [
        segment(WordDependentStub, a_volume_with_organs, [word], threshold=0.1, keep=keep) for word in words
    ]
    claims = np.stack(
        [
            np.where(one.mask(word), one.maps["probability"][word], 0)
            for one, word in zip(alone, words, strict=True)
        ]
    )
    expected = np.where(claims.max(axis=0) > 0, claims.argmax(axis=0) + 1, 0)
    assert (np.count_nonzero(claims, axis=0) > 1).any()
    np.testing.assert_array_equal(together.labels, expected)


def test_the_order_of_the_words_does_not_change_who_wins(a_volume_with_organs):
    forward = segment(WordDependentStub, a_volume_with_organs, WORDS)
    backward = segment(WordDependentStub, a_volume_with_organs, WORDS[::-1])
    for word in WORDS:
        np.testing.assert_array_equal(forward.mask(word), backward.mask(word))


def test_specks_are_dropped_unless_switched_off_or_only_a_part_is_asked_for():
    array = np.random.default_rng(0).uniform(0, 10, (14, 40, 40))
    array[13, :20], array[13, 20:] = GREY, 0
    array[2:11, 5:30, 5:30] = LEVELS["liver"] * GREY
    array[5, 34:38, 34:38] = LEVELS["liver"] * GREY
    volume = a_volume(array.astype(np.float32))
    corner = (slice(5, 6), slice(32, 40), slice(32, 40))
    assert segment(PromptFreeStub, volume, ["liver"], clean=False).labels[corner].any()
    assert not segment(PromptFreeStub, volume, ["liver"]).labels[corner].any()
    assert segment(PromptFreeStub, volume, ["liver"], slices=(4, 6)).labels[corner].any()


def test_a_higher_threshold_marks_less(a_volume_with_organs):
    low, middle, high = (
        segment(WordDependentStub, a_volume_with_organs, ["liver"], threshold=threshold)
        .statistics["liver"]
        .voxels
        for threshold in (0.1, 0.5, 0.8)
    )
    assert low > middle > high > 0
    nothing = segment(WordDependentStub, a_volume_with_organs, ["liver"], threshold=1)
    assert nothing.not_found == ["liver"]
    assert any("above the threshold of 1" in sentence for sentence in nothing.warnings)


# --- progress and cancelling
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stub", STUBS)
def test_progress_rises_from_0_to_the_total(stub, a_volume_with_organs):
    seen: list[Progress] = []
    segment(stub, a_volume_with_organs, chunk=5, progress=seen.append)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == seen[-1].total
    assert {progress.total for progress in seen} == {seen[0].total}
    assert {progress.words for progress in seen} == {3}
    assert len(set(done)) > 5


def test_a_cancelled_request_stops_between_two_batches(a_volume_with_organs):
    segmenter = PromptFreeStub(stub_preset())
    token = CancelToken()

    def stop_soon(progress: Progress) -> None:
        if progress.done >= 4:
            token.cancel()

    volumes = VolumeSegmenter(segmenter, chunk=64)
    with pytest.raises(CancelledError, match="cancelled"):
        volumes.segment(a_volume_with_organs, WORDS, plane="axial", progress=stop_soon, cancel=token)
    assert token.cancelled
    assert segmenter.slices_encoded <= 12
    again = volumes.segment(a_volume_with_organs, WORDS, plane="axial", cancel=CancelToken())
    assert_identical(again, segment(PromptFreeStub, a_volume_with_organs))


# --- chunks and gradients
# --------------------------------------------------------------------------------------------------


def test_a_chunk_without_a_slice_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        VolumeSegmenter(PromptFreeStub(stub_preset()), chunk=0)


def test_segmenting_leaves_the_callers_gradients_on(a_volume_with_organs):
    segment(PromptFreeStub, a_volume_with_organs, ["liver"])
    assert torch.is_grad_enabled()


def test_a_word_whose_presence_cannot_be_judged_is_looked_for_in_every_slice_and_goes_by_its_mask(
    a_volume_with_organs,
):
    class Strict(PromptFreeStub):
        def judges_presence(self, prompt):
            return prompt.word not in self.learned

    model = Strict(stub_preset(presence=PresencePreset(slice_logit=1e9, volume_logit=1e9)))
    model.learned = ()
    assert VolumeSegmenter(model).segment(a_volume_with_organs, ["liver", "spleen"]).not_found == [
        "liver",
        "spleen",
    ]
    model.learned = ("spleen",)
    result = VolumeSegmenter(model).segment(a_volume_with_organs, ["liver", "spleen"], keep=("probability",))
    assert result.not_found == ["liver"]
    assert result.statistics["spleen"].presence == pytest.approx(
        result.maps["probability"]["spleen"].max(), abs=1e-5
    )
    assert (
        VolumeSegmenter(model).segment(a_volume_with_organs, ["spleen"]).statistics["spleen"]
        == result.statistics["spleen"]
    )
