"""Prompt sets: the sentences that MedCLIP-SAMv2's text encoder reads instead of a word (methods.md 2.3).

A sentence that a person typed is never replaced. Knows prompts, the vocabulary and
configs/prompt_sets.yaml; not torch, models or images.
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

# In words: "lower pole of left kidney" still is a name, a longer text outside the vocabulary is a sentence.
LONGEST_NAME = 5

Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptSet(_Strict):
    """How a word becomes sentences (the head of prompt_sets.yaml explains it in full).

    Attributes:
        title: for people.
        text: what is made of a word: the bare word, its class name, or its description.
        ensemble: whether all descriptions are used, not only the first one.
        kinds: whether the descriptions of the word's kinds are used where it has some.
    """

    title: str
    text: Literal["word", "class_name", "description"]
    ensemble: bool = False
    kinds: bool = False


class PromptSets(_Strict):
    """All prompt sets and the descriptions that they draw on.

    Attributes:
        sets: name -> prompt set.
        images: modality -> what an image of it is called; "any" for an unknown modality.
        class_name: pattern of the class name, with ``{image}`` and ``{word}``.
        descriptions: word -> sentences that describe it.
        kinds: word -> described words that are kinds of it.

    Raises:
        ValueError: a described word is not in the vocabulary, a kind has no description, or "any" is missing.
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
            raise ValueError("There is no name for an image of unknown modality; add one as 'any'.")
        return self

    def find(self, name: str) -> PromptSet:
        """The prompt set of this name; RequestError lists all names when there is none."""
        if name not in self.sets:
            listed = ", ".join(f"{key} ({chosen.title})" for key, chosen in self.sets.items())
            raise RequestError(f"There is no prompt set {name!r}. Prompt sets: {listed}.")
        return self.sets[name]

    def describe(self, word: str | None, *, kinds: bool) -> tuple[str, ...]:
        """The sentences that describe a word.

        Args:
            word: of the vocabulary; None for a word that it does not have.
            kinds: whether to take the sentences of the word's kinds where it has some.

        Returns:
            The sentences; empty when the word has no description.
        """
        if word is None:
            return ()
        if kinds and word in self.kinds:
            return tuple(sentence for kind in self.kinds[word] for sentence in self.descriptions[kind])
        return self.descriptions.get(word, ())


def sentences(prompt: Prompt, set_name: str, *, modality: Modality | None = None) -> tuple[str, ...]:
    """The sentences that a text encoder reads for a prompt.

    A typed sentence (`is_sentence`) is returned as typed by every set, the bare word (`Prompt.text`) where a
    set of descriptions has none for it.

    Args:
        prompt: the word.
        set_name: P0 to P5 (prompt_sets.yaml): bare word, class name, one description, one description of a
            kind, and the ensembles of both.
        modality: of the image, for the class name; by default the only one in which the vocabulary expects
            the word, if there is only one.

    Returns:
        One sentence, or several whose embeddings are to be averaged and normalised; never empty.

    Raises:
        RequestError: there is no such prompt set.
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
    """Whether a person typed a sentence of their own instead of the name of a structure.

    That is a text of more than five words that the vocabulary does not have.
    """
    return prompt.entry is None and len(prompt.word.split()) > LONGEST_NAME


def read_prompt_sets(text: str) -> PromptSets:
    """Read prompt sets from YAML; pydantic's ValidationError (a ValueError) explains what is wrong."""
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
