"""How a tuning of CLIP on captions goes.

Numbers with meaning and limits; configs/recipes/clip_tuning/<name>.yaml holds the values.

Knows numbers; not models, not data. The published ones stand in methods.md 2.2.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from wordmask.learning.recipes import AnyRecipe


class TuneRecipe(AnyRecipe):
    """The numbers of a tuning of CLIP; only its pairs are not here."""

    kind = "clip_tuning"
    default = "paper"

    description: str
    loss: Literal["dhn_nce", "info_nce"] = "dhn_nce"
    temperature: PositiveFloat = Field(
        description="what cosines are divided by in the loss; fixed, not learned"
    )
    beta_image: float = Field(
        default=0.15, ge=0, description="weight of hard negatives, image to text; of dhn_nce only"
    )
    beta_text: float = Field(default=0.15, ge=0, description="the same, text to image")
    batch: int = Field(
        ge=2, description="pairs per step; fewer where captions repeat too often to fill a step"
    )
    epochs: int = Field(ge=1, le=10_000)
    learning_rate: PositiveFloat = Field(description="of both towers, at the start")
    decay: float = Field(
        default=0.5, gt=0, le=1, description="factor on the learning rate every ``decay_every`` epochs"
    )
    decay_every: PositiveInt
    weight_decay: float = Field(default=0.1, ge=0, description="of AdamW; not on biases and norms")
    held_out: float = Field(default=0.15, gt=0, lt=1, description="share of the groups that only judge")
    least_characters: int = Field(default=20, ge=0, description="shorter captions of a list are left out")
    slices_per_case: PositiveInt = Field(default=5, description="slices of a labelled case that get captions")
    caption_words: PositiveInt | None = Field(
        default=None,
        description="structures that such a caption names, the largest first; None: all that the slice shows",
    )
    seed: int = 1

    @classmethod
    def default_for(cls, preset: str) -> str:
        """Tiny has a recipe of its own."""
        return "tiny" if preset == "tiny" else cls.default
