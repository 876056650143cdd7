"""What a request means, what it is warned about, and what is refused before anything is computed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.support.small_volumes import a_ct, a_volume, organs, segment
from tests.support.stub_segmenters import PromptFreeStub, WordDependentStub, stub_preset

from wordmask.data.volumes import Volume
from wordmask.errors import PromptError, RequestError
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.words.prompts import parse_prompts


@pytest.fixture(scope="module")
def a_volume_with_organs() -> Volume:
    return organs()


# --- windows and air
# --------------------------------------------------------------------------------------------------


def test_slices_of_air_are_skipped_in_ct_unless_asked_for():
    segmenter = PromptFreeStub(stub_preset())
    VolumeSegmenter(segmenter).segment(a_ct(), ["liver"], plane="axial")
    assert segmenter.slices_encoded == 8
    VolumeSegmenter(segmenter).segment(a_ct(), ["liver"], plane="axial", skip_air=False)
    assert segmenter.slices_encoded == 8 + 12


def test_a_ct_that_shows_only_air_gives_an_empty_answer_with_a_reason():
    result = segment(
        PromptFreeStub, a_volume(np.full((4, 20, 20), -1000, dtype=np.int16), modality="CT"), ["liver"]
    )
    assert result.not_found == ["liver"]
    assert not result.labels.any()
    assert any("air" in sentence for sentence in result.warnings)


def test_each_word_of_a_ct_is_seen_in_its_own_window():
    result = segment(PromptFreeStub, a_ct(), ["liver", "lung"])
    assert result.window == {"liver": "soft_tissue", "lung": "lung"}


def test_a_preset_that_knows_fewer_windows_uses_its_first():
    preset = stub_preset(windows=("soft_tissue",), unknown_words="segment")
    assert segment(PromptFreeStub, a_ct(), ["lung"], preset=preset).window == {"lung": "soft_tissue"}


def test_a_window_that_was_asked_for_is_used_for_all_words_with_a_warning_when_the_preset_does_not_know_it():
    result = segment(
        PromptFreeStub, a_ct(), ["liver", "lung"], window="bone", preset=stub_preset(windows=("soft_tissue",))
    )
    assert result.window == {"liver": "bone", "lung": "bone"}
    assert any("'bone'" in sentence and "soft_tissue" in sentence for sentence in result.warnings)


def test_a_window_for_an_image_that_is_no_ct_is_answered_with_a_warning(a_volume_with_organs):
    result = segment(PromptFreeStub, a_volume_with_organs, ["liver"], window="lung")
    assert result.window == {"liver": "percentiles"}
    assert any("windows are for CT" in sentence for sentence in result.warnings)


# --- warnings
# --------------------------------------------------------------------------------------------------


def test_what_the_file_leaves_open_is_said_with_the_result(a_volume_with_organs):
    volume = replace(a_volume_with_organs, warnings=("scan.nii does not say how it lies in the patient.",))
    assert volume.warnings[0] in segment(PromptFreeStub, volume, ["liver"]).warnings
    assert not segment(PromptFreeStub, a_volume_with_organs, ["liver"]).warnings


def test_a_word_outside_the_vocabulary_is_marked_with_a_warning(a_volume_with_organs):
    result = segment(WordDependentStub, a_volume_with_organs, ["flurbinator"])
    assert any("'flurbinator' is not in the vocabulary" in sentence for sentence in result.warnings)


def test_a_word_of_another_modality_is_marked_with_a_warning():
    result = segment(WordDependentStub, a_ct(), ["skin lesion"])
    assert any(
        "'skin lesion' is usually looked for in" in sentence and "CT" in sentence
        for sentence in result.warnings
    )


# --- wrong requests
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [-0.1, 1.01, math.nan, math.inf, "0.5", True])
def test_a_threshold_that_is_no_probability_is_refused(threshold, a_volume_with_organs):
    with pytest.raises(RequestError, match="between 0 and 1"):
        segment(PromptFreeStub, a_volume_with_organs, threshold=threshold)


@pytest.mark.parametrize("slices", [(-1, 3), (5, 4), (0, 23), (0, 1, 2), (0.0, 2.0)])
def test_slices_that_the_volume_does_not_have_are_refused(slices, a_volume_with_organs):
    with pytest.raises(RequestError, match=r"[Ss]lices"):
        segment(PromptFreeStub, a_volume_with_organs, slices=slices)


def test_an_unknown_plane_or_window_is_refused_with_the_nearest_right_one(a_volume_with_organs):
    with pytest.raises(RequestError, match="axial"):
        segment(PromptFreeStub, a_volume_with_organs, plane="axail")
    with pytest.raises(RequestError, match="Did you mean 'soft_tissue'"):
        segment(PromptFreeStub, a_volume_with_organs, window="soft_tisue")


def test_an_output_that_does_not_exist_or_that_the_model_does_not_give_is_refused(a_volume_with_organs):
    with pytest.raises(RequestError, match="Did you mean 'probability'"):
        segment(PromptFreeStub, a_volume_with_organs, keep=("probabilty",))
    with pytest.raises(RequestError, match="no attribution"):
        segment(WordDependentStub, a_volume_with_organs, keep=("attribution",))


def test_prompts_made_before_are_taken_as_they_are_but_not_twice(a_volume_with_organs):
    prompts = parse_prompts("liver, spleen")
    made_before, typed = (
        segment(PromptFreeStub, a_volume_with_organs, words) for words in (prompts, "liver, spleen")
    )
    assert made_before.prompts == typed.prompts == tuple(prompts)
    np.testing.assert_array_equal(made_before.labels, typed.labels)
    with pytest.raises(PromptError, match="twice"):
        segment(PromptFreeStub, a_volume_with_organs, [*prompts, prompts[0]])
    with pytest.raises(PromptError, match="one or the other"):
        segment(PromptFreeStub, a_volume_with_organs, [prompts[0], "spleen"])
    with pytest.raises(PromptError):
        segment(PromptFreeStub, a_volume_with_organs, [])
