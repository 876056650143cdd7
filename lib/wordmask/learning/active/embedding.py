"""Where an image lies among others: features that have learned from photographs, the same for every model.

Knows volumes, windows and the pixel encoder; not models, not strategies.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from wordmask.data.letterbox import Letterbox
from wordmask.data.volumes import Volume
from wordmask.encoders.pixel_encoder import PixelEncoder, load_pixel_encoder
from wordmask.inference.request import choose_window, cut_volume
from wordmask.models.presets import Preset
from wordmask.progress import CancelToken
from wordmask.words.prompts import Prompt

ENCODER, SIDE, STRIDE = "efficientnet_lite0", 128, 16
WIDTH = 112  # of an embedding: the channels of the encoder's deepest map
MOST_SLICES = 16  # evenly spread; more change little and cost time


@torch.no_grad()
def embed_image(
    volume: Volume, prompt: Prompt, preset: Preset, *, cancel: CancelToken | None = None
) -> list[float]:
    """The mean of an encoder's deepest map over the slices that a request for the word would look at.

    Args:
        volume: the image.
        prompt: the word, which chooses the CT window.
        preset: of the model, likewise.
        cancel: its ``cancel()`` ends the work with CancelledError.

    Returns:
        `WIDTH` numbers of unit length; empty where the volume shows only air.

    Raises:
        WeightsError: the encoder's weights are missing.
    """
    view = cut_volume(volume, plane="auto", slices=None, skip_air=True)
    window = choose_window(prompt, volume, None, preset)[1]
    places = np.linspace(0, len(view.looked_at) - 1, min(MOST_SLICES, len(view.looked_at))).round()
    means = []
    for place in places.astype(int).tolist():
        if cancel is not None:
            cancel.check()
        pixels = torch.from_numpy(view.unit_range([view.looked_at[place]], window))
        frame = Letterbox.fit((pixels.shape[-2], pixels.shape[-1]), (SIDE, SIDE), "top_left")
        deepest = _encoder()(frame.to_model(pixels) * 2 - 1)[-1][0]
        height, width = (
            max(1, round(size * scale / STRIDE))
            for size, scale in zip(frame.original, frame.scale, strict=True)
        )
        means.append(deepest[:, :height, :width].mean((1, 2)))
    if not means:
        return []
    mean = torch.stack(means).double().mean(0)
    return [round(value, 6) for value in (mean / mean.norm().clamp_min(1e-12)).tolist()]


@cache
def _encoder() -> PixelEncoder:
    return load_pixel_encoder(ENCODER).eval().requires_grad_(False)
