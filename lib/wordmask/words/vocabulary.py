"""The vocabulary: names, codes, colours and windows of the structures that WordMask knows.

Words that it does not have can be asked for all the same (`wordmask.words.prompts`). Knows
configs/vocabulary.yaml; not what a model was trained on, torch, images or the server.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from rapidfuzz import process
from rapidfuzz.distance import DamerauLevenshtein

from wordmask.resources import read_config
from wordmask.words.sides import exchange_sides, put_side_first

SHORTEST_MISSPELLING = 3  # letters; below that, every second word is one edit away
# Of Damerau-Levenshtein, 0..1: one edit in four letters ("lnug"), three in ten ("galblader", "oesofagis").
LEAST_SIMILARITY = 0.7

Channel = Annotated[int, Field(ge=0, le=255)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
Category = Literal["anatomy", "tissue", "substance", "abnormality", "device"]
Modality = Literal["CT", "MR", "US", "X-ray", "endoscopy", "dermoscopy", "fundus"]


@dataclass(frozen=True)
class Code:
    """One coded concept; scheme SCT is SNOMED CT."""

    scheme: str
    value: str
    meaning: str


LEFT = Code("SCT", "7771000", "Left")
RIGHT = Code("SCT", "24028007", "Right")

# The property categories that DICOM segmentations and Slicer's terminologies ask for.
CATEGORY_CODES: dict[Category, Code] = {
    "anatomy": Code("SCT", "123037004", "Anatomical Structure"),
    "tissue": Code("SCT", "85756007", "Tissue"),
    "substance": Code("SCT", "91720002", "Body Substance"),
    "abnormality": Code("SCT", "49755003", "Morphologically Altered Structure"),
    "device": Code("SCT", "260787004", "Physical object"),
}


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, ten times as fast, where libyaml is there


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Snomed(_Strict):
    """A code as it stands in the YAML: SNOMED CT, whose identifiers have 6 to 18 digits."""

    value: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{5,17}$")]
    meaning: Name


def _with_scheme(value: Any) -> Code:
    if isinstance(value, Code):
        return value
    setting = _Snomed.model_validate(value)
    return Code("SCT", setting.value, setting.meaning)


SnomedCode = Annotated[Code, BeforeValidator(_with_scheme)]


class VocabularyEntry(_Strict):
    """One structure with all its names; the head of vocabulary.yaml explains the keys.

    Attributes:
        word: its name.
        synonyms: other names.
        plurals: names of several of them.
        code: what it is, in SNOMED CT.
        region: where it is, in SNOMED CT.
        side: of a structure that exists on both sides of the body.
        objects: how many of them a slice shows at most.
        category: for terminologies.
        color: 0..255 each.
        window: name of its CT window.
        modalities: in which images it is usually looked for.
    """

    word: Name
    synonyms: tuple[Name, ...] = ()
    plurals: tuple[Name, ...] = ()
    code: SnomedCode | None = None
    region: SnomedCode | None = None
    side: Literal["left", "right"] | None = None
    objects: int = Field(default=1, ge=1, le=8)
    category: Category
    color: tuple[Channel, Channel, Channel]
    window: Name | None = None
    modalities: tuple[Modality, ...] = Field(min_length=1)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text that means this structure, the word first."""
        return (self.word, *self.synonyms, *self.plurals)

    @property
    def modifier(self) -> Code | None:
        """The code of its side; None for a structure without a side."""
        return {"left": LEFT, "right": RIGHT, None: None}[self.side]

    @property
    def category_code(self) -> Code:
        """The code of its category, as DICOM segmentations and Slicer's terminologies require it."""
        return CATEGORY_CODES[self.category]


@dataclass(frozen=True)
class Suggestion:
    """A word to offer.

    Attributes:
        word: of the vocabulary.
        matched: the text that fits the query: the word itself or one of its other names.
        kind: how it fits.
    """

    word: str
    matched: str
    kind: Literal["prefix", "synonym", "misspelling"]


def same_text(text: str) -> str:
    """The form in which all spellings of a text are equal: "left kidney" for "Left_Kidney", "LEFT-KIDNEY".

    A curly apostrophe counts as a straight one. Accents are kept.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).replace(
        "\u2019", "'"
    )
    return " ".join(folded.replace("_", " ").replace("-", " ").split())


class Vocabulary(_Strict):
    """All entries; a text or a colour that two entries claim is refused."""

    entries: tuple[VocabularyEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _claims_are_unique(self) -> Self:
        owners: dict[str, str] = {}
        colors: dict[tuple[int, int, int], str] = {}
        for entry in self.entries:
            for text in entry.texts:
                key = same_text(text)
                if key in owners:
                    raise ValueError(
                        f"{text!r} is in the vocabulary twice: for {owners[key]!r} and for {entry.word!r}."
                    )
                owners[key] = entry.word
            if entry.color in colors:
                raise ValueError(
                    f"{colors[entry.color]!r} and {entry.word!r} have the same colour {entry.color}."
                )
            colors[entry.color] = entry.word
        return self

    @cached_property
    def _by_text(self) -> Mapping[str, VocabularyEntry]:
        return {same_text(text): entry for entry in self.entries for text in entry.texts}

    @cached_property
    def colors(self) -> frozenset[tuple[int, int, int]]:
        """The colours of all entries."""
        return frozenset(entry.color for entry in self.entries)

    def lookup(self, word: str) -> VocabularyEntry | None:
        """The entry that has this word, synonym or plural; None when there is none.

        Case, hyphens, underscores, repeated spaces and the place of "left" or "right" do not matter.
        """
        found = self._by_text.get(same_text(word))
        if found is None and (sided := put_side_first(same_text(word))) is not None:
            found = self._by_text.get(sided)
        return found

    def find_in(self, text: str) -> list[str]:
        """The words of the entries that a longer text names: ["heart"] for "find the heart"."""
        found: dict[str, None] = {}
        tokens = same_text(text).split()
        start = 0
        while start < len(tokens):
            for end in range(len(tokens), start, -1):
                entry = self._by_text.get(" ".join(tokens[start:end]))
                if entry is not None:
                    found[entry.word] = None
                    start = end - 1
                    break
            start += 1
        return list(found)

    def texts(self) -> list[str]:
        """Every word, synonym and plural, in the order of the file."""
        return [text for entry in self.entries for text in entry.texts]

    def suggest(self, query: str, limit: int = 10) -> list[Suggestion]:
        """Suggest what a person who typed ``query`` may mean.

        Args:
            query: what was typed so far.
            limit: how many suggestions to return at most.

        Returns:
            Each entry at most once: an exact match first, then words that begin with the query or have a part
            that does, then synonyms and plurals likewise, then similar spellings.
        """
        wanted = same_text(query)
        if not wanted or limit <= 0:
            return []
        found: dict[str, Suggestion] = {}
        for suggestion in (*self._beginning_with(wanted), *self._spelt_like(wanted)):
            found.setdefault(suggestion.word, suggestion)
            if len(found) == limit:
                break
        return list(found.values())

    def _beginning_with(self, wanted: str) -> list[Suggestion]:
        ranked: list[tuple[tuple[bool, str, bool, int, str], Suggestion]] = []
        for text, entry in self._by_text.items():
            # A space on the left makes "any part of the text begins with it" one search.
            position = f" {text}".find(f" {wanted}")
            if position < 0:
                continue
            kind: Literal["prefix", "synonym"] = "prefix" if text == same_text(entry.word) else "synonym"
            rank = (text != wanted, kind, position > 0, len(text), text)
            ranked.append((rank, Suggestion(entry.word, self._as_written(text), kind)))
        return [suggestion for _, suggestion in sorted(ranked, key=lambda pair: pair[0])]

    def _spelt_like(self, wanted: str) -> Iterator[Suggestion]:
        if len(wanted) < SHORTEST_MISSPELLING:
            return
        close = process.extract(
            wanted,
            list(self._by_text),
            scorer=DamerauLevenshtein.normalized_similarity,
            score_cutoff=LEAST_SIMILARITY,
            limit=None,
        )
        for text, _, _ in sorted(close, key=lambda match: (-match[1], len(match[0]), match[0])):
            yield Suggestion(self._by_text[text].word, self._as_written(text), "misspelling")

    def _as_written(self, text: str) -> str:
        return next(written for written in self._by_text[text].texts if same_text(written) == text)


def read_vocabulary(text: str) -> Vocabulary:
    """Read a vocabulary from YAML; pydantic's ValidationError (a ValueError) explains what is wrong."""
    return Vocabulary.model_validate(yaml.load(text, Loader=_LOADER))


@lru_cache(maxsize=1)
def load_vocabulary() -> Vocabulary:
    """The vocabulary that ships with the package, read once."""
    return read_vocabulary(read_config("vocabulary.yaml"))


def synonyms_of(word: str) -> list[str]:
    """Other texts for a word of the vocabulary; empty for any other word."""
    entry = load_vocabulary().lookup(word)
    return [] if entry is None else [text for text in (*entry.synonyms, *entry.plurals) if text != word]


def opposite_word(word: str) -> str | None:
    """The same structure on the other side of the body: "right kidney" for "left kidney".

    Returns:
        The vocabulary's own word where it has one; None for a word without a side.
    """
    other = exchange_sides(word)
    if other is None:
        return None
    entry = load_vocabulary().lookup(other)
    return entry.word if entry else other
