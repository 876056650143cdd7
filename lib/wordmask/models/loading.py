"""From the name of a model to the model with its weights, on a device."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import torch

from wordmask.errors import UnknownModelError
from wordmask.models.base import Segmenter
from wordmask.models.registry import find_model, load_preset


def segmenter_class(name: str) -> type[Segmenter]:
    """The class of a model; UnknownModelError names the nearest right one."""
    found: type[Segmenter] = pkgutil.resolve_name(find_model(name).segmenter)
    return found


def choose_device(device: str) -> torch.device:
    """``auto`` is the first CUDA device when there is one, else the CPU; anything else is taken as it is."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UnknownModelError(f"There is no device {device!r}; use auto, cpu, cuda or cuda:0.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UnknownModelError(
            f"Device {device!r} was asked for, but this machine has no usable CUDA device; use --device cpu."
        )
    return chosen


def load_segmenter(
    name: str, *, preset: str = "tiny", device: str = "auto", weights: Path | None = None
) -> Segmenter:
    """A model with its weights, ready for inference: eval mode, no gradients.

    weights: the folder of a published version (`versions.ModelStore.folder`), else the preset's own.

    Raises UnknownModelError for an unknown model, preset or device, WeightsError when weights are missing or
    damaged.
    """
    chosen = choose_device(device)  # before weights are read: a misspelt device should not wait for them
    segmenter = segmenter_class(name).from_preset(load_preset(name, preset), weights)
    return segmenter.to(chosen).eval().requires_grad_(False)
