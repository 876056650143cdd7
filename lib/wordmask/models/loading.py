"""Loads a model by its name, with its weights, on a device."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from wordmask.errors import UnknownModelError
from wordmask.models.base import Segmenter
from wordmask.models.registry import find_model, load_part, load_preset
from wordmask.models.taught.versions import load_taught

DEVICES = ("cpu", "cuda")  # Apple's mps is not supported yet


def segmenter_class(name: str) -> type[Segmenter]:
    """The class of a model; UnknownModelError names the most similar model."""
    found: type[Segmenter] = load_part(name, find_model(name).segmenter)
    return found


def choose_device(device: str) -> torch.device:
    """The device of a name; ``auto`` is the first CUDA device when there is one, else the CPU.

    Raises:
        UnknownModelError: the device does not exist, or this machine has no usable CUDA device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen: torch.device | None
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in DEVICES:
        raise UnknownModelError(f"There is no device {device!r}; use auto, cpu, cuda or cuda:0.")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UnknownModelError(
            f"Device {device!r} cannot be used, because this machine has no usable CUDA device; use "
            "--device cpu."
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UnknownModelError(
            f"There is no device {device!r}; the last CUDA device of this machine is "
            f"cuda:{torch.cuda.device_count() - 1}."
        )
    return chosen


def load_segmenter(
    name: str, *, preset: str = "tiny", device: str = "auto", weights: Path | None = None
) -> Segmenter:
    """Load a model with its weights, ready for inference: evaluation mode, no gradients.

    Args:
        name: of the model.
        preset: its name.
        device: auto, cpu, cuda or cuda:N.
        weights: folder of a published version (`versions.ModelStore.folder`); by default the preset's own
            weights.

    Raises:
        UnknownModelError: the model, the preset or the device does not exist.
        WeightsError: weights are missing or damaged.
    """
    chosen = choose_device(device)  # first, because a misspelt device should not wait for the weights
    numbers = load_preset(name, preset)
    model = segmenter_class(name)
    segmenter = load_taught(weights, partial(model.from_preset, numbers), partial(model.to_teach, numbers))
    return segmenter.to(chosen).eval().requires_grad_(False)
