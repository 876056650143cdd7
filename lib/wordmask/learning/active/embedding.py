"""Where an image lies among others: features that have learned from photographs, the same for every model.

Knows volumes, windows and the pixel encoder; not models, not strategies.
"""

from __future__ import annotations

import numpy as np
import torch

from wordmask.data.volumes import Volume
from wordmask.encoders.pixel_encoder import pool_slices
from wordmask.inference.request import choose_window, cut_volume
from wordmask.models.presets import Preset
from wordmask.progress import CancelToken
from wordmask.words.prompts import Prompt

WIDTH = 304  # of an embedding
MOST_SLICES = 16  # evenly spread; more change little and cost time


def embed_image(
    volume: Volume, prompt: Prompt, preset: Preset, *, cancel: CancelToken | None = None
) -> list[float]:
    """The mean of `pool_slices` over the slices that a request for the word would look at.

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
    pooled = []
    for place in places.astype(int).tolist():
        if cancel is not None:
            cancel.check()
        pooled.append(pool_slices(torch.from_numpy(view.unit_range([view.looked_at[place]], window)))[0])
    if not pooled:
        return []
    mean = torch.stack(pooled).double().mean(0)
    return [round(value, 6) for value in (mean / mean.norm().clamp_min(1e-12)).tolist()]
