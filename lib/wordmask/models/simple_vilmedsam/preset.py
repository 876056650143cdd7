"""The preset of Simple-ViLMedSAM (configs/models/simple_vilmedsam)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from wordmask.models.presets import ClipSamPreset, Settings


class DecoderPreset(Settings):
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
        default="m2ib", description="which map shows the decoder where the word is"
    )
    word_token: bool = Field(
        default=False, description="the text embedding also reaches the decoder directly (beyond the paper)"
    )


class SimpleViLMedSAMPreset(ClipSamPreset):
    """CLIP, SAM, the bottleneck, and the decoder."""

    decoder: DecoderPreset = DecoderPreset()
