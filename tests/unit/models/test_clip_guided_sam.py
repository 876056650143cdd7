"""CLIP-Guided SAM: its adapters, the short cut for further words, its prompts, and a person's clicks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, Sam
from tests.support.small_volumes import a_volume
from tests.support.stub_segmenters import random_clip_guided_sam, random_encoders
from torch import Tensor

from wordmask.encoders.clip import build_tiny_clip
from wordmask.encoders.configs import TinyClipArchitecture
from wordmask.encoders.sam import decode_prompts, preprocess
from wordmask.errors import WeightsError
from wordmask.inference.hints import VoxelHints
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.models.base import Hints, PromptFeatures, SliceFeatures, SliceKey
from wordmask.models.clip_guided_sam.map_prompts import (
    drawn_points,
    mask_prompts,
    similarity_maps,
    spread_points,
)
from wordmask.models.clip_guided_sam.model import EMPTY_SENTENCES, CLIPGuidedSAM, as_grid
from wordmask.models.clip_guided_sam.network import GuidedNetwork
from wordmask.models.loading import load_segmenter
from wordmask.models.registry import load_preset, preset_names
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import save_checkpoint
from wordmask.words.prompts import parse_prompts

KEYS = tuple(SliceKey("a" * 64, "axial", 3 + i) for i in range(2))
FORMS = [("paper", None), ("paper", 2), ("released", None), ("released", 1)]


def features(model: CLIPGuidedSAM, size: tuple[int, int] = (50, 70)) -> tuple[SliceFeatures, PromptFeatures]:
    torch.manual_seed(3)
    slices = F.interpolate(torch.rand(2, 3, 7, 7), size=size, mode="bilinear")
    return model.encode_slices(slices, KEYS), model.encode_prompts(parse_prompts("liver, spleen"))


def parameters(*modules: torch.nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_the_adapters_have_the_papers_number_of_parameters():
    preset = load_preset("clip_guided_sam", "vit_b")
    clip = build_tiny_clip(TinyClipArchitecture(embed_dim=512), [1])
    with torch.device("meta"):
        sam = sam_model_registry["vit_b"]()
        network = GuidedNetwork(clip, sam, preset)
        four = GuidedNetwork(clip, sam, load_preset("clip_guided_sam", "vit_b_4"))
    assert {parameters(adapter) for adapter in network.regular} == {295_872}
    assert {parameters(adapter) for adapter in network.semantic} == {1_083_840}
    assert parameters(network.regular, network.semantic) == 16_556_544
    assert (len(four.regular), len(four.semantic), four.first) == (12, 4, 8)
    assert parameters(sam.mask_decoder) == 4_058_340
    assert parameters(sam.prompt_encoder) == 6_220


def test_before_a_training_sam_is_unchanged():
    preset = load_preset("clip_guided_sam", "tiny")
    model = CLIPGuidedSAM(preset, *random_encoders(preset)).eval().requires_grad_(False)
    slices, prompts = features(model)
    guided = model.guide(slices, prompts, torch.tensor([[0, 0], [1, 1]]))
    torch.manual_seed(3)
    pixels = F.interpolate(torch.rand(2, 3, 7, 7), size=(50, 70), mode="bilinear")
    frame = slices.frames["sam"]
    plain = model.sam.image_encoder(preprocess(model.sam, frame.to_model(pixels), frame.valid()))
    torch.testing.assert_close(guided.embeddings, plain, rtol=1e-5, atol=1e-5)


def test_in_windows_sam_is_unchanged_too():
    sam = small_windowed_sam()
    preset = load_preset("clip_guided_sam", "tiny")
    network = GuidedNetwork(build_tiny_clip(TinyClipArchitecture(), [1]), sam, preset)
    network.eval().requires_grad_(False)
    image = torch.randn(1, 3, 144, 144)  # 9 x 9 tokens, padded to windows of 4
    guided = network.encode(image, torch.randn(1, 128), torch.randn(1, 5, 5, 128))
    torch.testing.assert_close(guided, sam.image_encoder(image), rtol=1e-5, atol=1e-5)


def small_windowed_sam() -> Sam:
    """A SAM of the tiny preset's kind, but with windows and random positions."""
    preset = load_preset("clip_guided_sam", "tiny")
    sam = random_encoders(preset)[1]
    sam.image_encoder = ImageEncoderViT(
        img_size=144, embed_dim=24, depth=3, num_heads=2, out_chans=64, use_rel_pos=True,
        window_size=4, global_attn_indexes=(2,),
    )  # fmt: skip
    for name, parameter in sam.image_encoder.named_parameters():
        if "pos" in name or "bias" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return sam.eval().requires_grad_(False)


def test_the_released_form_normalises_after_the_windows_are_padded():
    sam = small_windowed_sam()
    preset = load_preset("clip_guided_sam", "tiny").model_copy(update={"form": "released"})
    network = GuidedNetwork(build_tiny_clip(TinyClipArchitecture(), [1]), sam, preset).requires_grad_(False)
    hidden, block = torch.randn(1, 9, 9, 24), sam.image_encoder.blocks[0]
    padded = torch.zeros(12, 12, 24)
    padded[:9, :9] = hidden[0]
    mixed = torch.zeros(12, 12, 24)
    for top in (0, 4, 8):
        for left in (0, 4, 8):
            window = padded[top : top + 4, left : left + 4]
            mixed[top : top + 4, left : left + 4] = block.attn(block.norm1(window)[None])[0]
    expected = hidden + 1.5 * mixed[None, :9, :9]  # the adapter is still zero
    torch.testing.assert_close(network._attend(hidden, 0), expected, rtol=1e-5, atol=1e-5)


def test_both_adapters_are_parallel_in_the_papers_form():
    model = random_clip_guided_sam()
    network, block = model.network, model.sam.image_encoder.blocks[1]
    hidden, text, fused = torch.randn(1, 20, 20, 96), torch.randn(1, 128), torch.randn(1, 14, 14, 128)
    regular, semantic = network.regular[1], network.semantic[1]
    normed = block.norm1(hidden)
    expected = hidden + block.attn(normed) + regular.up(F.gelu(regular.down(normed)))
    torch.testing.assert_close(network._attend(hidden, 1), expected, rtol=1e-5, atol=1e-5)
    seen = F.interpolate(semantic.vision(fused).permute(0, 3, 1, 2), size=(20, 20), mode="bilinear")
    inner = hidden + F.gelu(semantic.text(text)) + seen.permute(0, 2, 3, 1)
    expected = semantic.up(F.gelu(semantic.down(inner)))
    torch.testing.assert_close(semantic.guided(hidden, text, fused), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("form", "blocks"), FORMS)
def test_the_short_cut_for_further_words_gives_what_the_direct_way_gives(form, blocks):
    model = random_clip_guided_sam(form=form, semantic_blocks=blocks)
    network = model.network
    pixels = torch.randn(2, 3, 160, 160)
    tokens = network.normalise(network.clip_tokens(pixels, torch.ones(160, 160, dtype=torch.bool)))
    text = F.normalize(torch.randn(2, 128), dim=-1)
    similarity = torch.einsum("nte,ne->nt", tokens, text)
    direct = network.encode(pixels, text, as_grid(tokens + similarity[..., None]))
    started = network.start(pixels, as_grid(tokens))
    short = network.finish(started, as_grid(similarity[..., None])[..., 0], network.text_parts(text))
    torch.testing.assert_close(short, direct, rtol=1e-5, atol=1e-5)
    other = network.encode(pixels, text.flip(0), as_grid(tokens + similarity[..., None]))
    assert (other - direct).abs().max() > 1e-2  # the word does change something


@pytest.mark.parametrize("blocks", [None, 2])
def test_further_words_run_only_the_blocks_after_the_first_guided_one(blocks):
    model = random_clip_guided_sam(semantic_blocks=blocks)
    calls: list[int] = []
    for number, block in enumerate(model.sam.image_encoder.blocks):
        block.attn.register_forward_hook(lambda *_, number=number: calls.append(number))
    slices, prompts = features(model)
    assert calls == list(range(1 if blocks is None else 4))
    calls.clear()
    model(slices, prompts, torch.tensor([[0, 1]]))
    assert calls == ([1, 2, 3, 4] if blocks is None else [4])


@pytest.mark.parametrize("form", ["paper", "released"])
def test_the_engine_and_the_step_by_step_way_agree(form):
    model = random_clip_guided_sam(form=form)
    model.preset = model.preset.model_copy(update={"empty_prompt": True})
    pixels = torch.rand(1, 3, 160, 160)
    found = model(model.encode_slices(pixels, KEYS[:1]), model.encode_prompts(parse_prompts("liver")))
    steps = model.text_only_forward(
        preprocess(model.sam, pixels, torch.ones(160, 160, dtype=torch.bool)),
        model.clip.tokenizer(["liver"]),
        model.clip.tokenizer(list(EMPTY_SENTENCES)),
    )
    torch.testing.assert_close(found.logits, steps["logits"][:, 0], rtol=1e-4, atol=1e-4)


def test_no_pair_depends_on_the_others():
    model = random_clip_guided_sam()
    slices, prompts = features(model)
    everything = model(slices, prompts).logits
    alone = model(slices, prompts, torch.tensor([[1, 0]])).logits
    torch.testing.assert_close(everything[2:3], alone, rtol=1e-4, atol=1e-4)


def test_a_map_is_stretched_over_the_slice_and_nothing_in_its_padding():
    similarity = torch.tensor([[[0.2, 0.4], [9.0, -9.0]]])
    valid = torch.zeros(8, 8, dtype=torch.bool)
    valid[:3] = True  # the lower patches show padding only
    maps = similarity_maps(similarity, valid)
    assert torch.equal(maps[0, 0], torch.tensor([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]))
    assert maps[0, 3:].abs().max() == 0


def test_mask_prompts_are_logits_or_0_and_255():
    maps = torch.zeros(1, 8, 8)
    maps[0, :4, :4] = 0.9
    logits = mask_prompts(maps, 4, 0.8, released=False)
    assert torch.equal(logits[0, 0], torch.where(maps[0, ::2, ::2] > 0, 10.0, -10.0))
    assert mask_prompts(maps, 4, 0.8, released=True).unique().tolist() == [0, 255]


def test_points_start_at_the_peak_and_lie_far_from_each_other():
    maps = torch.zeros(1, 20, 30)
    maps[0, 5, 4:24] = 0.85
    maps[0, 5, 6] = 0.95
    places, labels = spread_points(maps, 3, 0.8)
    assert places[0].tolist() == [[6, 5], [23, 5], [14, 5]]
    assert labels.tolist() == [[1, 1, 1]]
    assert torch.equal(places, spread_points(maps, 3, 0.8)[0])
    maps[0, 5, 8:] = 0
    places, labels = spread_points(maps, 5, 0.8)
    assert labels.tolist() == [[1, 1, 1, 1, -1]]  # there are four candidates
    assert len(places[0, :4].unique(dim=0)) == 4


def test_drawn_points_are_counted_in_reading_order():
    maps = torch.zeros(1, 4, 4)
    maps[0, 1, 3] = maps[0, 2, 0] = maps[0, 2, 1] = 1
    places, labels = drawn_points(maps, torch.tensor([[0, 2, 2, 1]]), 0.8)
    assert places[0].tolist() == [[3, 1], [1, 2], [1, 2], [0, 2]]
    assert labels.tolist() == [[1, 1, 1, 1]]
    with pytest.raises(ValueError, match="candidates 0 to 2"):
        drawn_points(maps, torch.tensor([[3]]), 0.8)


def test_a_constant_map_gives_no_points_and_a_mask():
    valid = torch.ones(160, 160, dtype=torch.bool)
    maps = similarity_maps(torch.full((2, 14, 14), 0.3), valid)
    assert maps.abs().max() == 0
    for places, labels in (spread_points(maps, 5, 0.8), drawn_points(maps, torch.zeros(2, 5).long(), 0.8)):
        assert places.shape == (2, 5, 2)
        assert (labels == -1).all()
    model = random_clip_guided_sam()
    slices, prompts = features(model)
    slices.tensors["patches"] = torch.full_like(slices.tensors["patches"], 0.1)
    assert model(slices, prompts).logits.isfinite().all()


def test_clicks_and_boxes_change_the_mask_of_their_slice_alone():
    model = random_clip_guided_sam()
    slices, prompts = features(model)
    pairs = torch.tensor([[0, 0], [1, 0]])
    plain = model(slices, prompts, pairs).logits
    for hints in (
        Hints(points=((3, 20.0, 20.0, True),)),
        Hints(points=((3, 20.0, 20.0, False), (3, 30.0, 5.0, True))),
        Hints(box=(3, 3, 5.0, 5.0, 40.0, 30.0)),
        Hints(points=((3, 20.0, 20.0, True),), box=(3, 3, 5.0, 5.0, 40.0, 30.0)),
    ):
        marked = model(slices, prompts, pairs, hints).logits
        assert (marked[0] - plain[0]).abs().max() > 1e-3
        assert torch.equal(marked[1], plain[1])


def test_the_second_corner_of_a_box_matters():
    model = random_clip_guided_sam()
    guided = model.guide(*features(model), torch.tensor([[0, 0]]))
    small, large = (model.draw(guided, Hints(box=(3, 3, 5.0, 5.0, far, far))) for far in (20.0, 45.0))
    assert (small - large).abs().max() > 1e-4
    # Its own table takes part, which the released code forgot.
    table = model.sam.prompt_encoder.point_embeddings[3].weight
    table += 1
    assert (model.draw(guided, Hints(box=(3, 3, 5.0, 5.0, 20.0, 20.0))) - small).abs().max() > 1e-4


def test_a_click_costs_no_encoder():
    model = random_clip_guided_sam()
    guided = model.guide(*features(model), torch.tensor([[0, 0], [1, 1]]))
    hints = Hints(points=((3, 20.0, 20.0, True), (4, 9.0, 9.0, False)))
    calls: list[int] = []
    for module in (*model.sam.image_encoder.blocks, model.sam.mask_decoder):
        module.register_forward_hook(lambda *_: calls.append(1))
    drawn = model.draw(guided, hints)
    assert len(calls) == 1
    points = torch.tensor([[[20.0, 20.0], [0, 0]], [[9.0, 9.0], [0, 0]]]) * (160 / 70) + (160 / 70 - 1) / 2
    points[:, 1] = 0
    labels = torch.tensor([[1, -1], [0, -1]])
    masks = mask_prompts(guided.maps, 80, 0.8, released=False)
    plain = decode_prompts(model.sam, guided.embeddings, points=(points, labels), masks=masks)[0]
    torch.testing.assert_close(drawn, plain[:, 0], rtol=1e-4, atol=1e-4)


def test_what_all_texts_have_in_common_is_subtracted_from_a_word():
    network = random_clip_guided_sam().network
    words, empty = 3 * torch.randn(2, 128), 5 * torch.randn(85, 128)

    def unit(x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)

    common = unit(unit(empty).mean(0))
    torch.testing.assert_close(network.text_vector(words, empty), unit(unit(words).mean(0) - common))
    torch.testing.assert_close(network.text_vector(words, None), unit(unit(words).mean(0)))
    network.released = True
    torch.testing.assert_close(network.text_vector(words, empty), unit(words.mean(0) - common))
    assert len(EMPTY_SENTENCES) == 85
    assert "a photo of a ." in EMPTY_SENTENCES


def test_presence_is_the_cosine_of_the_class_token_and_the_plain_word():
    model = random_clip_guided_sam()
    slices, prompts = features(model)
    found = model.presence(slices, prompts, torch.tensor([[1, 0]]))
    cosine = slices.tensors["image"][1] @ model.clip.encode_text(["liver"])[0]
    torch.testing.assert_close(found, model.scores.presence(cosine)[None])
    assert not model.judges_presence(prompts.prompts[0])


def test_a_trained_version_has_all_parts_and_knows_its_words(tmp_path):
    model = random_clip_guided_sam()
    card = Card.model_validate({"words": ["liver"], "token_ids": list(model.clip.tokenizer.token_ids)})
    save_checkpoint(tmp_path, model.state_dict(), card)
    loaded = CLIPGuidedSAM.from_preset(load_preset("clip_guided_sam", "tiny"), tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert loaded.encode_prompts(parse_prompts("liver, spleen")).known.tolist() == [True, False]
    assert loaded.fingerprint == model.fingerprint


@pytest.mark.parametrize("blocks", [None, 1])
def test_a_volume_is_segmented_word_by_word_and_with_a_click(blocks):
    model = random_clip_guided_sam(semantic_blocks=blocks)
    blocks = np.random.default_rng(3).integers(0, 500, (3, 6, 8)).repeat(8, axis=1).repeat(8, axis=2)
    pipeline, volume = VolumeSegmenter(model), a_volume(blocks.astype(np.int16))

    def probability(words: str, hints: VoxelHints | None = None):
        found = pipeline.segment(volume, words, hints=hints, keep=("probability",))
        return found.maps["probability"]["liver"]

    alone, beside = probability("liver"), probability("liver, spleen")
    np.testing.assert_array_equal(alone, beside)
    clicked = probability("liver", VoxelHints(points=((20, 20, 1, True),)))
    changed = np.abs(clicked - alone).max(axis=(1, 2))
    assert changed[1] > 1e-4
    assert changed[[0, 2]].max() == 0


def test_presets():
    assert set(preset_names("clip_guided_sam")) == {"published", "tiny", "vit_b", "vit_b_4"}
    for name in preset_names("clip_guided_sam"):
        preset = load_preset("clip_guided_sam", name)
        assert (preset.form == "released") == (name == "published")
    assert load_preset("clip_guided_sam", "vit_b_4").adapters.semantic_blocks == 4
    tiny = load_preset("clip_guided_sam", "tiny").model_dump()
    with pytest.raises(ValidationError, match="5 blocks, so semantic_blocks cannot be 6"):
        type(load_preset("clip_guided_sam", "tiny"))(**{**tiny, "adapters": {"semantic_blocks": 6}})


def test_presets_without_adapters_say_what_to_do():
    with pytest.raises(WeightsError, match=r"'vit_b' of CLIP-Guided SAM .* use the model medclip_samv2"):
        load_segmenter("clip_guided_sam", preset="vit_b", device="cpu")


def test_a_mask_among_the_hints_is_the_mask_prompt_of_its_slice_alone():
    model = random_clip_guided_sam()
    keys = [SliceKey("c" * 64, "axial", index) for index in (4, 5)]
    torch.manual_seed(2)
    slices = model.encode_slices(torch.rand(2, 3, 60, 80), keys)
    words = model.encode_prompts(parse_prompts("liver"))
    click = (4, 40.0, 30.0, True)
    mask = np.zeros((60, 80), bool)
    mask[10:50, 20:60] = True
    plain, helped = (
        model(slices, words, None, Hints((click,), masks=masks)).logits for masks in ({}, {4: mask})
    )
    assert not torch.allclose(plain[0], helped[0])
    torch.testing.assert_close(plain[1], helped[1])
    whole = Hints((click,), masks={4: np.ones_like(mask)})
    assert not torch.allclose(model(slices, words, None, whole).logits[0], helped[0])


def test_the_next_click_in_a_slice_costs_no_encoder_and_changes_nothing(monkeypatch):
    model = random_clip_guided_sam()
    torch.manual_seed(3)
    slices = model.encode_slices(torch.rand(1, 3, 60, 80), [SliceKey("d" * 64, "axial", 4)])
    words = model.encode_prompts(parse_prompts("liver, spleen"))
    clicks = [Hints(((4, x, 30.0, True),)) for x in (40.0, 20.0)]
    alone = [random_clip_guided_sam()(slices, words, None, hints).logits for hints in clicks]
    calls = []
    finish = model.network.finish
    monkeypatch.setattr(model.network, "finish", lambda *given: calls.append(1) or finish(*given))
    for hints, expected in zip(clicks, alone, strict=True):
        torch.testing.assert_close(model(slices, words, None, hints).logits, expected)
    assert len(calls) == 1
    model.weights_changed()
    model(slices, words, None, clicks[0])
    assert len(calls) == 2
