"""CLIP-Surgery: patch features of a CLIP that fit its text embeddings, without any training.

Written from methods.md 4.1. In the last blocks a second path adds up what attention finds when values take
the place of queries and keys, so that a patch attends to patches with the same content. Knows open_clip's own
vision transformer; not words, SAM or slices.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor

from wordmask.encoders.clip import ClipEncoder
from wordmask.errors import WeightsError


def surgery_tokens(clip: ClipEncoder, pixels: Tensor, *, blocks: int) -> Tensor:
    """Embeddings of the class token and of the patches, not normalised.

    The second path starts as the hidden state that enters the first of the last ``blocks`` blocks. Both
    attentions of a block read the normalised *original* path and share their weights; the second path has no
    MLP. Patches come from the second path, the class token from the original one.

    Args:
        clip: with open_clip's own vision transformer.
        pixels: [N, 3, s, s], normalised; s is any multiple of the patch size, positions are resampled.
        blocks: how many blocks have a second path; at least 1.

    Returns:
        [N, 1 + g * g, E]; row 0 is the class token, then the patches row by row.

    Raises:
        WeightsError: the vision tower is of another kind, or has fewer blocks.
    """
    visual: Any = clip.model.visual  # open_clip's modules are not typed
    if not isinstance(visual, VisionTransformer):
        raise WeightsError(
            f"CLIP-Surgery needs open_clip's own vision transformer, and this CLIP has a "
            f"{type(visual).__name__}; use OpenAI's CLIP ViT-B/16."
        )
    first = clip.depth - blocks
    if first < 0:
        raise WeightsError(
            f"The preset asks for a second path in {blocks} blocks, but this CLIP has {clip.depth}; "
            "choose another CLIP or fewer blocks."
        )
    hidden = _embed(visual, pixels)
    for block in visual.transformer.resblocks[:first]:
        hidden = block(hidden)
    second = hidden
    for block in visual.transformer.resblocks[first:]:
        ordinary, by_value = _both_attentions(block.attn, block.ln_1(hidden))
        second = second + block.ls_1(by_value)
        hidden = hidden + block.ls_1(ordinary)
        hidden = hidden + block.ls_2(block.mlp(block.ln_2(hidden)))
    return clip.project(torch.cat([hidden[:, :1], second[:, 1:]], dim=1))


def _embed(visual: Any, pixels: Tensor) -> Tensor:
    """The input of the first block, [N, 1 + g * g, D], with positions of the grid of these pixels."""
    patches = visual.conv1(pixels)
    size = patches.shape[-2:]
    positions = visual.positional_embedding
    if tuple(size) != tuple(visual.grid_size):
        grid = positions[1:].T.unflatten(1, visual.grid_size)[None]
        grid = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
        positions = torch.cat([positions[:1], grid[0].flatten(1).T])
    tokens = patches.flatten(2).mT
    first = visual.class_embedding.expand(len(tokens), 1, -1)
    hidden: Tensor = visual.ln_pre(torch.cat([first, tokens], dim=1) + positions)
    return hidden


def _both_attentions(attention: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
    """Ordinary self-attention, and attention of values to values; both [N, T, D]."""
    projected = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1)
    )
    ordinary, by_value = (
        attention.out_proj(F.scaled_dot_product_attention(*inputs).transpose(1, 2).flatten(2))
        for inputs in ((query, key, value), (value, value, value))
    )
    return ordinary, by_value
