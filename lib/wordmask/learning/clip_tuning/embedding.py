"""The CLIP that is tuned: its weights at the start, and embeddings of pictures and texts.

Knows a CLIP, bundles of weights and arrays of pictures; not recipes, not what is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.encoders.clip import ClipEncoder, load_clip
from wordmask.encoders.tiny_tokenizer import token_ids_of
from wordmask.learning.clip_tuning.batches import Bytes
from wordmask.models.clip_sam import with_rows
from wordmask.models.medclip_samv2.preset import MedCLIPSAMv2Preset
from wordmask.models.word_scores import ClipWithScores
from wordmask.progress import CancelToken
from wordmask.weights.checkpoint import load_checkpoint

TUNED = ("clip.", "scores.")  # of a bundle: what a tuning starts from and may change
ENCODED = 32  # pictures at a time, where nothing is learned


def start_clip(preset: MedCLIPSAMv2Preset, start: Path | None, captions: Sequence[str]) -> ClipWithScores:
    """Load the preset's CLIP, lay the weights of a version over it, and freeze it.

    Args:
        preset: whose CLIP.
        start: folder of the version; None: the preset's own weights.
        captions: tiny's text table gets rows for the new tokens in them, random at first.

    Raises:
        WeightsError: weights are missing, damaged or of another architecture.
    """
    bundles = [
        load_checkpoint(location).only(TUNED) for location in (preset.weights, start) if location is not None
    ]
    known = bundles[-1].token_ids if bundles else ()
    wanted = sorted({*known, *token_ids_of(captions)}) if known else []
    model = ClipWithScores(load_clip(preset.clip, token_ids=wanted))
    for bundle in bundles:
        with_rows(bundle, wanted).overlay(model)
    return model.eval().requires_grad_(False)


def unit_pixels(pictures: Bytes, rows: Sequence[int], device: torch.device) -> Tensor:
    """Some of [N, 3, S, S] uint8 as [B, 3, S, S] in 0..1."""
    return torch.from_numpy(pictures[list(rows)]).to(device).float() / 255


def image_embeddings(clip: ClipEncoder, pixels: Tensor) -> Tensor:
    """Embeddings [B, E], not of unit length, of pictures [B, 3, S, S] in 0..1."""
    return clip.tail(clip.head(clip.normalise(pixels), 0), 0)


def embed_pictures(clip: ClipEncoder, pictures: Bytes, rows: Sequence[int], cancel: CancelToken) -> Tensor:
    """[N, E], unit length, float32 on the CPU, of pictures [all, 3, S, S] uint8 at ``rows``."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), ENCODED):
            cancel.check()
            pixels = unit_pixels(pictures, rows[start : start + ENCODED], clip.logit_scale.device)
            parts.append(F.normalize(image_embeddings(clip, pixels).float(), dim=1).cpu())
    return torch.cat(parts)


def embed_texts(clip: ClipEncoder, texts: Sequence[str]) -> Tensor:
    """[N, E], unit length, on the CPU; equal texts have equal rows, to the last bit."""
    distinct = list(dict.fromkeys(texts))
    with torch.inference_mode():
        embedding = clip.encode_text(distinct).float().cpu()
    place = {text: row for row, text in enumerate(distinct)}
    return embedding[[place[text] for text in texts]]
