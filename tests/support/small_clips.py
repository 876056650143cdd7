"""Sizes, words and pictures for the tests of CLIP."""

from __future__ import annotations

import torch
from torch import Tensor

from wordmask.encoders.clip import ClipEncoder
from wordmask.encoders.configs import TinyClipArchitecture

WORDS = ["liver", "left kidney", "a very much longer description of the right kidney"]
SMALL = TinyClipArchitecture(image_size=32, width=64, layers=4, embed_dim=24, text_width=32, text_heads=2)
ENCODERS = ["tiny", "openai", "biomedclip"]


def pictures(encoder: ClipEncoder, count: int = 3) -> Tensor:
    size = encoder.image_size
    return encoder.normalise(torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(4)))
