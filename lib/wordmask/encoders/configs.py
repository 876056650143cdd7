"""Which CLIP and which SAM a preset stands on, and the sizes of the tiny ones.

Knows numbers; not torch, so that presets are read without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class TinyClipArchitecture(BaseModel):
    """Sizes of the tiny CLIP (docs/tiny.md); about 1.5 M parameters with the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: PositiveInt = Field(default=112, description="side of the square picture, in pixels")
    patch_size: PositiveInt = Field(default=8, description="side of a patch, in pixels")
    width: PositiveInt = Field(default=128, description="channels of the vision transformer")
    layers: PositiveInt = Field(default=6, description="its blocks")
    head_width: PositiveInt = Field(default=32, description="channels per attention head")
    embed_dim: PositiveInt = Field(default=128, description="length of image and text embeddings")
    text_width: PositiveInt = 96
    text_layers: PositiveInt = 2
    text_heads: PositiveInt = 3
    context_length: int = Field(default=12, ge=3, description="tokens per text, start and end included")
    no_ln_pre: bool = Field(
        default=True, description="no LayerNorm before block 0, so that SAM's encoder can start from it"
    )

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        for whole, part in (
            ("image_size", "patch_size"),
            ("width", "head_width"),
            ("text_width", "text_heads"),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{whole} must be a multiple of {part}, got {getattr(self, whole)} and "
                    f"{getattr(self, part)}"
                )
        return self


class ClipConfig(BaseModel):
    """Which CLIP, and where it comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(
        pattern=r"^(tiny|(weights|openai|hf-hub|local-dir):.+)$",
        description=(
            "tiny | weights:NAME of `wordmask weights` | openai:ViT-B-16 | hf-hub:OWNER/NAME | "
            "local-dir:FOLDER with its files"
        ),
    )
    architecture: TinyClipArchitecture | None = Field(
        default=None, description="of tiny only; its defaults when left out"
    )
    checkpoint: str | None = Field(
        default=None, description="of openai only: a weights file instead of a download"
    )

    @model_validator(mode="after")
    def _extras_fit_the_source(self) -> Self:
        if self.architecture is not None and self.source != "tiny":
            raise ValueError(f"an architecture can be given for source tiny only, not for {self.source!r}")
        if self.checkpoint is not None and not self.source.startswith("openai:"):
            raise ValueError(f"a checkpoint can be given for an openai source only, not for {self.source!r}")
        return self


class TinySamArchitecture(BaseModel):
    """Sizes of the SAM that is small enough to ship; block for block it fits the tiny CLIP's vision tower."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: PositiveInt = Field(default=160, description="pixels along one side of the square input")
    patch_size: PositiveInt = Field(default=8, description="pixels along one side of a patch")
    width: PositiveInt = Field(default=128, description="channels of a token")
    depth: PositiveInt = Field(default=6, description="transformer blocks, all with global attention")
    heads: PositiveInt = 4
    mlp_ratio: PositiveInt = 4
    out_channels: PositiveInt = Field(
        default=64, description="channels of the image embedding and of the mask decoder"
    )
    decoder_mlp: PositiveInt = Field(
        default=256, description="hidden width of the mask decoder's transformer"
    )
    decoder_heads: PositiveInt = 4

    @property
    def grid(self) -> int:
        """Cells along one side of the image embedding."""
        return self.image_size // self.patch_size


class SamConfig(BaseModel):
    """Which SAM a preset stands on; the tiny one's weights come with the preset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["tiny", "vit_b", "vit_l", "vit_h"]
    checkpoint: Path | None = Field(
        default=None, description="weights as published (.pth) or safetensors; None: the catalogue's"
    )
    image_size: PositiveInt | None = Field(
        default=None, multiple_of=16, description="pixels of the frame; None: as trained"
    )
    architecture: TinySamArchitecture = Field(
        default=TinySamArchitecture(), description="sizes of kind tiny only"
    )

    @model_validator(mode="after")
    def _tiny_has_one_size(self) -> Self:
        if self.kind == "tiny" and self.image_size not in (None, self.architecture.image_size):
            raise ValueError(
                f"kind tiny has its size in architecture ({self.architecture.image_size}), not "
                f"{self.image_size}"
            )
        return self
