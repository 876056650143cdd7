"""One short text that changes whenever an encoder would compute something else.

The key of every cached feature.

Knows: the weights of a torch module. Does not know: which encoder it is; the caller says what the weights
alone do not show.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

DIGITS = 32  # 128 bits: two different encoders never meet by chance


def fingerprint(module: nn.Module, *, architecture: str = "") -> str:
    """Hexadecimal digest, 32 digits, of every weight and saved buffer (name, type, shape, bits) and of
    ``architecture``.

    architecture: what changes the output but not the weights, such as the number of heads, the activation,
    the pixels' mean. The same on every device. Reads all weights (a second for ViT-B/16 with BERT): call it
    once per load, not once per slice.
    """
    digest = hashlib.sha256(architecture.encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:DIGITS]
