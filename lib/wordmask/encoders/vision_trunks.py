"""The vision towers of CLIPs, block by block: open_clip's own vision transformer, and timm's.

Knows their classes; not tokens of texts, pixels' normalisation, or files of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.models import vision_transformer as timm_vit
from torch import Tensor, nn
from torch.nn import functional

from wordmask.errors import WeightsError


class VisionTrunk(Protocol):
    """One kind of vision transformer, block by block, on [N, T, D].

    The T tokens are the class token first, then the patches row by row.
    """

    blocks: Sequence[nn.Module]
    grid: int
    width: int

    @property
    def facts(self) -> tuple[object, ...]: ...

    def embed(self, pixels: Tensor) -> Tensor: ...

    def class_only(self, block: Any, tokens: Tensor) -> Tensor: ...

    def project(self, tokens: Tensor) -> Tensor: ...


class OpenClipVision:
    """open_clip's own VisionTransformer (tiny, OpenAI)."""

    def __init__(self, visual: Any) -> None:
        blocks = visual.transformer.resblocks
        plain = visual.attn_pool is None and visual.pool_type == "tok" and not visual.final_ln_after_pool
        if not plain or any(type(block) is not ResidualAttentionBlock for block in blocks):
            raise WeightsError(
                "This CLIP is not a plain vision transformer with one class token; use one with ViT-B/16."
            )
        self.visual, self.blocks = visual, blocks
        self.grid, self.width = square(visual.grid_size), visual.conv1.out_channels
        self.facts = (
            "open_clip",
            blocks[0].attn.num_heads,
            type(blocks[0].mlp.gelu).__name__,
            type(visual.ln_pre).__name__,
        )

    def embed(self, pixels: Tensor) -> Tensor:
        return self.visual._embeds(pixels)

    def class_only(self, block: Any, tokens: Tensor) -> Tensor:
        """The class token after ``block``, [N, 1, D]; it still attends to every token of [N, T, D]."""
        normed = block.ln_1(tokens)
        x = tokens[:, :1] + block.ls_1(block.attention(normed[:, :1], normed, normed))
        return x + block.ls_2(block.mlp(block.ln_2(x)))

    def project(self, tokens: Tensor) -> Tensor:
        return self.visual.ln_post(tokens) @ self.visual.proj


class TimmVision:
    """A vision transformer of timm inside open_clip's TimmModel (BiomedCLIP)."""

    def __init__(self, visual: Any) -> None:
        trunk = visual.trunk
        plain = isinstance(trunk, timm_vit.VisionTransformer) and all(
            _is_plain(block) for block in trunk.blocks
        )
        if not plain or trunk.global_pool != "token" or trunk.num_prefix_tokens != 1:
            raise WeightsError(
                "This CLIP's timm trunk is not a plain vision transformer with one class token; use a "
                "ViT-B/16."
            )
        self.visual, self.trunk, self.blocks = visual, trunk, trunk.blocks
        self.grid, self.width = square(trunk.patch_embed.grid_size), trunk.embed_dim
        first: Any = trunk.blocks[0]
        self.facts = ("timm", first.attn.num_heads, type(first.mlp.act).__name__, first.norm1.eps)

    def embed(self, pixels: Tensor) -> Tensor:
        return self.trunk.norm_pre(
            self.trunk.patch_drop(self.trunk._pos_embed(self.trunk.patch_embed(pixels)))
        )

    def class_only(self, block: Any, tokens: Tensor) -> Tensor:
        """The class token after ``block``, [N, 1, D]; it still attends to every token of [N, T, D].

        q comes from the first third of the fused qkv, k and v from the rest.
        """
        attention, normed = block.attn, block.norm1(tokens)
        weight, bias, inner = attention.qkv.weight, attention.qkv.bias, attention.qkv.weight.shape[0] // 3
        query = functional.linear(normed[:, :1], weight[:inner], None if bias is None else bias[:inner])
        key, value = functional.linear(normed, weight[inner:], None if bias is None else bias[inner:]).chunk(
            2, dim=-1
        )
        q, k, v = (
            part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        mixed = functional.scaled_dot_product_attention(attention.q_norm(q), attention.k_norm(k), v)
        x = tokens[:, :1] + block.drop_path1(
            block.ls1(attention.proj_drop(attention.proj(mixed.transpose(1, 2).flatten(2))))
        )
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

    def project(self, tokens: Tensor) -> Tensor:
        trunk = self.trunk
        return self.visual.head(trunk.head(trunk.head_drop(trunk.fc_norm(trunk.norm(tokens)))))


def vision_trunk(visual: Any) -> VisionTrunk:
    """The blocks of a vision tower.

    Raises:
        WeightsError: it is not a plain vision transformer with one class token.
    """
    if isinstance(visual, VisionTransformer):
        return OpenClipVision(visual)
    if hasattr(visual, "trunk"):
        return TimmVision(visual)
    raise WeightsError(
        f"This CLIP's vision tower is a {type(visual).__name__}; use one with a vision transformer, "
        "such as ViT-B/16."
    )


def _is_plain(block: Any) -> bool:
    """Whether `TimmVision.class_only` computes the same as timm's ``block``.

    Newer blocks may gate or normalise the attended tokens.
    """
    usual = (
        type(block) is timm_vit.Block
        and type(block.attn) is timm_vit.Attention
        and getattr(block.attn, "gate", None) is None
    )
    return usual and isinstance(getattr(block.attn, "norm", nn.Identity()), nn.Identity)


def square(size: int | tuple[int, int]) -> int:
    """The side of a square size; WeightsError: it is not square."""
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise WeightsError(
            f"This CLIP's pictures are not square ({height} x {width}); use one with square pictures, such "
            "as ViT-B/16."
        )
    return height
