"""MedCLIPSeg: the mathematics of its adapters, its noise, published checkpoints, and presets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.support.published_medclipseg import published_shapes
from tests.support.stub_segmenters import random_medclipseg
from torch import Tensor
from transformers import BertConfig

from wordmask.encoders import clip_sources
from wordmask.encoders.clip import ClipEncoder
from wordmask.encoders.clip_sources import BIOMED_VISION, UNIMED_VISION, build_bert_clip
from wordmask.errors import RequestError, WeightsError
from wordmask.models.base import Hints, SliceKey
from wordmask.models.loading import load_segmenter
from wordmask.models.medclipseg import published
from wordmask.models.medclipseg.adapters import ProbabilisticAttention, PVLAdapter
from wordmask.models.medclipseg.model import MedCLIPSeg, published_preset
from wordmask.models.medclipseg.network import FreeNoise, PairNoise
from wordmask.models.registry import load_preset, preset_names
from wordmask.words.prompts import parse_prompts

KEYS = (SliceKey("a" * 64, "axial", 3), SliceKey("a" * 64, "axial", 4))


def test_an_adapter_has_the_papers_number_of_parameters():
    bert = PVLAdapter(768, 768, 256, beta=2.35)
    openai = PVLAdapter(768, 512, 256, beta=2.35)
    assert sum(p.numel() for p in bert.parameters()) == 1_577_986
    assert sum(p.numel() for p in openai.parameters()) == 1_446_914


def test_attention_is_what_the_paper_says_number_by_number():
    torch.manual_seed(1)
    attention = ProbabilisticAttention(5, beta=2.35, gate=0.3).double()
    tokens, context, noise = (torch.randn(1, n, 5, dtype=torch.float64) for n in (3, 4, 4))
    got = attention.draw(tokens, attention.attend(tokens, context), noise)[0]
    q = (tokens[0] @ attention.query.weight.T + attention.query.bias).detach().numpy()
    k = (context[0] @ attention.key.weight.T + attention.key.bias).detach().numpy()
    v = (context[0] @ attention.value.weight.T + attention.value.bias).detach().numpy()

    def norm(x):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)

    key_mean, value_mean = norm(k[:, :5]), norm(v[:, :5])
    key_variance, value_variance = (np.log1p(np.exp(x[:, 5:])) + 1e-6 for x in (k, v))
    score = np.zeros((3, 4))
    for i in range(3):
        for j in range(4):
            spread = sum(q[i, c] ** 2 * key_variance[j, c] for c in range(5)) / 5
            score[i, j] = q[i] @ key_mean[j] / math.sqrt(5) - 2.35 * math.sqrt(spread)
    weights = np.exp(score) / np.exp(score).sum(1, keepdims=True)
    values = value_mean + np.sqrt(value_variance) * noise[0].numpy()
    mixed = weights @ values @ attention.out.weight.detach().numpy().T + attention.out.bias.detach().numpy()
    gate = 1 / (1 + math.exp(-0.3))
    assert np.allclose(got.detach().numpy(), gate * mixed + (1 - gate) * tokens[0].numpy(), atol=1e-12)


def test_without_uncertainty_it_is_ordinary_attention_with_a_gate():
    torch.manual_seed(2)
    attention = ProbabilisticAttention(8, beta=0.0)
    for part in (attention.key, attention.value):
        part.weight.data[8:], part.bias.data[8:] = 0, -100  # softplus(-100) = 0
    tokens, context = torch.randn(2, 3, 8), torch.randn(2, 6, 8)
    noise = torch.zeros(2, 6, 8)
    got = attention.draw(tokens, attention.attend(tokens, context), noise)
    key, value = attention.key(context)[..., :8], attention.value(context)[..., :8]
    plain = torch.nn.functional.scaled_dot_product_attention(
        attention.query(tokens), attention.key_norm(key), attention.value_norm(value)
    )
    assert torch.allclose(got, 0.5 * attention.out(plain) + 0.5 * tokens, atol=1e-6)


def test_the_text_looks_at_the_image_as_it_has_become():
    torch.manual_seed(3)
    adapter = PVLAdapter(6, 4, 5, beta=2.35)
    image, text = torch.randn(1, 7, 6), torch.randn(1, 3, 4)
    drawn = torch.randn(1, 3, 5), torch.randn(1, 7, 5)
    new_image, new_text = adapter(image, text, *drawn)
    seen, read = adapter.image_down(image), adapter.text_down(text)
    seen = adapter.to_image.draw(seen, adapter.to_image.attend(seen, read), drawn[0])
    read = adapter.to_text.draw(read, adapter.to_text.attend(read, seen), drawn[1])
    assert torch.allclose(new_image, image + adapter.image_up(seen))
    assert torch.allclose(new_text, text + adapter.text_up(read))


@torch.no_grad()
def test_the_mean_of_samples_converges_with_their_root():
    torch.manual_seed(4)
    attention = ProbabilisticAttention(16, beta=2.35)
    tokens, context = torch.randn(1, 5, 16), torch.randn(1, 9, 16)
    attended = attention.attend(tokens, context)
    exact = attention.draw(tokens, attended, torch.zeros(1, 9, 16))

    def error(samples: int) -> float:
        drawn = attention.draw(tokens, attended, torch.randn(40 * samples, 9, 16))
        return float((drawn.unflatten(0, (40, samples)).mean(1) - exact).square().mean().sqrt())

    assert error(4) / error(64) == pytest.approx(4, rel=0.15)


def test_samples_of_a_batch_are_those_of_single_pairs():
    model = random_medclipseg()
    images, tokens = torch.rand(2, 3, 112, 112), model.clip.tokenizer(["liver", "left kidney"])
    shapes = model.network.noise_shapes(tokens.shape[1])
    noise = {
        (sample, block, direction): torch.randn(2, *shapes[direction])
        for sample in range(3) for block in range(5) for direction in shapes
    }  # fmt: skip
    both = model.joint_forward(images, tokens, samples=3, noise=lambda *key: noise[key])
    assert both.shape == (3, 2, 112, 112)
    for row in range(2):
        one = model.joint_forward(
            images[row : row + 1],
            tokens[row : row + 1],
            samples=1,
            noise=lambda s, *k, row=row: noise[2, *k][row][None],
        )
        assert torch.allclose(one[0, 0], both[2, row], atol=1e-5)


def test_padding_is_read_only_when_the_preset_asks_for_it():
    tokens = random_medclipseg().clip.tokenizer(["liver"])
    image = torch.rand(1, 3, 112, 112)
    for see_padding in (False, True):
        model = random_medclipseg(see_padding=see_padding)
        length = int(model.clip.text.real(tokens).sum())
        whole = model.joint_forward(
            image, tokens, samples=1, noise=FreeNoise(model.network.noise_shapes(12), 1).mean
        )
        cut = model.joint_forward(
            image, tokens[:, :length], samples=1, noise=FreeNoise(model.network.noise_shapes(length), 1).mean
        )
        assert torch.allclose(whole, cut, atol=1e-5) is not see_padding


def test_noise_depends_on_its_key_alone():
    shapes = {"image": (4, 8), "text": (9, 8)}
    noise = PairNoise(shapes, 42, (KEYS[0], "liver"))
    assert noise(0, 1, "image").shape == (1, 4, 8)
    assert torch.equal(noise(0, 1, "image"), PairNoise(shapes, 42, (KEYS[0], "liver"))(0, 1, "image"))
    others = [
        noise(1, 1, "image"), noise(0, 2, "image"), noise(0, 1, "text")[:, :4],
        PairNoise(shapes, 43, (KEYS[0], "liver"))(0, 1, "image"),
        PairNoise(shapes, 42, (KEYS[1], "liver"))(0, 1, "image"),
        PairNoise(shapes, 42, (KEYS[0], "spleen"))(0, 1, "image"),
    ]  # fmt: skip
    assert not any(torch.equal(noise(0, 1, "image"), other) for other in others)


def test_a_pairs_noise_is_keyed_by_the_seed_its_slice_and_its_word(monkeypatch):
    keys = []

    class Recorded(PairNoise):
        def __init__(self, shapes, seed, pair, device):
            keys.append((seed, pair))
            super().__init__(shapes, seed, pair, device)

    monkeypatch.setattr("wordmask.models.medclipseg.model.PairNoise", Recorded)
    model = random_medclipseg()
    model(
        model.encode_slices(torch.rand(2, 3, 50, 70), KEYS),
        model.encode_prompts(parse_prompts("liver, spleen")),
    )
    assert keys == [(42, (key, word)) for key in KEYS for word in ("liver", "spleen")]


def test_more_samples_begin_with_the_fewer():
    few, more = random_medclipseg(), random_medclipseg()
    more.preset = more.preset.model_copy(update={"samples": 6})
    pixels = torch.rand(1, 3, 60, 60)

    def samples(model: MedCLIPSeg) -> Tensor:
        slices = model.encode_slices(pixels, KEYS[:1])
        return model.draw(model._join(slices, model.encode_prompts(parse_prompts("liver")), 0, 0))

    assert torch.allclose(samples(more)[:3], samples(few), atol=1e-5)


def test_uncertainty_is_the_entropy_of_the_mean_and_hints_are_refused():
    model = random_medclipseg()
    slices = model.encode_slices(torch.rand(2, 3, 50, 70), KEYS)
    prompts = model.encode_prompts(parse_prompts("liver, spleen"))
    found = model(slices, prompts)
    mean = found.logits.sigmoid()
    assert found.logits.shape == (4, 112, 112)
    entropy = -(mean * mean.log() + (1 - mean) * (1 - mean).log())
    assert torch.allclose(found.uncertainty, entropy, atol=1e-4)
    assert model.presence(slices, prompts, torch.tensor([[0, 1], [1, 0]])).shape == (2,)
    with pytest.raises(RequestError, match="takes words only"):
        model(slices, prompts, hints=Hints(points=((0, 1.0, 1.0, True),)))


def test_variants_draw_other_samples_and_a_deterministic_model_has_none():
    model = random_medclipseg()
    slices = model.encode_slices(torch.rand(1, 3, 50, 70), KEYS[:1])
    prompts = model.encode_prompts(parse_prompts("liver"))
    logits = [one(slices, prompts).logits for one in (model, *model.variants(prompts.prompts[0]))]
    assert len(logits) == 3
    assert not torch.equal(logits[0], logits[1])
    plain = random_medclipseg(probabilistic=False)
    assert plain.variants(prompts.prompts[0]) == []


def test_without_adapters_the_towers_do_not_meet():
    model = random_medclipseg(last=0)
    slices = model.encode_slices(torch.rand(1, 3, 50, 70), KEYS[:1])
    joint = model._join(slices, model.encode_prompts(parse_prompts("liver")), 0, 0)
    text = torch.nn.functional.normalize(joint.text[0], dim=-1)
    assert torch.allclose(text, model.clip.encode_text(["liver"]), atol=1e-5)
    assert torch.equal(joint.patches[0], joint.patches[2])


def test_text_towers_block_by_block_are_whole_towers():
    torch.manual_seed(5)
    model = build_small(narrow(3), blocks=3)
    tokens = torch.zeros(2, 20, dtype=torch.long)
    tokens[0, :6], tokens[1, :4] = torch.tensor([2, 50, 60, 70, 80, 3]), torch.tensor([2, 90, 91, 3])
    for clip in (ClipEncoder(model.eval(), None), random_medclipseg().clip):
        if clip.text.width == 96:
            tokens = clip.tokenizer(["liver", "left kidney"])
        hidden = clip.text.embed(tokens)
        for number in range(clip.text.depth):
            hidden = clip.text.block(hidden, number, tokens)
        with torch.no_grad():
            assert torch.allclose(
                clip.text.project(hidden, tokens), clip.model.encode_text(tokens), atol=1e-5
            )


def build_small(vision, blocks: int = 12, width: int = 24):
    """A CLIP with a BERT whose text tower is narrow; ``vision`` describes the other."""
    small = BertConfig(
        hidden_size=width, num_hidden_layers=blocks, num_attention_heads=2, intermediate_size=4 * width,
        vocab_size=100, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.BertConfig", lambda: small)
        return build_bert_clip(vision, quick_gelu="timm_model_name" not in vision)


def narrow(blocks: int = 12):
    return {**UNIMED_VISION, "layers": blocks, "width": 24, "head_width": 12}


@pytest.fixture
def small_checkpoint(tmp_path, monkeypatch):
    """A file in the published format, of a network with narrow towers, and its tensors."""
    monkeypatch.setattr(published, "build_bert_clip", lambda vision, quick_gelu: build_small(narrow()))
    torch.manual_seed(6)
    shapes = published_shapes("unimedclip", width=24, words=100)
    tensors = {name: 0.1 * torch.randn(shape) for name, shape in shapes.items()}
    return tmp_path / "MedCLIPSeg_unimedclip_ViT-B-16_best.pth", tensors


def save(path: Path, tensors) -> None:
    parts = {
        "epoch": 7,
        "optimizer": {"state": {}},
        "scheduler": {"last_epoch": 7},
        "best_dice": np.float32(0.8),
    }
    torch.save({"model": tensors, **parts}, path)


def test_a_published_checkpoint_loads_and_runs(small_checkpoint):
    path, tensors = small_checkpoint
    save(path, tensors)
    model = MedCLIPSeg.load_reference(path)
    assert model.preset.adapters.see_padding
    adapter = model.network.adapters[3]
    assert torch.equal(
        adapter.to_text.key.bias, tensors["pvl_adapters.3.two_way.cross_attn_txt_to_img.k_proj.bias"]
    )
    assert torch.equal(model.network.upscale[1].enlarge.weight, tensors["upscale.1.conv1.weight"])
    tokens = torch.zeros(2, 256, dtype=torch.long)
    tokens[:, :4] = torch.tensor([2, 40, 41, 3])
    with torch.no_grad():
        logits = model.joint_forward(torch.randn(2, 3, 224, 224), tokens, samples=2)
    assert logits.shape == (2, 2, 224, 224)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


@torch.no_grad()
def test_the_whole_flow_is_that_of_the_papers_table(small_checkpoint):
    path, tensors = small_checkpoint
    save(path, tensors)
    model = MedCLIPSeg.load_reference(path)
    clip, network = model.clip.model, model.network
    images, tokens = torch.randn(1, 3, 224, 224), torch.zeros(1, 256, dtype=torch.long)
    tokens[0, :5] = torch.tensor([2, 40, 41, 42, 3])
    noise = FreeNoise(network.noise_shapes(256), 1)
    drawn = {(block, way): noise(0, block, way) for block in range(1, 11) for way in ("image", "text")}
    got = model.joint_forward(images, tokens, samples=1, noise=lambda _, block, way: drawn[block, way])

    visual, bert = clip.visual, clip.text.transformer
    x = visual.conv1(images).flatten(2).mT
    x = torch.cat([visual.class_embedding.expand(1, 1, -1), x], 1) + visual.positional_embedding
    x, t = visual.ln_pre(x), bert.embeddings(input_ids=tokens)
    closed = torch.zeros(1, 1, 1, 256).masked_fill(tokens[:, None, None] == 0, torch.finfo(torch.float32).min)
    for block in range(12):
        if 1 <= block <= 10:
            x, t = network.adapters[block - 1](x, t, drawn[block, "image"], drawn[block, "text"])
        x = visual.transformer.resblocks[block](x)
        t = bert.encoder.layer[block](t, attention_mask=closed)
        t = t[0] if isinstance(t, tuple) else t
    patches = torch.nn.functional.normalize((visual.ln_post(x) @ visual.proj)[:, 1:], dim=-1)
    text = torch.nn.functional.normalize(clip.text.proj(t[:, 0]), dim=-1)
    maps = network.upscale(patches.mT.reshape(1, 512, 14, 14))
    logits = (network.mask_head(text)[:, :, None, None] * maps).sum(1)
    whole = torch.nn.functional.interpolate(logits[None], size=(224, 224), mode="bilinear")
    assert torch.allclose(got, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("pvl_adapters.4.proj_vis_down.0.weight"), r"1 tensors .*adapters.4.image_down"),
        (lambda t: t.update({"mask_head.2.bias": torch.zeros(3)}), r"another shape.*mask_head.2.bias"),
        (lambda t: t.update({"decoder.weight": torch.zeros(3)}), r"not a checkpoint of the published"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused_with_a_sentence(small_checkpoint, change, message):
    path, tensors = small_checkpoint
    change(tensors)
    save(path, tensors)
    with pytest.raises(WeightsError, match=message):
        MedCLIPSeg.load_reference(path)


def test_the_published_size_has_the_published_names_and_counts():
    with torch.device("meta"):
        clip = build_bert_clip(UNIMED_VISION, quick_gelu=True)
    network = MedCLIPSeg(published_preset(), ClipEncoder(clip.to_empty(device="cpu"), None)).network
    assert shapes_of(network) == renamed(published_shapes("unimedclip"))
    learned = [p for name, p in network.named_parameters() if not name.startswith("clip.")]
    assert sum(p.numel() for p in learned) == 18_677_268


def test_checkpoints_with_biomedclip_have_the_published_names():
    vision = {**BIOMED_VISION, "timm_model_name": "vit_tiny_patch16_224"}
    network = MedCLIPSeg(published_preset(), ClipEncoder(build_small(vision, width=192), None)).network
    assert shapes_of(network) == renamed(published_shapes("biomedclip", width=192, words=100))


def shapes_of(network):
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def renamed(shapes):
    return {published._our_name(name, Path("x")): shape for name, shape in shapes.items()}


def test_the_published_preset_sees_blue_first_with_imagenets_statistics():
    model = random_medclipseg()
    model.preset = model.preset.model_copy(update={"pixels": "published"})
    pixels = torch.rand(1, 3, 112, 112)
    seen = model.normalise(pixels)
    assert torch.allclose(seen[0, 0], (pixels[0, 2] - 0.485) / 0.229)
    assert torch.allclose(seen[0, 2], (pixels[0, 0] - 0.406) / 0.225)


def test_presets_load_and_refuse_what_makes_no_sense():
    assert set(preset_names("medclipseg")) == {
        "biomedclip", "openai_clip", "published", "pubmedclip", "tiny", "unimedclip",
    }  # fmt: skip
    for name in preset_names("medclipseg"):
        assert load_preset("medclipseg", name).adapters.beta == 2.35
    tiny = load_preset("medclipseg", "tiny").model_dump()
    with pytest.raises(ValidationError, match="set samples to 1"):
        type(load_preset("medclipseg", "tiny"))(**{**tiny, "adapters": {"probabilistic": False}})


def test_public_presets_without_adapters_say_what_to_do():
    with pytest.raises(WeightsError, match=r"no trained adapters; train them .* --model medclipseg"):
        load_segmenter("medclipseg", preset="biomedclip", device="cpu")


def test_the_tokenizer_of_published_checkpoints_is_named_when_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(clip_sources, "weights_path", _absent)
    with pytest.raises(WeightsError, match="wordmask weights fetch biomedclip"):
        published._tokenize(["liver"])


def _absent(name: str) -> Path:
    raise WeightsError(f"{name} is not here")
