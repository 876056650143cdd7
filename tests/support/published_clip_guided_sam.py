"""Checkpoints with the names and shapes of the published CLIP-Guided SAM, at its size or narrow."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import Tensor, nn

from wordmask.encoders.clip import ClipEncoder

Tables = dict[str, dict[str, Tensor]]
KEYS: dict[str, dict[str, list[int]]] = json.loads(
    (Path(__file__).with_name("published_clip_guided_sam_keys.json")).read_text(encoding="utf-8")
)
CLIP, SAM = "clip_model", "model_state_dict"
WIDTH, HEADS, EMBED = 24, 2, 16  # of the narrow networks: both encoders' tokens, and CLIP's embeddings
# Sizes of the published encoders -> of the narrow ones. SAM's prompt encoder and mask decoder stay.
NARROW = {
    768: WIDTH, 2304: 3 * WIDTH, 3072: 4 * WIDTH, 512: EMBED, 1536: 3 * EMBED, 2048: 4 * EMBED,
}  # fmt: skip


def shapes(*, narrow: bool) -> dict[str, dict[str, list[int]]]:
    """Table of the file -> name -> shape."""
    return {
        table: {name: _narrow(name, shape) if narrow else shape for name, shape in tensors.items()}
        for table, tensors in KEYS.items()
    }


def _narrow(name: str, shape: list[int]) -> list[int]:
    if name.startswith(("prompt_encoder", "mask_decoder")):
        return shape
    if "rel_pos" in name:
        return [shape[0], WIDTH // HEADS]
    return [NARROW.get(size, size) for size in shape]


def random_tables(*, narrow: bool) -> Tables:
    """Random tensors, about as large as trained ones."""
    generator = torch.Generator().manual_seed(0)
    tables: Tables = {}
    for table, named in shapes(narrow=narrow).items():
        tables[table] = {}
        for name, shape in named.items():
            tensor = torch.randn(shape, generator=generator)
            tensor *= 0.3 if len(shape) < 2 else 1 / np.sqrt(np.prod(shape[1:]))
            if re.search(r"(norm\d?|ln_\w+|neck\.[13])\.weight$", name):
                tensor += 1
            tables[table][name] = tensor
    # What the surgery leaves behind is block 6's attention.
    for name in tables[CLIP]:
        if name.startswith("visual.attn."):
            tables[CLIP][name] = tables[CLIP][name.replace("visual.", "visual.transformer.resblocks.6.", 1)]
    return tables


def save(path: Path, tables: Tables) -> None:
    """Write a file as the released code does, with what stands beside the weights."""
    beside = {
        "epoch": 7,
        "clip_decoder": None,
        "logit_scale": torch.tensor(4.6),
        "optimizer_state_dict": {"state": {}},
        "scheduler_state_dict": None,
        "val_loss": 0.3,
        "best_val": np.float64(0.3),
        "best_IoU": np.float32(0.7),
        "best_MAE": 0.02,
        "best_mae_per_set": {"CAMO": np.float64(0.04)},
    }
    torch.save({**beside, **tables}, path)


def narrow_encoders() -> tuple[ClipEncoder, Sam]:
    """CLIP and SAM of the published depth with narrow tokens; SAM without values."""
    with torch.device("meta"):
        sam = sam_model_registry["vit_b"]()
        sam.image_encoder = ImageEncoderViT(
            embed_dim=WIDTH, num_heads=HEADS, norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True, window_size=14, global_attn_indexes=(2, 5, 8, 11),
        )  # fmt: skip
    clip = open_clip.CLIP(
        EMBED,
        {"image_size": 512, "layers": 12, "width": WIDTH, "head_width": WIDTH // HEADS, "patch_size": 16},
        {"context_length": 77, "vocab_size": 49408, "width": EMBED, "heads": HEADS, "layers": 12},
        quick_gelu=True,
    )
    return ClipEncoder(clip, open_clip.get_tokenizer("ViT-B-16-quickgelu")), sam
