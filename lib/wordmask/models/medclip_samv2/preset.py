"""The preset of MedCLIP-SAMv2 (configs/models/medclip_samv2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wordmask.models.presets import ClipSamPreset, SamPromptsPreset


class ZeroShotPreset(SamPromptsPreset):
    """How a map becomes prompts for SAM (methods.md 2.1)."""

    prompt_set: Literal["P0", "P1", "P2", "P3", "P4", "P5"] = Field(
        default="P0", description="which sentences CLIP reads for a word (prompt_sets)"
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
    seed: int = Field(default=42, description="of the points")


class MedCLIPSAMv2Preset(ClipSamPreset):
    """CLIP, SAM, the bottleneck, and how its map becomes prompts for SAM."""

    zero_shot: ZeroShotPreset = ZeroShotPreset()
