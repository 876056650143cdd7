"""The settings that presets of all models share; each model's own class adds to them (<model>/preset.py).

The classes define meanings and limits, the YAML files in configs/models/<model>/ the numbers. A misspelt key
is refused. Knows the encoders' configurations; not torch, volumes or the server.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from wordmask.encoders.configs import ClipConfig, SamConfig


class Settings(BaseModel):
    """Base of a preset and of its sections: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PresencePreset(Settings):
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


class Preset(Settings):
    """The settings of every model; the base of each model's own preset class."""

    model: str
    name: str
    title: str
    description: str
    presence: PresencePreset | None = None
    weights: str | None = Field(
        default=None, description="folder with weights.safetensors and card.json; None: public weights only"
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

    def advise_on_unknown_word(self, trained: Collection[str]) -> str:
        """What to do when the model refuses a word, for the end of a sentence.

        Args:
            trained: the words that it knows, where they are a list.
        """
        return "use a preset with public weights, or train it on your own labels."


class BottleneckPreset(Settings):
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


class SamPromptsPreset(Settings):
    """How a coarse object becomes prompts for SAM, and SAM's answers one mask (methods.md 2.1)."""

    prompts: Literal["boxes", "points", "both"] = "boxes"
    positive: PositiveInt = Field(default=10, description="points inside, where points are used")
    negative: int = Field(default=0, ge=0, description="points outside")
    fusion: Literal["single", "mean", "scored", "staple"] = Field(
        default="single",
        description="single: SAM's one mask; else its three: averaged plainly (mean), by their scores "
        "stretched to 0..1 (scored), or by STAPLE",
    )


class ClipSamPreset(Preset):
    """The settings of models with a CLIP, a SAM, and an information bottleneck between word and image."""

    clip: ClipConfig
    sam: SamConfig
    bottleneck: BottleneckPreset
