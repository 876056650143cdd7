"""Checkpoints of Simple-ViLMedSAM's decoder with the names and shapes of its public repository."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from wordmask.models.simple_vilmedsam.decoder import REFERENCE_NAMES

KEYS: dict[str, list[int]] = json.loads(
    (Path(__file__).with_name("published_decoder_keys.json")).read_text(encoding="utf-8")
)


def random_checkpoint() -> dict[str, dict[str, Tensor]]:
    """``{"model": tensors}`` of the published size."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.zeros((), dtype=torch.int64)
        if name.endswith("num_batches_tracked")
        else torch.rand(shape, generator=generator)
        for name, shape in KEYS.items()
    }
    return {"model": tensors}


def under_published_names(decoder: nn.Module) -> dict[str, Tensor]:
    """A decoder's weights of any size; the names are checked against those of the public repository."""
    theirs = {ours: name for name, ours in REFERENCE_NAMES.items()}
    named = {}
    for name, tensor in decoder.state_dict().items():
        prefix = max((ours for ours in theirs if name.startswith(f"{ours}.")), key=len)
        named[theirs[prefix] + name.removeprefix(prefix)] = tensor
    assert named.keys() == KEYS.keys()
    return named
