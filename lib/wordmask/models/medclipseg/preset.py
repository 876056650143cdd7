"""The preset of MedCLIPSeg (configs/models/medclipseg)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from wordmask.encoders.configs import ClipConfig
from wordmask.models.presets import Preset, Settings


class AdapterPreset(Settings):
    """Where and how image and text exchange what they know (methods.md 3.2)."""

    first: int = Field(default=1, ge=1, description="first block (0-based) whose inputs are adapted")
    last: int = Field(default=10, ge=-1, description="last such block; below the first: no adapters")
    width: PositiveInt = 256
    beta: PositiveFloat = Field(default=2.35, description="how much an uncertain key loses, in deviations")
    gate: float = Field(default=0.0, description="of both directions, before the sigmoid, at the start")
    probabilistic: bool = Field(
        default=True, description="whether values are drawn; otherwise their means are used (for ablations)"
    )
    see_padding: bool = Field(
        default=False, description="whether the image also reads padding tokens, as the published code does"
    )

    @property
    def blocks(self) -> range:
        """The blocks whose inputs are adapted."""
        return range(self.first, self.last + 1)


class MedCLIPSegPreset(Preset):
    """A CLIP, the adapters between its towers, and the mask head."""

    clip: ClipConfig
    adapters: AdapterPreset = AdapterPreset()
    upscale: PositiveInt = Field(default=2, description="blocks that double the side of the patch grid")
    samples: PositiveInt = Field(default=8, description="masks that are drawn and averaged")
    seed: int = Field(default=42, description="of what is drawn")
    frame: Literal["center", "stretch"] = Field(
        default="center", description="how a slice becomes a square: padded around, or stretched"
    )
    pixels: Literal["clip", "published"] = Field(
        default="clip",
        description="published: blue first, with ImageNet's mean and deviation, as the released weights want",
    )

    @model_validator(mode="after")
    def _one_sample_is_enough_without_noise(self) -> Self:
        if not self.adapters.probabilistic and self.samples != 1:
            raise ValueError("without noise all samples are the same; set samples to 1")
        return self
