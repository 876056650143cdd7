"""CLIP-Surgery against its equations, written out token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.small_clips import SMALL
from torch import Tensor

from wordmask.encoders.clip import ClipEncoder, build_tiny_clip
from wordmask.encoders.clip_sources import BIOMED_VISION, build_bert_clip
from wordmask.encoders.clip_surgery import surgery_tokens
from wordmask.errors import WeightsError


@pytest.fixture
def a_clip() -> ClipEncoder:
    torch.manual_seed(1)
    clip = build_tiny_clip(SMALL.model_copy(update={"no_ln_pre": False}), [1, 2]).double().eval()
    for name, parameter in clip.named_parameters():
        if "bias" in name or "ln_" in name:  # which start as 0 or 1 and would hide a mistake
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    return clip.requires_grad_(False)


def slow(clip: ClipEncoder, pixels: Tensor, positions: np.ndarray, blocks: int) -> np.ndarray:
    """Tokens [T, E] of one picture from the equations of methods.md 4.1, with loops over heads and tokens."""
    weights = {name: tensor.numpy() for name, tensor in clip.model.visual.state_dict().items()}
    kernel = weights["conv1.weight"]
    size, grid = kernel.shape[-1], pixels.shape[-1] // kernel.shape[-1]
    picture = pixels[0].numpy()
    tokens = [weights["class_embedding"]]
    for y in range(grid):
        for x in range(grid):
            patch = picture[:, y * size : (y + 1) * size, x * size : (x + 1) * size]
            tokens.append((kernel * patch).sum((1, 2, 3)))
    hidden = norm(np.array(tokens) + positions, weights, "ln_pre")
    depth, heads = clip.depth, SMALL.width // SMALL.head_width
    second = None
    for number in range(depth):
        part = f"transformer.resblocks.{number}"
        normed = norm(hidden, weights, f"{part}.ln_1")
        projected = normed @ weights[f"{part}.attn.in_proj_weight"].T + weights[f"{part}.attn.in_proj_bias"]
        query, key, value = np.split(projected, 3, axis=1)
        if number >= depth - blocks:
            second = hidden if second is None else second
            second = second + attend(value, value, value, heads, weights, part)
        hidden = hidden + attend(query, key, value, heads, weights, part)
        inner = norm(hidden, weights, f"{part}.ln_2") @ weights[f"{part}.mlp.c_fc.weight"].T
        inner = torch.nn.functional.gelu(torch.from_numpy(inner + weights[f"{part}.mlp.c_fc.bias"])).numpy()
        hidden = hidden + inner @ weights[f"{part}.mlp.c_proj.weight"].T + weights[f"{part}.mlp.c_proj.bias"]
    joined = np.concatenate([hidden[:1], second[1:]])
    return norm(joined, weights, "ln_post") @ weights["proj"]


def norm(tokens: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    spread = np.sqrt(tokens.var(1, keepdims=True) + 1e-5)
    return (tokens - tokens.mean(1, keepdims=True)) / spread * weights[f"{name}.weight"] + weights[
        f"{name}.bias"
    ]


def attend(query, key, value, heads: int, weights: dict[str, np.ndarray], part: str) -> np.ndarray:
    width = query.shape[1] // heads
    mixed = np.zeros_like(value)
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        for token in range(len(query)):
            score = np.exp(key[:, own] @ query[token, own] / np.sqrt(width))
            mixed[token, own] = (score / score.sum()) @ value[:, own]
    return mixed @ weights[f"{part}.attn.out_proj.weight"].T + weights[f"{part}.attn.out_proj.bias"]


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_it_is_what_the_equations_say(a_clip, blocks):
    pixels = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    got = surgery_tokens(a_clip, pixels, blocks=blocks)
    positions = a_clip.model.visual.positional_embedding.numpy()
    assert got.shape == (1, 1 + 4 * 4, SMALL.embed_dim)
    assert np.allclose(got[0].numpy(), slow(a_clip, pixels, positions, blocks), atol=1e-10)


def test_positions_are_resampled_to_the_grid_of_the_picture(a_clip):
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    stored = a_clip.model.visual.positional_embedding
    grid = stored[1:].T.reshape(1, -1, 4, 4)
    grid = torch.nn.functional.interpolate(grid, size=(8, 8), mode="bilinear", align_corners=False)
    positions = torch.cat([stored[:1], grid[0].flatten(1).T]).numpy()
    got = surgery_tokens(a_clip, pixels, blocks=3)
    assert np.allclose(got[0].numpy(), slow(a_clip, pixels, positions, 3), atol=1e-10)


def test_the_class_token_is_that_of_the_plain_clip(a_clip):
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    plain = a_clip.tail(a_clip.head(pixels, 0), 0)
    assert torch.allclose(surgery_tokens(a_clip, pixels, blocks=3)[:, 0], plain)


def test_a_clip_that_cannot_be_operated_on_is_refused_with_a_sentence(a_clip):
    with pytest.raises(WeightsError, match="second path in 9 blocks, but this CLIP has 4"):
        surgery_tokens(a_clip, torch.zeros(1, 3, 32, 32, dtype=torch.float64), blocks=9)
    timm = ClipEncoder(build_bert_clip({**BIOMED_VISION, "timm_model_name": "vit_tiny_patch16_224"}), None)
    with pytest.raises(WeightsError, match="has a TimmModel; use OpenAI's CLIP"):
        surgery_tokens(timm, torch.zeros(1, 3, 224, 224), blocks=6)
