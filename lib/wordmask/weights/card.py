"""The card of trained weights: card.json beside them, which says what they are and how they were trained.

Every training writes one and fills in its own fields; the others keep their defaults. Knows fields and their
types; not the trainings that write them, nor the weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, StrictInt, StrictStr

Scores = dict[str, float | None]
"""Word -> mean Dice; None where it could not be computed."""


class RetrievalScores(BaseModel):
    """How often a held-out picture's caption ranks first in its batch, and the reverse."""

    model_config = ConfigDict(extra="allow", frozen=True)

    image_to_text_top1: float
    text_to_image_top1: float

    @property
    def top1(self) -> float:
        """Mean of both directions, 0..1."""
        return (self.image_to_text_top1 + self.text_to_image_top1) / 2


class RetrievalCheck(BaseModel):
    """Retrieval before and after a tuning of CLIP; None where no pair was held out."""

    model_config = ConfigDict(extra="allow", frozen=True)

    before: RetrievalScores | None = None
    after: RetrievalScores | None = None


class PresenceCheck(BaseModel):
    """Whether scores of presence can still be used after a tuning of CLIP."""

    model_config = ConfigDict(extra="allow", frozen=True)

    holds: bool = False


class PresenceLimit(BaseModel):
    """When a taught word counts as present: where a score of the slice is above a limit.

    The score is a weighted sum of the contrast of the part of its mask that stands out, and of what the whole
    slice looks like to an encoder that learned from photographs.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    limit: float
    contrast: float = Field(default=1.0, description="weight of the contrast")
    pooled: tuple[float, ...] = Field(
        default=(), description="weights of the pooled features of a picture; empty: they do not count"
    )
    absent_cases: int = Field(
        default=0, description="held-out cases without the structure, which it rests on"
    )
    kept_empty: float | None = Field(default=None, description="share of these that stay unmarked, 0..1")
    kept_found: float | None = Field(
        default=None, description="share of held-out cases with the structure that stay marked, 0..1"
    )


class TaughtWord(BaseModel):
    """What a committee knows of one word."""

    model_config = ConfigDict(extra="allow", frozen=True)

    weights: tuple[float, ...] = Field(
        description="of each network, of the linear member and of the frozen model; their sum is 1"
    )
    frozen: bool = Field(default=False, description="whether the frozen model's answer takes part")
    single: bool = Field(
        default=False,
        description="whether it is always one piece: of a picture, only one part is then marked",
    )
    presence: PresenceLimit | None = Field(
        default=None, description="None: too few cases without the structure to judge whether it is there"
    )


class CommitteeCard(BaseModel):
    """Form of a committee (wordmask.models.taught)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    encoder: str = Field(description="of pretrained members")
    members: tuple[Literal["pretrained", "lean"], ...] = Field(min_length=1)
    sides: tuple[PositiveInt, ...] = Field(
        min_length=1, description="of the squares that it sees, ascending; the smallest that holds a slice"
    )
    mirror: bool = Field(default=True, description="whether pictures are also seen mirrored")
    words: dict[str, TaughtWord] = Field(description="key of a word -> what is known of it")
    held_out: tuple[str, ...] = Field(
        default=(),
        description="names of the cases that the first member never learns from, because they judge it",
    )

    def with_words(self, keys: Iterable[str], **facts: Any) -> CommitteeCard:
        """A copy with some facts about some words changed."""
        changed = {key: self.words[key].model_copy(update=facts) for key in keys}
        return self.model_copy(update={"words": {**self.words, **changed}})


class Card(BaseModel):
    """A card of any training.

    Fields that this release does not know are kept: a newer one may have written them.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    title: str | None = None
    model: str | None = None
    preset: str | dict[str, Any] | None = Field(
        default=None, description="its name; the whole preset in the card of bundled weights"
    )
    parent: int | None = Field(
        default=None, description="the version that the training started from; None: the preset's own weights"
    )
    start_sha256: str | None = Field(
        default=None, description="of the file of weights that the training started from"
    )
    weights_sha256: str | None = Field(default=None, description="of the file of weights as it was published")
    date: str | None = None
    forced: bool = Field(default=False, description="published without regard to the check")

    words: tuple[StrictStr, ...] = Field(default=(), description="all that the weights were trained on")
    learned: tuple[StrictStr, ...] = Field(
        default=(), description="those learned from labels, by this version or those before it"
    )
    token_ids: tuple[StrictInt, ...] = Field(default=(), description="rows of the tiny text table")
    phantom_generator: int | None = Field(
        default=None, description="version of the phantoms that bundled weights were trained on"
    )

    training_cases: tuple[str, ...] = ()
    validation_cases: tuple[str, ...] = ()
    training_groups: int | None = Field(
        default=None, description="images or patients with captions that were learned from"
    )
    validation_dice: Scores = {}
    validation_dice_before: Scores = {}
    retrieval: RetrievalCheck | None = None
    presence: PresenceCheck | None = None
    limits: dict[str, PresenceLimit] = Field(
        default={}, description="learned words whose absence the model itself can judge"
    )

    committee: CommitteeCard | None = Field(
        default=None, description="the form of the committee that answers for taught words"
    )
    decoder: dict[str, Any] = Field(
        default={}, description="the decoder's form where it differs from the preset's"
    )
    network: dict[str, Any] | None = Field(default=None, description="nnU-Net's network")
    side: PositiveInt | None = Field(
        default=None, description="of the square that nnU-Net's network sees, in pixels"
    )
    members: PositiveInt | None = Field(default=None, description="networks of nnU-Net's ensemble")
    threshold: PositiveFloat | None = Field(
        default=None, description="of the mean probability of nnU-Net's ensemble"
    )

    def as_json(self) -> dict[str, Any]:
        """What the file holds: the fields that were given, ready for JSON."""
        return self.model_dump(mode="json", exclude_unset=True)
