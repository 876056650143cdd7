"""Prompt -> the sentences that MedCLIP-SAMv2 gives its text encoder in its place (methods.md 2.3), by the
name of a prompt set.

Knows prompts, the vocabulary and configs/prompt_sets.yaml. Does not know: torch, models, images. What
somebody types as a sentence is never replaced.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from wordmask.errors import RequestError
from wordmask.resources import read_config
from wordmask.words.prompts import Prompt
from wordmask.words.vocabulary import Modality, load_vocabulary

# words; what is longer and not in the vocabulary is a sentence: "lower pole of left kidney" still is a name
LONGEST_NAME = 5

Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptSet(_Strict):
    """How a word becomes sentences; the head of prompt_sets.yaml explains the keys."""

    title: str
    text: Literal["word", "class_name", "description"]
    ensemble: bool = False
    kinds: bool = False


class PromptSets(_Strict):
    """All sets and descriptions.

    Refuses what is not a word of the vocabulary and a kind without a description.
    """

    sets: dict[str, PromptSet] = Field(min_length=1)
    images: dict[Modality | Literal["any"], Sentence]
    class_name: Sentence
    descriptions: dict[str, Annotated[tuple[Sentence, ...], Field(min_length=1)]]
    kinds: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = {}

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        known = {entry.word for entry in load_vocabulary().entries}
        for word in (*self.descriptions, *self.kinds):
            if word not in known:
                raise ValueError(f"{word!r} is described, but it is not a word of the vocabulary.")
        for word, kinds in self.kinds.items():
            for kind in kinds:
                if kind not in self.descriptions:
                    raise ValueError(f"{kind!r} is a kind of {word!r}, but it has no description.")
        if "any" not in self.images:
            raise ValueError("There is no name for an image whose modality nobody said; add one as 'any'.")
        return self

    def find(self, name: str) -> PromptSet:
        """One of the sets; RequestError lists them."""
        if name not in self.sets:
            listed = ", ".join(f"{key} ({chosen.title})" for key, chosen in self.sets.items())
            raise RequestError(f"There is no prompt set {name!r}. Prompt sets: {listed}.")
        return self.sets[name]

    def describe(self, word: str | None, *, kinds: bool) -> tuple[str, ...]:
        """The sentences for a word of the vocabulary, or those of its kinds where it has some and they are
        asked for; () for none.
        """
        if word is None:
            return ()
        if kinds and word in self.kinds:
            return tuple(sentence for kind in self.kinds[word] for sentence in self.descriptions[kind])
        return self.descriptions.get(word, ())


def sentences(prompt: Prompt, set_name: str, *, modality: Modality | None = None) -> tuple[str, ...]:
    """What the text encoder is given for a prompt.

    One sentence, or several whose embeddings are to be averaged and made 1 long.

    set_name: P0 to P5 (prompt_sets.yaml): bare word, class name, one description, one of the kind asked for,
    and the ensembles of both;
    modality: of the image, for the class name; where it is None, the only one in which the vocabulary looks
    for the word, or none.

    A sentence that was typed (`is_sentence`) is returned as typed by every set. The bare word (`Prompt.text`)
    is returned where a set of descriptions has none for it. Never empty. RequestError: there is no such set.
    """
    known = load_prompt_sets()
    chosen = known.find(set_name)
    if is_sentence(prompt):
        return (prompt.word,)
    if chosen.text == "word":
        return (prompt.text,)
    if chosen.text == "class_name":
        return (_class_name(prompt, known, modality),)
    described = known.describe(prompt.entry, kinds=chosen.kinds)
    return (described if chosen.ensemble else described[:1]) or (prompt.text,)


def is_sentence(prompt: Prompt) -> bool:
    """Whether somebody typed a sentence of their own, not the name of a thing.

    More than five words that the vocabulary does not have.
    """
    return prompt.entry is None and len(prompt.word.split()) > LONGEST_NAME


def read_prompt_sets(text: str) -> PromptSets:
    """Prompt sets from YAML; pydantic's ValidationError (a ValueError) says what is wrong with them."""
    return PromptSets.model_validate(yaml.safe_load(text))


@lru_cache(maxsize=1)
def load_prompt_sets() -> PromptSets:
    """The prompt sets that ship with the package, read once."""
    return read_prompt_sets(read_config("prompt_sets.yaml"))


def _class_name(prompt: Prompt, known: PromptSets, modality: Modality | None) -> str:
    entry = load_vocabulary().lookup(prompt.entry) if prompt.entry else None
    if modality is None and entry is not None and len(entry.modalities) == 1:
        modality = entry.modalities[0]
    image = known.images.get(modality or "any", known.images["any"])
    return known.class_name.format(image=image, word=entry.word if entry else prompt.word)
