"""LoRA on q and v of SAM's encoder: what changes, what does not, and the files of others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from wordmask.encoders.configs import TinySamArchitecture
from wordmask.encoders.lora import (
    add_lora,
    has_lora,
    load_lora_file,
    load_lora_state_dict,
    lora_from_reference,
    lora_layers,
    lora_state_dict,
    merge_lora,
)
from wordmask.encoders.sam import build_tiny_sam
from wordmask.errors import WeightsError

WIDTH, DEPTH, RANK = 32, 3, 4
SMALL = TinySamArchitecture(image_size=32, patch_size=8, width=WIDTH, depth=DEPTH, heads=2, out_channels=16)


def small_encoder(depth: int = DEPTH) -> ImageEncoderViT:
    torch.manual_seed(1)
    return build_tiny_sam(SMALL.model_copy(update={"depth": depth})).image_encoder


@pytest.fixture
def an_encoder() -> ImageEncoderViT:
    return small_encoder()


@pytest.fixture
def an_adapted_encoder(an_encoder: ImageEncoderViT) -> ImageEncoderViT:
    """LoRA with a random B, as after training."""
    add_lora(an_encoder, RANK)
    with torch.no_grad():
        for _, _, b in lora_layers(an_encoder):
            b.weight.normal_()
    return an_encoder


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def rows(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = weight.detach().chunk(3)
    return q, k, v


def deltas(state: dict[str, Tensor], block: int) -> Iterator[Tensor]:
    return (state[f"blocks.{block}.{part}.B"] @ state[f"blocks.{block}.{part}.A"] for part in "qv")


def test_a_fresh_lora_changes_nothing(an_encoder: ImageEncoderViT, pixels: Tensor) -> None:
    with torch.no_grad():
        before = an_encoder(pixels)
        after = add_lora(an_encoder, RANK)(pixels)
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-5)


def test_a_starts_kaiming_uniform_and_b_at_zero(an_encoder: ImageEncoderViT) -> None:
    bound = 1 / math.sqrt(WIDTH)  # gain sqrt(2 / (1 + 5)) times sqrt(3 / fan in), for a = sqrt 5
    add_lora(an_encoder, rank=8)
    a = torch.cat([layer.weight.flatten() for _, layer, _ in lora_layers(an_encoder)])
    assert a.abs().max() <= bound
    assert a.abs().max() > 0.97 * bound
    assert a.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert all(not b.weight.any() for _, _, b in lora_layers(an_encoder))


def test_q_and_v_have_an_a_each_and_k_has_none(an_adapted_encoder: ImageEncoderViT) -> None:
    names = [name for name, _, _ in lora_layers(an_adapted_encoder)]
    assert names == [f"blocks.{index}.{part}" for index in range(DEPTH) for part in "qv"]
    matrices = [a.weight for _, a, _ in lora_layers(an_adapted_encoder)]
    assert all(not torch.equal(first, second) for i, first in enumerate(matrices) for second in matrices[:i])
    assert all(type(block.attn.qkv.k) is nn.Linear for block in an_adapted_encoder.blocks)


@pytest.mark.parametrize("frozen_before", [True, False])
def test_only_a_and_b_learn(pixels: Tensor, frozen_before: bool) -> None:
    encoder = add_lora(small_encoder().requires_grad_(not frozen_before), RANK)
    layers = [layer for _, *pair in lora_layers(encoder) for layer in pair]
    assert {id(parameter) for parameter in encoder.parameters() if parameter.requires_grad} == {
        id(layer.weight) for layer in layers
    }
    for _, _, b in lora_layers(encoder):
        nn.init.normal_(b.weight)  # A has no gradient while B is 0
    encoder(pixels).square().mean().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in layers)


def test_the_adapted_output_is_that_of_w_plus_b_a(an_adapted_encoder: ImageEncoderViT) -> None:
    tokens = torch.randn(2, 4, 4, WIDTH, generator=torch.Generator().manual_seed(3))
    original, state = small_encoder(), lora_state_dict(an_adapted_encoder)
    for index, block in enumerate(an_adapted_encoder.blocks):
        fused = original.blocks[index].attn.qkv
        q, k, v = rows(fused.weight)
        delta_q, delta_v = deltas(state, index)
        expected = F.linear(tokens, torch.cat([q + delta_q, k, v + delta_v]), fused.bias)
        torch.testing.assert_close(block.attn.qkv(tokens), expected, atol=1e-5, rtol=1e-5)


def test_merging_adds_b_a_to_q_and_v_and_leaves_k_as_it_was(an_adapted_encoder: ImageEncoderViT) -> None:
    original, state = small_encoder(), lora_state_dict(an_adapted_encoder)
    merge_lora(an_adapted_encoder)
    for index, block in enumerate(an_adapted_encoder.blocks):
        before, after = original.blocks[index].attn.qkv, block.attn.qkv
        delta_q, delta_v = deltas(state, index)
        (q, k, v), (q_merged, k_merged, v_merged) = rows(before.weight), rows(after.weight)
        assert torch.equal(k_merged, k)  # by exactly 0
        assert torch.equal(after.bias, before.bias)
        torch.testing.assert_close(q_merged, q + delta_q, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(v_merged, v + delta_v, atol=1e-6, rtol=1e-5)
        assert delta_q.abs().max() > 0.1
        assert delta_v.abs().max() > 0.1


def test_merging_changes_no_output(an_adapted_encoder: ImageEncoderViT, pixels: Tensor) -> None:
    with torch.no_grad():
        before = an_adapted_encoder(pixels)
        after = merge_lora(an_adapted_encoder)(pixels)
        plain = small_encoder()(pixels)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert (before - plain).abs().max() > 0.1  # there was something to merge


def test_a_merged_encoder_is_a_plain_one_again(an_adapted_encoder: ImageEncoderViT) -> None:
    merge_lora(an_adapted_encoder)
    plain = small_encoder()
    assert [(name, type(module)) for name, module in an_adapted_encoder.named_modules()] == [
        (name, type(module)) for name, module in plain.named_modules()
    ]
    assert vars(an_adapted_encoder).keys() == vars(plain).keys()
    plain.load_state_dict(an_adapted_encoder.state_dict())
    assert not any(parameter.requires_grad for parameter in an_adapted_encoder.parameters())
    assert not has_lora(an_adapted_encoder)
    add_lora(an_adapted_encoder, rank=2)
    assert {a.out_features for _, a, _ in lora_layers(an_adapted_encoder)} == {2}


@pytest.mark.parametrize(("kind", "expected"), [("vit_b", 147_456), ("vit_h", 655_360)])
def test_the_published_encoders_get_the_published_number_of_parameters(kind: str, expected: int) -> None:
    with torch.device("meta"):
        encoder = sam_model_registry[kind]().image_encoder
    add_lora(encoder, rank=4)
    assert sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad) == expected


@pytest.mark.parametrize("adapted_before", [True, False])
def test_lora_weights_survive_a_file(
    an_adapted_encoder: ImageEncoderViT, tmp_path: Path, adapted_before: bool, pixels: Tensor
) -> None:
    save_file(lora_state_dict(an_adapted_encoder), tmp_path / "lora.safetensors")
    other = small_encoder()
    if adapted_before:
        add_lora(other, RANK)
    load_lora_file(other, tmp_path / "lora.safetensors")
    with torch.no_grad():
        assert torch.equal(other(pixels), an_adapted_encoder(pixels))


def reference_file(path: Path, depth: int = DEPTH, width: int = WIDTH, rank: int = RANK) -> dict[str, Tensor]:
    """As SAMed saves: A and B numbered over q, v, q, v of the blocks, beside SAM's prompt encoder and mask
    decoder.
    """
    tensors = {f"w_a_{index:03d}": torch.randn(rank, width) for index in range(2 * depth)}
    tensors |= {f"w_b_{index:03d}": torch.randn(width, rank) for index in range(2 * depth)}
    torch.save(tensors | {"prompt_encoder.no_mask_embed.weight": torch.zeros(1, 16)}, path)
    return tensors


def test_the_published_lora_file_alternates_q_and_v(an_encoder: ImageEncoderViT, tmp_path: Path) -> None:
    tensors = reference_file(tmp_path / "best_model.pth")
    merge_lora(load_lora_file(an_encoder, tmp_path / "best_model.pth"))
    original = small_encoder()
    for index in range(DEPTH):
        (q, _, v), (q_merged, _, v_merged) = (
            rows(encoder.blocks[index].attn.qkv.weight) for encoder in (original, an_encoder)
        )
        delta_q, delta_v = (
            tensors[f"w_b_{2 * index + part:03d}"] @ tensors[f"w_a_{2 * index + part:03d}"] for part in (0, 1)
        )
        torch.testing.assert_close(q_merged, q + delta_q, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(v_merged, v + delta_v, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("other", [{"depth": DEPTH + 1}, {"depth": DEPTH - 1}, {"width": 48}])
def test_lora_of_another_encoder_is_refused_and_the_encoder_stays_as_it_was(
    an_encoder: ImageEncoderViT, tmp_path: Path, other: dict[str, int]
) -> None:
    reference_file(tmp_path / "lora.pth", **other)
    with pytest.raises(WeightsError, match=f"this one has {DEPTH} blocks and A of {RANK} x {WIDTH}"):
        load_lora_file(an_encoder, tmp_path / "lora.pth")
    assert not has_lora(an_encoder)
    assert all(parameter.requires_grad for parameter in an_encoder.parameters())


def test_lora_of_another_rank_is_refused(an_adapted_encoder: ImageEncoderViT) -> None:
    before = lora_state_dict(an_adapted_encoder)
    with pytest.raises(
        WeightsError, match=f"A of 8 x {WIDTH}, this one has {DEPTH} blocks and A of {RANK} x {WIDTH}"
    ):
        load_lora_state_dict(an_adapted_encoder, lora_state_dict(add_lora(small_encoder(), rank=8)))
    assert all(
        torch.equal(before[name], tensor) for name, tensor in lora_state_dict(an_adapted_encoder).items()
    )


def test_a_file_without_lora_is_refused(an_encoder: ImageEncoderViT) -> None:
    with pytest.raises(WeightsError, match="no LoRA weights"):
        lora_from_reference(dict(an_encoder.state_dict()))


def test_lora_is_not_added_twice_nor_merged_when_absent(an_adapted_encoder: ImageEncoderViT) -> None:
    with pytest.raises(ValueError, match="already"):
        add_lora(an_adapted_encoder)
    for use in (merge_lora, lora_state_dict):
        with pytest.raises(ValueError, match="add_lora first"):
            use(small_encoder())
