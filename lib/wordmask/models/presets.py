"""Presets: the classes hold meaning and limits, the YAML files in configs/models/<model>/ hold the numbers.

A misspelt key is refused. Knows the encoders' configurations; not volumes, not the server.
"""

from __future__ import annotations

from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from wordmask.encoders.clip import ClipConfig
from wordmask.encoders.sam import SamConfig
from wordmask.errors import UnknownModelError
from wordmask.resources import config_names, read_config, suggest


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BottleneckPreset(_Settings):
    """How the information bottleneck is fitted (methods.md 0.5)."""

    layer: int = Field(
        ge=0,
        description=(
            "CLIP block (0-based) after which noise is mixed in; after the last one the words would not "
            "matter"
        ),
    )
    beta: PositiveFloat = Field(description="price of one nat that passes")
    steps: int = Field(
        ge=2,
        description="forward passes per (slice, word) pair; the map is taken after steps - 1 updates",
    )
    learning_rate: PositiveFloat = 1.0
    replicas: PositiveInt = Field(default=1, description="noise samples per step")
    seed: int = 42


class DecoderPreset(_Settings):
    """Size and variant of the position-prompt decoder (Simple-ViLMedSAM, methods.md 1.2 to 1.4)."""

    channels: PositiveInt = Field(default=256, description="channels of SAM's image embedding")
    grid: PositiveInt = Field(default=64, description="cells along one side of SAM's image embedding")
    heads: PositiveInt = 8
    mlp: PositiveInt = Field(default=2048, description="hidden width of both MLPs")
    widths: tuple[PositiveInt, PositiveInt] = Field(
        default=(64, 128), description="channels of the first two convolutions of the position prompt"
    )
    upsampler_widths: tuple[PositiveInt, PositiveInt, PositiveInt] = (128, 64, 32)
    ipp: bool = Field(
        default=True, description="the implicit position prompt; without it, one linear layer (for ablations)"
    )
    bid: Literal["code", "paper", "none"] = Field(
        default="code",
        description="form of the bidirectional interaction decoder; none adds the prompt (for ablations)",
    )
    prior: Literal["m2ib", "similarity", "both"] = Field(
        default="m2ib", description="which map tells the decoder where the word is"
    )
    word_token: bool = Field(
        default=False, description="the text embedding also reaches the decoder directly (beyond the paper)"
    )
    refiner: bool = Field(
        default=False,
        description="a small U-Net on the pixels corrects what the decoder draws (beyond the paper)",
    )


class ZeroShotPreset(_Settings):
    """How MedCLIP-SAMv2 makes prompts for SAM of a map (methods.md 2.1); the others do not use it."""

    prompt_set: Literal["P0", "P1", "P2", "P3", "P4", "P5"] = Field(
        default="P0", description="what CLIP is told of a word (prompt_sets)"
    )
    split: Literal["two_means", "fixed"] = Field(
        default="two_means", description="which part of a map is the object, roughly"
    )
    threshold: float = Field(default=0.3, ge=0, le=1, description="of the fixed split, on maps in 0..1")
    least_area: float = Field(
        default=0.0, ge=0, lt=1, description="a coarse object that covers less of the slice is dropped"
    )
    least_confidence: float = Field(
        default=0.0, ge=0, le=1, description="likewise one whose mean map is lower"
    )
    prompts: Literal["boxes", "points", "both"] = "boxes"
    positive: PositiveInt = Field(default=10, description="points inside, where points are used")
    negative: int = Field(default=0, ge=0, description="points outside")
    fusion: Literal["single", "mean", "scored", "staple"] = Field(
        default="single",
        description=(
            "SAM's one mask; or its three: averaged plainly or by their scores (stretched to 0..1), or STAPLE"
        ),
    )
    seed: int = Field(default=42, description="of the points")


class PresencePreset(_Settings):
    """When a word counts as absent (docs/presence.md shows the curve behind the numbers)."""

    slice_logit: float = Field(
        default=0.0, description="a (slice, word) pair below this presence logit is not segmented"
    )
    volume_logit: float = Field(
        default=0.0, description="a word whose best slices stay below this is not in the volume"
    )
    minimum_area: float = Field(
        default=0.0, ge=0, lt=1, description="a word whose largest slice covers less of the frame is dropped"
    )
    words: dict[str, float] = Field(
        default_factory=dict, description="volume_logit of single words, where one number does not fit all"
    )


class Preset(_Settings):
    """Everything that `load_segmenter` needs to know about one model of one size."""

    model: str
    name: str
    title: str
    description: str
    clip: ClipConfig
    sam: SamConfig
    bottleneck: BottleneckPreset
    teacher: str | None = Field(
        default=None,
        description=(
            "model whose masks this one learns from; what is not given here is as in its preset of the same "
            "name"
        ),
    )
    decoder: DecoderPreset = DecoderPreset()
    zero_shot: ZeroShotPreset = ZeroShotPreset()
    presence: PresencePreset | None = None
    weights: str | None = Field(
        default=None,
        description="folder with weights.safetensors and card.json; None: public weights only",
    )
    unknown_words: Literal["refuse", "segment"] = "segment"
    windows: tuple[str, ...] = Field(
        default=(), description="CT windows the weights were trained on; empty: any"
    )
    threshold: float = Field(default=0.5, ge=0, le=1)
    slice_batch: PositiveInt = Field(
        description="slices per internal batch; a fixed shape, the last batch is padded"
    )
    pair_batch: PositiveInt = Field(description="(slice, word) pairs per internal batch; likewise fixed")


def preset_names(model: str) -> list[str]:
    """The presets that ship for a model, in alphabetical order."""
    return config_names("models", model)


def load_preset(model: str, name: str) -> Preset:
    """Read configs/models/<model>/<name>.yaml; UnknownModelError names the nearest right one."""
    names = preset_names(model)
    if name not in names:
        raise UnknownModelError(
            f"Model {model!r} has no preset {name!r}.{suggest(name, names)} Presets: {', '.join(names)}."
        )
    try:
        values = _values(model, name)
        if teacher := values.get("teacher"):
            values = _values(teacher, name) | values
        return Preset(model=model, name=name, **values)
    except (ValidationError, yaml.YAMLError) as error:
        raise UnknownModelError(f"Preset {name!r} of model {model!r} is not valid: {error}") from error


def _values(model: str, name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(read_config("models", model, f"{name}.yaml"))
    return values
