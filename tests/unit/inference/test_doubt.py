import math

import numpy as np
import pytest
from tests.support.small_volumes import segment
from tests.support.stub_segmenters import PromptFreeStub, WordDependentStub

from wordmask.data.geometry import Plane, slicing_for
from wordmask.inference.doubt import UNSURE, doubtful_pixels, worth_a_look
from wordmask.inference.overlaps import binary_entropy


def test_a_pixel_counts_at_least_as_much_as_it_is_likely_to_be_wrong():
    probability = np.linspace(0.06, 0.94, 23, dtype=np.float32)
    for one in probability:
        doubt = doubtful_pixels(np.array([[one]]), None)
        assert min(one, 1 - one) <= doubt + 1e-6 <= 0.5 + 2e-6


def test_pixels_that_the_model_is_sure_of_do_not_count():
    probability = np.full((512, 512), 0.01, dtype=np.float32)
    assert doubtful_pixels(probability, None) == 0
    probability[0, :10] = 0.5
    assert doubtful_pixels(probability, None) == pytest.approx(5)


def test_the_models_own_uncertainty_is_taken_where_there_is_one():
    probability = np.full((4, 4), 0.5, dtype=np.float32)
    own = np.full((4, 4), UNSURE / 2, dtype=np.float32)
    own[0, 0] = math.log(2)
    assert doubtful_pixels(probability, own) == pytest.approx(0.5)
    nats = binary_entropy(probability)
    assert doubtful_pixels(probability, nats) == doubtful_pixels(probability, None)


def test_slices_come_by_doubt_and_only_if_a_larger_part_of_their_mask_may_be_wrong():
    areas = {1: 100, 2: 400, 3: 100, 5: 10}
    doubt = {0: 30.0, 1: 50.0, 2: 60.0, 3: 10.0, 4: 2.0, 5: 15.0, 6: 50.0}
    # 2: 60 of 460 is a small part; 3: likewise; 4: fewer than a twentieth of the largest mask
    assert worth_a_look(doubt, areas) == (1, 6, 0)
    assert worth_a_look({0: 0.4}, {}) == ()
    assert worth_a_look({}, {1: 5}) == ()


@pytest.mark.parametrize("stub", [PromptFreeStub, WordDependentStub])
def test_a_result_lists_the_slices_to_check_of_each_word_along_its_plane(stub, a_volume_with_organs):
    keep = ("labels", "probability", "uncertainty")
    result = segment(stub, a_volume_with_organs, ["liver", "spleen"], plane="coronal", keep=keep)
    assert result.slices == a_volume_with_organs.array.shape[1] == result.summary()["slices"]
    cut = slicing_for(result.geometry, Plane.CORONAL).cut
    for word, statistics in result.statistics.items():
        maps = zip(*(cut(result.maps[name][word]) for name in keep[1:]), strict=True)
        doubt = {index: doubtful_pixels(*pair) for index, pair in enumerate(maps)}
        areas = {index: int(mask.sum()) for index, mask in enumerate(cut(result.mask(word))) if mask.any()}
        assert statistics.slices_to_check == worth_a_look(doubt, areas)


def test_a_word_that_is_said_to_be_absent_has_no_slices_to_check(a_volume_with_organs):
    result = segment(PromptFreeStub, a_volume_with_organs, ["bladder"])
    assert result.not_found == ["bladder"]
    assert result.statistics["bladder"].slices_to_check == ()
