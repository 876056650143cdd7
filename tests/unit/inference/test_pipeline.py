"""Words and a volume in, a label map in the volume's own geometry out: for both kinds of model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.small_volumes import WORDS, a_volume, assert_identical, segment
from tests.support.stub_segmenters import LEVELS, PromptFreeStub, WordDependentStub, stub_preset

from wordmask.errors import CancelledError
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.models.presets import PresencePreset
from wordmask.progress import CancelToken, Progress

STUBS = (PromptFreeStub, WordDependentStub)


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
