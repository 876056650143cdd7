"""Reads checkpoints of the published MedCLIPSeg repository, which hold the whole network.

The names are mapped one to one (`NAMES`); a tensor that is missing, extra or of another shape is refused.
Knows names of tensors and the two encoders that such files contain; not slices, words or presets.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from wordmask.encoders.clip import ClipEncoder
from wordmask.encoders.clip_sources import BIOMED_VISION, UNIMED_VISION, biomed_tokenizer, build_bert_clip
from wordmask.encoders.tensors import read_tensors
from wordmask.errors import WeightsError

# Theirs -> ours, as regular expressions; the first that matches is used.
NAMES = (
    (r"logit_scale", "clip.model.logit_scale"),
    (r"vision_model\.(.+)", r"clip.model.visual.\1"),
    (r"text_model\.(.+)", r"clip.model.text.\1"),
    (r"mask_head\.(.+)", r"mask_head.\1"),
    (r"upscale\.(\d+)\.conv1\.(.+)", r"upscale.\1.enlarge.\2"),
    (r"upscale\.(\d+)\.conv2\.(.+)", r"upscale.\1.smooth.\2"),
    (r"upscale\.(\d+)\.norm\.(.+)", r"upscale.\1.norm.\2"),
    # Adapter j belongs to block j + 1.
    (r"pvl_adapters\.(\d+)\.proj_vis_down\.0\.weight", r"adapters.\1.image_down.weight"),
    (r"pvl_adapters\.(\d+)\.proj_txt_down\.weight", r"adapters.\1.text_down.weight"),
    (r"pvl_adapters\.(\d+)\.proj_vis_up\.weight", r"adapters.\1.image_up.weight"),
    (r"pvl_adapters\.(\d+)\.proj_txt_up\.weight", r"adapters.\1.text_up.weight"),
    (r"pvl_adapters\.(\d+)\.two_way\.cross_attn_img_to_txt\.(.+)", r"adapters.\1.to_image.\2"),
    (r"pvl_adapters\.(\d+)\.two_way\.cross_attn_txt_to_img\.(.+)", r"adapters.\1.to_text.\2"),
)
PARTS = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "norm_k": "key_norm",
    "norm_v": "value_norm",
}  # of an attention


def read_published(path: Path) -> tuple[ClipEncoder, dict[str, Tensor]]:
    """Read a checkpoint.

    Returns:
        The CLIP that the file contains, still with random weights, and all tensors by the names of
        `JointNetwork`.

    Raises:
        WeightsError: the file is damaged, or has a tensor that MedCLIPSeg does not have.
    """
    tensors = {_our_name(name, path): tensor for name, tensor in read_tensors(path).items()}
    biomed = "clip.model.visual.trunk.cls_token" in tensors
    model = build_bert_clip(BIOMED_VISION if biomed else UNIMED_VISION, quick_gelu=not biomed)
    return ClipEncoder(model, _tokenize).float().eval(), tensors


def refuse_misfits(path: Path, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
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
            f"{path.name} does not hold a whole MedCLIPSeg: {len(odd)} tensors are missing, extra or of "
            f"another shape, for example {odd[0]}; fetch the file again, or give one that was trained with "
            "ten adapters on ViT-B/16."
        )


def _our_name(name: str, path: Path) -> str:
    for pattern, ours in NAMES:
        if re.fullmatch(pattern, name):
            return ".".join(
                PARTS.get(part, part) if ours.startswith("adapters") else part
                for part in re.sub(pattern, ours, name).split(".")
            )
    raise WeightsError(
        f"{path.name} is not a checkpoint of the published MedCLIPSeg (it has a tensor {name!r}); give a "
        "file such as MedCLIPSeg_unimedclip_ViT-B-16_latest.pth."
    )


def _tokenize(texts: list[str], /) -> Tensor:
    """Token ids of both encoders; their tokenizer is looked for when a text is first read."""
    return biomed_tokenizer()(texts)
