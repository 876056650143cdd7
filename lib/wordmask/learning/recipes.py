"""Recipes: the numbers of a training, with meaning and limits.

configs/recipes/<kind>/<name>.yaml holds the values.

Knows numbers; not models, not data.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from wordmask.errors import RequestError
from wordmask.resources import config_names, look_up, read_config, suggest

Views = Literal["weak", "medium", "strong"]


class AnyRecipe(BaseModel):
    """Base of the recipes of all kinds of training; the values of a kind are in configs/recipes/<kind>."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: ClassVar[str]
    default: ClassVar[str]

    name: str

    @classmethod
    def default_for(cls, preset: str) -> str:
        """The recipe that is taken when none is asked for."""
        return cls.default

    @classmethod
    def names(cls) -> list[str]:
        """The recipes that ship, in alphabetical order."""
        return config_names("recipes", cls.kind)

    @classmethod
    def load(cls, name: str, /, **changes: Any) -> Self:
        """A recipe, with some of its numbers changed.

        Raises:
            RequestError: there is no such recipe or number, or a value cannot be used.
        """
        look_up(name, cls.names(), "recipe", RequestError)
        if "name" in changes:
            raise RequestError(f"The setting 'name' of recipe {name!r} cannot be changed; leave it out.")
        values = yaml.safe_load(read_config("recipes", cls.kind, f"{name}.yaml"))
        try:
            return cls.model_validate({"name": name, **values, **changes})
        except ValidationError as error:
            first = error.errors()[0]
            setting = ".".join(map(str, first["loc"]))
            owner = (
                f"The setting {setting!r} of recipe {name!r}"
                if setting
                else f"Recipe {name!r} with these settings"
            )
            hint = suggest(setting, cls.model_fields) if first["type"] == "extra_forbidden" else ""
            raise RequestError(f"{owner} cannot be used: {first['msg']}.{hint}") from error


class TeachingRecipe(AnyRecipe):
    """How a model is taught words with a few labelled cases: everything about the training but its data."""

    kind = "teaching"
    default = "few_shot"

    description: str
    steps: PositiveInt = Field(description="of each pretrained network")
    lean_steps: PositiveFloat = Field(
        default=1.5, description="steps of a lean network, as a multiple: it is cheap and starts from scratch"
    )
    batch: PositiveInt = Field(default=16, description="slices per step")
    rate: PositiveFloat = Field(default=3e-3, description="peak learning rate; it falls to 1 % with a cosine")
    encoder_share: float = Field(
        default=0.3, ge=0, le=1, description="rate of pretrained encoders, as a share of the other"
    )
    weight_decay: float = Field(default=1e-4, ge=0)
    picture_views: Views = Field(
        default="strong", description="how much the views of a picture differ from it"
    )
    lean_picture_views: Views = Field(
        default="medium", description="the same for a lean network, which strong views are too much for"
    )
    volume_views: Views = Field(
        default="weak", description="how much the views of a volume's slices differ, which look more alike"
    )
    mirror: bool = Field(
        default=True, description="whether pictures are mirrored, where no word of theirs has a side"
    )
    negatives: float = Field(
        default=0.3, ge=0, le=0.9, description="share of slices of a batch that do not show the word"
    )
    fewest_negatives: PositiveInt = Field(
        default=8, description="pictures that do not show the word; with fewer, none of them is learned from"
    )
    replay: float = Field(
        default=0.5, ge=0, le=0.9, description="share of steps that repeat words which were taught before"
    )
    held_out: float = Field(
        default=0.2, ge=0, le=0.4, description="share of cases that each network does not learn from"
    )
    members: tuple[Literal["pretrained", "lean"], ...] = Field(
        default=("pretrained", "pretrained", "lean"),
        min_length=1,
        max_length=4,
        description="networks of the committee",
    )
    encoder: str = Field(default="efficientnet_lite0", description="of the pretrained networks")
    sides: tuple[PositiveInt, ...] = Field(
        default=(64, 128), min_length=1, description="of the squares that the networks see, ascending"
    )
    frozen_dice: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Dice on the given cases from which on the frozen model's own answer takes part",
    )
    frozen_dropout: float = Field(
        default=0.5, ge=0, le=1, description="how often the frozen model's answer is hidden in the training"
    )
    seed: int = 1

    def steps_of(self, kind: str) -> int:
        """Steps of a network of a kind, "pretrained" or "lean"."""
        return round(self.steps * (self.lean_steps if kind == "lean" else 1))


class ZeroShotRecipe(TeachingRecipe):
    """How a model is taught words with its own zero-shot masks."""

    kind = "zero_shot_masks"
    default = "zero_shot_masks"


class FineTuningRecipe(AnyRecipe):
    """How a model itself learns from labelled cases: what all such trainings have in common."""

    description: str
    epochs: int = Field(ge=1, le=10_000, description="at most; early stopping and minutes may end it before")
    minutes: PositiveFloat | None = Field(
        default=None, description="end after so many, with what is best until then"
    )
    batch: PositiveInt = Field(description="(slice, word) pairs per step")
    accumulate: PositiveInt = Field(
        default=1, description="steps whose gradients are added before the weights change"
    )
    steps_per_epoch: PositiveInt | None = Field(
        default=None, description="None: every pair that shows its word comes once"
    )
    negatives: float = Field(
        default=0.3, ge=0, le=0.9, description="share of pairs whose slice does not show the word"
    )
    views: PositiveInt = Field(
        default=24, description="of each slice at most: itself, and others that are turned, scaled and tinted"
    )
    all_views: PositiveInt = Field(
        default=480, description="of all slices together, as features of each are computed; but two of each"
    )
    mirror: Literal["pictures", "always", "never"] = Field(
        default="pictures",
        description="which images are mirrored and turned by 90 degrees; then left and right words swap",
    )
    synonyms: float = Field(
        default=0.3, ge=0, le=1, description="how often a word is shown by one of its synonyms"
    )
    replay: float = Field(
        default=0.25, ge=0, le=0.9, description="share of pairs that repeat words which were learned before"
    )
    weight_decay: float = Field(default=1e-4, ge=0)
    warm_up: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="share of all steps with rising learning rate; then a cosine to 1 %",
    )
    presence_weight: float = Field(default=0.25, ge=0, description="of the loss of the presence logit")
    validation: float = Field(default=0.2, gt=0, lt=1, description="share of cases that are not learned from")
    share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the other new cases that are learned from, to see what fewer would give",
    )
    validate_every: PositiveInt = Field(default=1, description="epochs")
    patience: PositiveInt = Field(
        default=10, description="validations without improvement after which the training ends"
    )
    seed: int = 1

    def views_of_each(self, slices: int) -> int:
        """How many views each of so many slices gets.

        Few pictures are seen many ways, because what is seen too often is learned by heart.
        """
        return min(self.views, max(2, self.all_views // max(1, slices)))


class Recipe(FineTuningRecipe):
    """How Simple-ViLMedSAM is fine-tuned: everything about the training but its data."""

    kind = "finetuning"
    default = "decoder"

    decoder_rate: PositiveFloat = Field(
        description="peak learning rate of the decoder, where a word is new to the weights"
    )
    known_decoder_rate: PositiveFloat = Field(
        default=3e-5,
        description=(
            "the same where they know all words: what they have "
            "is then worth keeping, and few cases would spoil it"
        ),
    )
    text_rate: PositiveFloat = Field(
        default=2e-4, description="of tiny's text tower; public text towers are frozen"
    )
    fresh_decoder: bool = Field(
        default=False, description="start with a random decoder instead of that of the version in use"
    )
    ipp: bool = Field(
        default=True,
        description="with the implicit position prompt; false only in a fresh decoder, for ablations",
    )
    bid: bool = Field(
        default=True, description="with the bidirectional interaction decoder; false only in a fresh decoder"
    )
    lora_rank: int = Field(
        default=0, ge=0, le=64, description="of SAM's encoder; 0: it is frozen and computed once per view"
    )
    lora_rate: PositiveFloat = 2e-4
    anchor_weight: float = Field(
        default=10.0, ge=0, description="price of moving the embedding of a word that was learned before"
    )

    @model_validator(mode="after")
    def _only_a_fresh_decoder_can_lack_a_part(self) -> Self:
        if not (self.ipp and self.bid) and not self.fresh_decoder:
            raise ValueError("a decoder without a part has to be a fresh one; set fresh_decoder=true, too")
        return self


class AdapterRecipe(FineTuningRecipe):
    """How MedCLIPSeg's adapters and mask head learn (methods.md 3.3, 3.4)."""

    kind = "adapters"
    default = "adapters"

    @classmethod
    def default_for(cls, preset: str) -> str:
        """``small`` for the preset tiny."""
        return "small" if preset == "tiny" else cls.default

    rate: PositiveFloat = Field(default=3e-4, description="peak learning rate")
    bare: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="how often a word is shown as it is typed; else in a sentence about the mask",
    )
    contrast_weight: float = Field(
        default=0.1, ge=0, description="of the loss that tells the texts of a batch apart (SoftCon)"
    )
    dice: Literal["image", "rows"] = Field(
        default="image",
        description="rows: of each row of pixels but the first, as the released code computes it",
    )


class GuidedRecipe(FineTuningRecipe):
    """How CLIP-Guided SAM's adapters, prompt encoder and mask decoder learn (methods.md 4.4)."""

    kind = "guided"
    default = "paper"

    @classmethod
    def default_for(cls, preset: str) -> str:
        """``small`` for the preset tiny."""
        return "small" if preset == "tiny" else cls.default

    rate: PositiveFloat = Field(default=5e-5, description="peak learning rate")
    word_only: float = Field(
        default=0.4, ge=0, le=1, description="how often a pair is prompted by the word alone"
    )
    clicks_only: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="how often by clicks, from an empty mask; else by clicks on the mask of the word",
    )
    clicks: PositiveInt = Field(
        default=3, description="at most; a pair gets 1 to so many, each in the largest error that is left"
    )

    @model_validator(mode="after")
    def _shares_are_at_most_all(self) -> Self:
        if self.word_only + self.clicks_only > 1:
            raise ValueError("word_only and clicks_only are shares of the same pairs; together at most 1")
        return self
