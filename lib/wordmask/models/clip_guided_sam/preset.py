"""The preset of CLIP-Guided SAM (configs/models/clip_guided_sam)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from wordmask.encoders.configs import ClipConfig, SamConfig
from wordmask.models.presets import Preset, Settings

DEPTHS = {"vit_b": 12, "vit_l": 24, "vit_h": 32}  # blocks of SAM's image encoders


class SurgeryPreset(Settings):
    """How CLIP looks at a slice (methods.md 4.1)."""

    image_size: PositiveInt = Field(
        default=512, description="side of CLIP's input, in pixels; a multiple of its patch size"
    )
    blocks: PositiveInt = Field(default=6, description="last blocks with a second path")


class AdapterPreset(Settings):
    """The adapters in SAM's image encoder (methods.md 4.2)."""

    width: PositiveInt = Field(default=192, description="channels inside an adapter")
    semantic_blocks: PositiveInt | None = Field(
        default=None,
        description="last blocks that see the word; the others are computed once per slice. None: all",
    )


class MapPromptsPreset(Settings):
    """How the similarity map becomes prompts for SAM's mask decoder (methods.md 4.1)."""

    points: PositiveInt = Field(default=5, description="points inside")
    threshold: float = Field(default=0.8, gt=0, lt=1, description="where the map, 0..1, is inside")


class CLIPGuidedSAMPreset(Preset):
    """A CLIP, a SAM, and the adapters through which the first guides the second."""

    clip: ClipConfig
    sam: SamConfig
    surgery: SurgeryPreset = SurgeryPreset()
    adapters: AdapterPreset = AdapterPreset()
    prompts: MapPromptsPreset = MapPromptsPreset()
    empty_prompt: bool = Field(
        default=True, description="whether what CLIP makes of sentences without a word is subtracted"
    )
    form: Literal["paper", "released"] = Field(
        default="paper",
        description="released: the quirks of the released code (methods.md 4.2, 4.3), for its checkpoints",
    )

    @model_validator(mode="after")
    def _semantic_blocks_exist(self) -> Self:
        depth = DEPTHS.get(self.sam.kind, self.sam.architecture.depth)
        wanted = self.adapters.semantic_blocks
        if wanted is not None and wanted > depth:
            raise ValueError(f"SAM's encoder has {depth} blocks, so semantic_blocks cannot be {wanted}")
        return self
