"""Simple-ViLMedSAM as a whole, small and with random weights.

What a pair's result may depend on, and what is refused.
"""

import pytest
import torch
from tests.support.published_decoder import under_published_names

from wordmask.encoders.clip import build_tiny_clip
from wordmask.encoders.lora import add_lora, lora_state_dict
from wordmask.encoders.sam import build_tiny_sam
from wordmask.encoders.tiny_tokenizer import TinyTokenizer
from wordmask.errors import RequestError, UnknownModelError, WeightsError
from wordmask.models.base import Hints, SliceKey
from wordmask.models.loading import load_segmenter
from wordmask.models.registry import load_preset, preset_names
from wordmask.models.simple_vilmedsam.model import SimpleViLMedSAM
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import save_checkpoint
from wordmask.words.prompts import parse_prompts

TINY = load_preset("simple_vilmedsam", "tiny")


def random_model(prior="similarity", word_token=True, trained_words=("liver", "spleen")):
    torch.manual_seed(0)
    preset = TINY.model_copy(
        update={"decoder": TINY.decoder.model_copy(update={"prior": prior, "word_token": word_token})}
    )
    ids = TinyTokenizer.for_texts(
        ["liver", "spleen", "polyp"], TINY.clip.architecture.context_length
    ).token_ids
    clip, sam = build_tiny_clip(TINY.clip.architecture, ids), build_tiny_sam(TINY.sam.architecture)
    model = SimpleViLMedSAM(preset, clip, sam, trained_words=trained_words)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def two_slices():
    slices = torch.rand(2, 3, 60, 80, generator=torch.Generator().manual_seed(1))
    return slices, [SliceKey("volume", "axial", index) for index in range(2)]


@pytest.mark.parametrize("prior", ["m2ib", "similarity", "both"])
@pytest.mark.parametrize("word_token", [True, False])
@torch.no_grad()
def test_every_variant_gives_one_row_per_pair(prior, word_token, two_slices):
    model = random_model(prior, word_token)
    features, words = model.encode_slices(*two_slices), model.encode_prompts(parse_prompts("liver, spleen"))
    output = model(features, words)
    assert output.logits.shape == (4, 80, 80)
    assert output.presence.shape == (4,)
    assert output.attribution.shape == (4, 20, 20)
    assert output.attribution.min() >= 0
    assert output.attribution.max() <= 1
    assert output.logits.isfinite().all()


@pytest.mark.parametrize("prior", ["m2ib", "similarity"])
@torch.no_grad()
def test_a_pair_depends_on_its_own_slice_and_word_alone(prior, two_slices):
    model = random_model(prior)
    slices, keys = two_slices
    words = model.encode_prompts(parse_prompts("liver, spleen"))
    together = model(model.encode_slices(slices, keys), words).logits
    alone = model(
        model.encode_slices(slices[1:], keys[1:]), model.encode_prompts(parse_prompts("spleen"))
    ).logits
    torch.testing.assert_close(together[3], alone[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_noise_belongs_to_the_slice_and_not_to_its_place(two_slices):
    model = random_model("m2ib")
    slices, keys = two_slices
    words = model.encode_prompts(parse_prompts("liver"))
    maps = model(model.encode_slices(slices, keys), words).attribution
    swapped = model(model.encode_slices(slices.flip(0), keys[::-1]), words).attribution
    torch.testing.assert_close(maps, swapped.flip(0), atol=1e-3, rtol=1e-3)
    other_keys = [SliceKey("another volume", "axial", key.index) for key in keys]
    assert not torch.allclose(
        maps, model(model.encode_slices(slices, other_keys), words).attribution, atol=1e-3
    )


@torch.no_grad()
def test_a_word_with_a_row_but_without_training_is_not_known():
    model = random_model()
    words = model.encode_prompts(parse_prompts("liver, hepar, polyp, gallbladder"))
    assert len(words) == 3  # "hepar" is the liver
    assert words.known.tolist() == [True, False, False]


def test_hints_are_refused_and_never_ignored(two_slices):
    model = random_model()
    features, words = model.encode_slices(*two_slices), model.encode_prompts(parse_prompts("liver"))
    with pytest.raises(RequestError, match="takes words only, not box"):
        model(features, words, hints=Hints(box=(0, 0, 1.0, 1.0, 5.0, 5.0)))


def test_the_decoder_does_not_change_the_fingerprint_but_the_encoder_does():
    model = random_model()
    before = model.fingerprint
    changed = random_model()
    changed.decoder.upsample_first[-1].bias.data += 1
    assert changed.fingerprint == before
    changed = random_model()
    changed.clip.model.token_embedding.weight.data += (
        1  # a text tower that learns must not cost every slice its kept features
    )
    assert changed.fingerprint == before
    changed = random_model()
    changed.sam.image_encoder.pos_embed.data += 1
    assert changed.fingerprint != before


def test_public_presets_say_that_nobody_has_published_a_decoder():
    for name in preset_names("simple_vilmedsam"):
        if name != "tiny":
            with pytest.raises(WeightsError, match="no trained decoder"):
                load_segmenter("simple_vilmedsam", preset=name)


@pytest.mark.parametrize(("model", "preset"), [("simple_vilmedsan", "tiny"), ("simple_vilmedsam", "tony")])
def test_a_misspelt_model_or_preset_gets_the_nearest_name(model, preset):
    with pytest.raises(UnknownModelError, match="Did you mean"):
        load_segmenter(model, preset=preset)


def test_a_device_that_is_none_is_refused():
    with pytest.raises(UnknownModelError, match="There is no device 'gpux'"):
        load_segmenter("simple_vilmedsam", device="gpux")


def test_the_bundled_weights_know_all_their_words():
    model = load_segmenter("simple_vilmedsam", device="cpu")
    words = model.encode_prompts(parse_prompts(sorted(model.trained_words)))
    assert words.known.all()
    assert not model.encode_prompts(parse_prompts("gallbladder")).known.any()


@torch.no_grad()
def test_published_decoder_and_lora_files_are_taken_together(tmp_path, two_slices):
    model, source = random_model(word_token=False), random_model(word_token=False)
    for parameter in source.decoder.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    torch.save({"model": under_published_names(source.decoder)}, tmp_path / "decoder.pth")
    adapted = add_lora(random_model().sam.image_encoder, rank=2)
    state = {name: torch.randn(value.shape) for name, value in lora_state_dict(adapted).items()}
    torch.save(state, tmp_path / "lora.pth")
    before = model.fingerprint
    model.load_reference(tmp_path / "decoder.pth", tmp_path / "lora.pth")
    assert model.fingerprint != before
    assert torch.equal(model.decoder.mlp[0].weight, source.decoder.mlp[0].weight)
    words = model.encode_prompts(parse_prompts("liver"))
    assert model(model.encode_slices(*two_slices), words).logits.isfinite().all()


def test_a_file_that_is_no_decoder_changes_nothing(tmp_path):
    model = random_model(word_token=False)
    decoder = model.decoder
    (tmp_path / "decoder.pth").write_bytes(b"garbage")
    with pytest.raises(WeightsError, match=r"decoder\.pth"):
        model.load_reference(tmp_path / "decoder.pth")
    assert model.decoder is decoder


def test_a_taught_word_is_known_again_in_every_spelling():
    model = load_segmenter("simple_vilmedsam", preset="tiny")
    model.trained_words = model.trained_words | {parse_prompts("Heart-Spine")[0].key}
    asked = [
        model.encode_prompts(parse_prompts(typed))
        for typed in ("Heart-Spine", "heart-spine", "Heart Spine", "heart_spine")
    ]
    assert [bool(words.known.all()) for words in asked] == [True] * 4
    assert all(torch.equal(words.tensors["text"], asked[0].tensors["text"]) for words in asked)


def test_public_encoders_without_a_decoder_can_be_taught_and_refuse_all_other_words(monkeypatch):
    model = random_model()
    monkeypatch.setattr("wordmask.models.simple_vilmedsam.model.load_clip", lambda config: model.clip)
    monkeypatch.setattr("wordmask.models.simple_vilmedsam.model.load_sam", lambda config: model.sam)
    preset = model.preset.model_copy(update={"weights": None, "unknown_words": "segment"})
    base = SimpleViLMedSAM.to_teach(preset)
    (liver,) = parse_prompts("liver")
    assert base.preset.unknown_words == "refuse"
    assert not base.encode_prompts([liver]).known.any()
    assert base.word_vector(liver).shape == (base.word_width,)


def test_a_version_with_the_refiner_of_an_earlier_snapshot_is_refused(tmp_path):
    save_checkpoint(tmp_path, {"scores.unused": torch.zeros(1)}, Card(decoder={"refiner": True}))
    with pytest.raises(WeightsError, match=r"have a refiner.*train again on the same cases"):
        load_segmenter("simple_vilmedsam", device="cpu", weights=tmp_path)
