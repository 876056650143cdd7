"""The fingerprint of an encoder: a short text that changes whenever its output may change.

It is part of the key of every cached feature. Knows the weights of a torch module; not which encoder it is,
so the caller adds what the weights alone do not show.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

DIGITS = 32  # 128 bits: two different encoders never meet by chance


def fingerprint(module: nn.Module, *, architecture: str = "") -> str:
    """Digest of every weight and saved buffer (name, type, shape, bits) and of ``architecture``.

    It is the same on every device. All weights are read (a second for ViT-B/16 with BERT), so call it once
    per load, not once per slice.

    Args:
        module: the encoder.
        architecture: what changes the output but not the weights, such as the number of heads, the
            activation, or the pixels' mean.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256(architecture.encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:DIGITS]
