"""The names and shapes in a checkpoint of the published MedCLIPSeg, written from its description."""

from __future__ import annotations

Shape = tuple[int, ...]


def published_shapes(
    kind: str, *, blocks: int = 12, width: int = 768, words: int = 30522
) -> dict[str, Shape]:
    """Name -> shape of the file's ``model``.

    kind: unimedclip or biomedclip; blocks, width: of both towers, words: of BERT's vocabulary.
    """
    found: dict[str, Shape] = {"logit_scale": ()}
    found |= _timm(blocks, width) if kind == "biomedclip" else _open_clip(blocks, width)
    found |= _bert(blocks, width, words)
    for number in (0, 2, 4):
        found |= {f"mask_head.{number}.weight": (512, 512), f"mask_head.{number}.bias": (512,)}
    for number in (0, 1):
        found |= {
            f"upscale.{number}.conv1.weight": (512, 512, 2, 2),
            f"upscale.{number}.conv1.bias": (512,),
            f"upscale.{number}.conv2.weight": (512, 1, 3, 3),
            f"upscale.{number}.norm.weight": (512,),
            f"upscale.{number}.norm.bias": (512,),
        }
    for number in range(10):
        found |= {f"pvl_adapters.{number}.{name}": shape for name, shape in _adapter(width).items()}
    return found


def _adapter(width: int) -> dict[str, Shape]:
    found: dict[str, Shape] = {
        "proj_vis_down.0.weight": (256, width),
        "proj_txt_down.weight": (256, width),
        "proj_vis_up.weight": (width, 256),
        "proj_txt_up.weight": (width, 256),
    }
    for direction in ("img_to_txt", "txt_to_img"):
        part = f"two_way.cross_attn_{direction}"
        found[f"{part}.gate"] = ()
        for name, rows in (("q_proj", 256), ("k_proj", 512), ("v_proj", 512), ("out_proj", 256)):
            found |= {f"{part}.{name}.weight": (rows, 256), f"{part}.{name}.bias": (rows,)}
        for name in ("norm_k", "norm_v"):
            found |= {f"{part}.{name}.weight": (256,), f"{part}.{name}.bias": (256,)}
    return found


def _open_clip(blocks: int, width: int) -> dict[str, Shape]:
    found: dict[str, Shape] = {
        "class_embedding": (width,),
        "positional_embedding": (197, width),
        "proj": (width, 512),
        "conv1.weight": (width, 3, 16, 16),
        **_norm("ln_pre", width),
        **_norm("ln_post", width),
    }
    for number in range(blocks):
        block = f"transformer.resblocks.{number}"
        found |= {
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
            **_linear(f"{block}.attn.out_proj", width, width),
            **_linear(f"{block}.mlp.c_fc", 4 * width, width),
            **_linear(f"{block}.mlp.c_proj", width, 4 * width),
            **_norm(f"{block}.ln_1", width),
            **_norm(f"{block}.ln_2", width),
        }
    return {f"vision_model.{name}": shape for name, shape in found.items()}


def _timm(blocks: int, width: int) -> dict[str, Shape]:
    found: dict[str, Shape] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 197, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        **_norm("norm", width),
    }
    for number in range(blocks):
        block = f"blocks.{number}"
        found |= {
            **_linear(f"{block}.attn.qkv", 3 * width, width),
            **_linear(f"{block}.attn.proj", width, width),
            **_linear(f"{block}.mlp.fc1", 4 * width, width),
            **_linear(f"{block}.mlp.fc2", width, 4 * width),
            **_norm(f"{block}.norm1", width),
            **_norm(f"{block}.norm2", width),
        }
    trunk = {f"vision_model.trunk.{name}": shape for name, shape in found.items()}
    return {**trunk, "vision_model.head.proj.weight": (512, width)}


def _bert(blocks: int, width: int, words: int) -> dict[str, Shape]:
    found: dict[str, Shape] = {
        "embeddings.word_embeddings.weight": (words, width),
        "embeddings.position_embeddings.weight": (512, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        **_norm("embeddings.LayerNorm", width),
    }
    for number in range(blocks):
        layer = f"encoder.layer.{number}"
        for name in ("query", "key", "value"):
            found |= _linear(f"{layer}.attention.self.{name}", width, width)
        found |= {
            **_linear(f"{layer}.attention.output.dense", width, width),
            **_norm(f"{layer}.attention.output.LayerNorm", width),
            **_linear(f"{layer}.intermediate.dense", 4 * width, width),
            **_linear(f"{layer}.output.dense", width, 4 * width),
            **_norm(f"{layer}.output.LayerNorm", width),
        }
    inside = (width + 512) // 2
    return {
        **{f"text_model.transformer.{name}": shape for name, shape in found.items()},
        "text_model.proj.0.weight": (inside, width),
        "text_model.proj.2.weight": (512, inside),
    }


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, rows: int, columns: int) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
