"""The ensemble that draws: its vote, its uncertainty, its words, and cards that cannot be used."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.support.stub_segmenters import WEAK_PLAN, WEAK_WORDS, random_medclip_samv2_weak
from tests.support.weak_images import draw_image

from wordmask.environment.packages import BrokenEnvironmentError
from wordmask.errors import RequestError, UntrainedError, WeightsError
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.models.base import Hints, SliceKey
from wordmask.models.loading import load_segmenter
from wordmask.models.medclip_samv2_weak import network as nnunet_network
from wordmask.models.medclip_samv2_weak.model import MedCLIPSAMv2Weak, entropy
from wordmask.models.registry import load_preset
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import Checkpoint, save_checkpoint
from wordmask.words.prompts import parse_prompts

MODEL = "medclip_samv2_weak"
KEYS = [SliceKey("0" * 64, "axial", number) for number in range(2)]


@pytest.fixture(scope="module")
def a_model() -> MedCLIPSAMv2Weak:
    return random_medclip_samv2_weak()


@pytest.fixture(scope="module")
def a_checkpoint(a_model) -> Checkpoint:
    card = Card(
        words=tuple(a_model.words), side=a_model.side, members=len(a_model.ensemble.members), threshold=0.2,
        network=WEAK_PLAN.model_dump(mode="json"),
    )  # fmt: skip
    return Checkpoint("weak", dict(a_model.ensemble.named_parameters()), card)


def test_entropy_is_that_of_a_coin_in_nats_and_0_at_both_ends():
    found = entropy(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])).tolist()
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found == pytest.approx([0.0, quarter, math.log(2), quarter, 0.0])
    assert (found[0], found[-1]) == (0.0, 0.0)


def test_the_ensemble_gives_the_mean_of_its_members_run_one_by_one(a_model):
    slices = torch.rand(2, 3, 30, 24)
    features = a_model.encode_slices(slices, KEYS)
    pixels = features.frames["square"].to_model(slices)
    alone = torch.stack([member(pixels).softmax(1)[:, 1:] for member in a_model.ensemble.members])
    assert len(alone) == 3
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    torch.testing.assert_close(features.tensors["foreground"], alone.mean(0), rtol=1e-5, atol=1e-6)
    output = a_model(
        features, a_model.encode_prompts(parse_prompts("hepar, spleen"))
    )  # synonyms are the word
    torch.testing.assert_close(output.logits.sigmoid(), alone.mean(0).flatten(0, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.uncertainty, entropy(alone.mean(0)).flatten(0, 1), rtol=1e-4, atol=1e-5)


def test_a_word_without_a_channel_is_unknown_nowhere_and_refused_with_the_list(a_model, tmp_path):
    prompts = a_model.encode_prompts(parse_prompts("liver, polyp"))
    assert prompts.known.tolist() == [True, False]
    output = a_model(
        a_model.encode_slices(torch.rand(1, 3, 20, 20), KEYS[:1]), prompts, torch.tensor([[0, 1]])
    )
    assert output.logits.max() < -10
    assert output.uncertainty.abs().max() == 0
    result = VolumeSegmenter(a_model).segment(draw_image(tmp_path / "images", 1).read(), ["polyp"])
    assert result.not_found == ["polyp"]
    (sentence,) = result.warnings
    assert sentence == (
        "The preset 'tiny' was not trained on 'polyp', so nothing was marked; it knows liver, spleen. "
        "Train it on that word, or ask medclip_samv2."
    )


def test_what_is_saved_is_what_is_loaded(a_model, a_checkpoint, tmp_path):
    save_checkpoint(tmp_path / "version", a_checkpoint.tensors, a_checkpoint.card)
    loaded = load_segmenter(MODEL, device="cpu", weights=tmp_path / "version")
    slices = torch.rand(2, 3, 40, 33)
    for name, tensor in a_model.encode_slices(slices, KEYS).tensors.items():
        torch.testing.assert_close(loaded.encode_slices(slices, KEYS).tensors[name], tensor, rtol=0, atol=0)
    assert loaded.fingerprint == a_model.fingerprint
    assert loaded.preset.threshold == 0.2
    assert loaded.trained_words == frozenset(WEAK_WORDS)


@pytest.mark.parametrize("preset", ["tiny", "biomedclip_vit_b", "biomedclip_vit_h"])
def test_before_a_training_it_says_how_to_train(preset):
    with pytest.raises(
        UntrainedError, match=f"wordmask train IMAGES --model medclip_samv2_weak --words .* --preset {preset}"
    ):
        load_segmenter(MODEL, preset=preset, device="cpu")


@pytest.mark.parametrize(("change", "sentence"), [
    ({"network": None}, "do not say which network"),
    ({"network": {"network_class": "os.system"}}, "do not say which network"),
    ({"side": None}, "lacks side, members or threshold"),
    ({"members": None}, "lacks side, members or threshold"),
    ({"members": 2}, "do not fit the network"),
    ({"words": ("liver",)}, "2 channels for 1 words"),
])  # fmt: skip
def test_a_card_that_does_not_belong_to_the_weights_is_refused(a_checkpoint, change, sentence):
    with pytest.raises(WeightsError, match=sentence):
        MedCLIPSAMv2Weak.from_checkpoint(
            load_preset(MODEL, "tiny"),
            replace(a_checkpoint, card=a_checkpoint.card.model_copy(update=change)),
        )


@pytest.mark.parametrize("change", [
    {"network_class": "subprocess.Popen"},
    {"arguments": {**WEAK_PLAN.arguments, "nonlin": "os.system"}},
])  # fmt: skip
def test_a_card_cannot_call_what_is_no_network(a_checkpoint, change):
    card = a_checkpoint.card.model_copy(update={"network": {**a_checkpoint.card.network, **change}})
    with pytest.raises(WeightsError, match="not part of nnU-Net"):
        MedCLIPSAMv2Weak.from_checkpoint(load_preset(MODEL, "tiny"), replace(a_checkpoint, card=card))


def test_hints_are_refused(a_model):
    features = a_model.encode_slices(torch.rand(1, 3, 20, 20), KEYS[:1])
    with pytest.raises(RequestError, match="takes words only, not points"):
        a_model(
            features,
            a_model.encode_prompts(parse_prompts("liver")),
            hints=Hints(points=((0, 1.0, 1.0, True),)),
        )


def test_without_nnunet_it_says_what_to_install(a_checkpoint, monkeypatch):
    monkeypatch.setattr(nnunet_network.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BrokenEnvironmentError, match=r'pip install "wordmask\[nnunet\]"'):
        MedCLIPSAMv2Weak.from_checkpoint(load_preset(MODEL, "tiny"), a_checkpoint)
