"""Reads checkpoints in the format of the published CLIP-Guided SAM code, which hold CLIP and SAM whole.

The names are mapped one to one (`CLIP_NAMES`, `SAM_NAMES`); a tensor that is missing, extra or of another
shape is refused. Knows names of tensors and the two encoders that such files contain; not slices, words or
presets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from wordmask.encoders.clip import ClipEncoder
from wordmask.encoders.tensors import read_content, without_parallel_prefix
from wordmask.errors import WeightsError

CLIP_SIZE = 512  # pixels of CLIP's input, for which the released code resamples its positions
CLIP_TABLE, SAM_TABLE = "clip_model", "model_state_dict"  # where the file has the two
# Theirs -> ours, as regular expressions; the first that matches is used. Empty: not needed.
CLIP_NAMES = (
    # What the surgery leaves behind: block 6's attention a second time.
    (r"visual\.attn\.(qkv|proj)\.(weight|bias)", ""),
    # The surgery renames the attention of the last six blocks.
    (
        r"(visual\.transformer\.resblocks\.(?:[6-9]|1[01])\.attn)\.qkv\.(weight|bias)",
        r"clip.model.\1.in_proj_\2",
    ),
    (
        r"(visual\.transformer\.resblocks\.(?:[6-9]|1[01])\.attn)\.proj\.(weight|bias)",
        r"clip.model.\1.out_proj.\2",
    ),
    (r"(.+)", r"clip.model.\1"),
)
_BLOCK = r"image_encoder\.blocks\.(\d+)\."
SAM_NAMES = (
    (_BLOCK + r"Space_Adapter\.D_fc1\.(.+)", r"regular.\1.down.\2"),
    (_BLOCK + r"Space_Adapter\.D_fc2\.(.+)", r"regular.\1.up.\2"),
    (_BLOCK + r"MLP_Adapter\.D_fc1\.(.+)", r"semantic.\1.down.\2"),
    (_BLOCK + r"MLP_Adapter\.D_fc2\.(.+)", r"semantic.\1.up.\2"),
    (_BLOCK + r"MLP_Adapter\.text_projection\.(.+)", r"semantic.\1.text.\2"),
    (_BLOCK + r"MLP_Adapter\.vis_projection\.(.+)", r"semantic.\1.vision.\2"),
    (r"(.+)", r"sam.\1"),
)
EXPECTED = (
    "give a checkpoint of the published CLIP-Guided SAM (supervised_best_IoU__...pth), which holds CLIP "
    "ViT-B/16 and SAM ViT-B whole."
)


def build_encoders() -> tuple[ClipEncoder, Sam]:
    """The CLIP and the SAM of such files, not loaded: SAM has no values yet, CLIP random ones."""
    config = deepcopy(open_clip.get_model_config("ViT-B-16-quickgelu"))
    config["vision_cfg"]["image_size"] = CLIP_SIZE
    with torch.device("meta"):
        sam = sam_model_registry["vit_b"]()
    return ClipEncoder(CLIP(**config), open_clip.get_tokenizer("ViT-B-16-quickgelu")), sam


def read_published(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint.

    Returns:
        All tensors by the names of `GuidedNetwork`, float32.

    Raises:
        WeightsError: the file is missing, damaged, or of another format.
    """
    content = read_content(path)
    found: dict[str, Tensor] = {}
    for table, names in ((SAM_TABLE, SAM_NAMES), (CLIP_TABLE, CLIP_NAMES)):
        tensors = content.get(table) if isinstance(content, Mapping) else None
        if (
            not isinstance(tensors, Mapping)
            or not tensors
            or not all(isinstance(tensor, Tensor) for tensor in tensors.values())
        ):
            raise WeightsError(f"{path.name} has no table of tensors {table!r}; {EXPECTED}")
        found |= our_names(without_parallel_prefix(tensors), names)
    return {name: tensor.float() for name, tensor in found.items()}


def our_names(tensors: Mapping[str, Tensor], names: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """The tensors of a table of the file by the names of `GuidedNetwork`.

    Args:
        tensors: by the file's names.
        names: `CLIP_NAMES` or `SAM_NAMES`.
    """
    found = {}
    for name, tensor in tensors.items():
        pattern, ours = next(pair for pair in names if re.fullmatch(pair[0], name))
        if ours:
            found[re.sub(f"^{pattern}$", ours, name)] = tensor
    return found


def refuse_misfits(path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise WeightsError when names or shapes differ.

    Args:
        path: the file, for the message.
        wanted: the network's own tensors.
        found: those of the file, by the same names.
    """
    odd = sorted(
        name
        for name in wanted.keys() | found.keys()
        if name not in wanted or name not in found or wanted[name].shape != found[name].shape
    )
    if odd:
        raise WeightsError(
            f"{path.name} does not hold a whole CLIP-Guided SAM: {len(odd)} tensors are missing, extra or of "
            f"another shape, for example {_describe(odd[0], wanted, found)}; {EXPECTED}"
        )


def _describe(name: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    if name not in found:
        return f"{name} is missing"
    if name not in wanted:
        return f"{name} is extra"
    return f"{name} is {list(found[name].shape)} instead of {list(wanted[name].shape)}"
