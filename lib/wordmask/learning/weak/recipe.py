"""How nnU-Net is trained on zero-shot masks (methods.md 2.4).

Numbers with meaning and limits; the values are in configs/recipes/weak.

Knows numbers; not nnU-Net, not images. What is not named here is nnU-Net's own choice.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from wordmask.learning.recipes import AnyRecipe
from wordmask.learning.schedules import decay_in_cycles


class WeakRecipe(AnyRecipe):
    """The numbers of a weakly supervised training; only its images and words are not here."""

    kind = "weak"
    default = "small"

    description: str
    epochs: PositiveInt = Field(description="of all cycles together")
    cycles: PositiveInt = Field(
        default=3, description="of the learning rate; each gives members of the ensemble"
    )
    save_last: PositiveInt = Field(description="epochs at the end of a cycle whose networks are kept")
    iterations: PositiveInt = Field(default=250, description="steps per epoch")
    rate: PositiveFloat = Field(default=0.01, description="learning rate at the beginning of a cycle")
    gamma: float = Field(
        default=0.8, gt=0, le=1, description="share of a cycle after which the learning rate stays"
    )
    weight_decay: float = Field(default=3e-5, ge=0)
    side: int = Field(
        ge=32,
        le=2048,
        description="of the square that the network sees, in pixels; the whole slice lies in it",
    )
    batch: PositiveInt | None = Field(
        default=None, description="slices per step; None: as nnU-Net plans it for 8 GB of GPU memory"
    )
    features: PositiveInt = Field(
        default=32, description="channels of the first stage; they double at each, up to most_features"
    )
    most_features: PositiveInt = 512
    workers: int = Field(
        default=0,
        ge=0,
        le=64,
        description="processes that augment; 0: none, and the same seed gives the same weights",
    )
    mirror: Literal["pictures", "never"] = Field(
        default="pictures",
        description="whether slices are mirrored and rotated; volumes and words with a side never are",
    )
    negatives: float = Field(
        default=0.2, ge=0, le=0.9, description="share of slices without any mask, at most"
    )
    threshold: float = Field(
        default=0.5, gt=0, lt=1, description="of the mean probability, above which a pixel is marked"
    )
    validation: float = Field(
        default=0.3, gt=0, lt=1, description="share of labelled cases that judge and are not learned from"
    )
    seed: int = 1

    @field_validator("cycles")
    @classmethod
    def _cycles_are_of_one_length(cls, cycles: int, info: ValidationInfo) -> int:
        epochs = info.data.get("epochs", cycles)
        if epochs % cycles:
            raise ValueError(f"{epochs} epochs cannot be divided into {cycles} cycles of one length")
        return cycles

    @model_validator(mode="after")
    def _a_cycle_has_the_epochs_that_are_kept(self) -> Self:
        if self.save_last > self.epochs // self.cycles:
            raise ValueError(
                f"save_last is {self.save_last}, but a cycle has {self.epochs // self.cycles} epochs"
            )
        return self

    def rate_in(self, epoch: int) -> float:
        """The learning rate of an epoch (0-based)."""
        factor = decay_in_cycles(epoch, epochs=self.epochs, cycles=self.cycles, gamma=self.gamma)
        return self.rate * factor

    def is_member(self, epoch: int) -> bool:
        """Whether the network after this epoch (0-based) is kept: the last ``save_last`` of a cycle are."""
        length = self.epochs // self.cycles
        return epoch % length >= length - self.save_last
