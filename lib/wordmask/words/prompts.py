"""Typed words -> Prompt: what a person asks for, checked once and for all.

Knows: the vocabulary. Does not know: models, images, label values (`wordmask.words.labels`). Whatever comes
out of here is Latin script, printable, NFC, and no thing twice.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wordmask.errors import PromptError
from wordmask.words.vocabulary import Code, Vocabulary, VocabularyEntry, load_vocabulary, same_text

LONGEST_TEXT = 256  # characters of one string
MOST_WORDS = 32
LONGEST_SHOWN = 40  # characters of a word that an error message repeats
SEPARATORS = re.compile(r"[,;\n]")
ALLOWED_MARKS = frozenset(" -'\u2019()/.&+%:_")
LEAST_COLOR_DISTANCE = (
    24.0  # between a generated colour and every colour of the vocabulary; Euclidean, in 8-bit RGB
)


@dataclass(frozen=True)
class Prompt:
    """One thing to find.

    word: as typed, trimmed, case kept; synonyms: what the text encoder also sees; code, modifier (left or
    right) and window: where the vocabulary has them; entry: the vocabulary's own word for it, None for a word
    that it does not have; color: 0..255.
    objects: how many of it a slice shows at most (both lungs: 2); prompt_set: which sentences the text
    encoder is given in its place (`wordmask.words.prompt_sets`), None: the model's own choice.
    """

    word: str
    synonyms: tuple[str, ...]
    code: Code | None
    color: tuple[int, int, int]
    modifier: Code | None = None
    entry: str | None = None
    window: str | None = None
    objects: int = 1
    prompt_set: str | None = None

    @property
    def key(self) -> str:
        """Under which a word is kept in cards, limits and channels: two spellings of one word have one key.

        The vocabulary's own word for it, else the typed one in small letters, with blanks in place of hyphens
        and underscores.
        """
        return self.entry or same_text(self.word)

    @property
    def text(self) -> str:
        """What a text encoder reads: the word as the vocabulary or, for other words, as its key spells it,
        whatever was typed.
        """
        typed = same_text(self.word)
        entry = load_vocabulary().lookup(typed)
        return typed if entry is None else next(text for text in entry.texts if same_text(text) == typed)


def parse_prompts(text: str | Sequence[str]) -> list[Prompt]:
    """Words separated by commas, semicolons or line breaks, or a list of such strings, in the order typed.

    The same thing twice, also by a synonym or in another case ("liver, Hepar"), is kept once, as it was typed
    first. Raises PromptError for nothing at all, more than 256 characters in one string, more than 32 words,
    and characters that the text encoders do not know.
    """
    vocabulary = load_vocabulary()
    prompts: dict[str, Prompt] = {}
    for word in _words(text):
        entry = vocabulary.lookup(word)
        key = same_text(entry.word if entry else word)
        if key not in prompts:
            prompts[key] = _prompt(word, entry, vocabulary)
        if len(prompts) > MOST_WORDS:
            raise PromptError(
                f"More than {MOST_WORDS} words were asked for; ask for at most {MOST_WORDS} at a time."
            )
    if not prompts:
        raise PromptError('No word was given; type what to look for, for example "liver, spleen".')
    return list(prompts.values())


def _words(text: str | Sequence[str]) -> Iterator[str]:
    parts = [text] if isinstance(text, str) else text
    if not isinstance(parts, Sequence) or isinstance(parts, bytes | bytearray):
        raise PromptError(f"The words must be a text or a list of texts, not {_kind(text)}.")
    for part in parts:
        if not isinstance(part, str):
            raise PromptError(f"Each word must be a text, not {_kind(part)}.")
        if len(part) > LONGEST_TEXT:
            raise PromptError(
                f"The words have {len(part)} characters together; at most {LONGEST_TEXT} are allowed."
            )
        lines = part.replace("\r\n", "\n").replace("\r", "\n")
        for typed in SEPARATORS.split(unicodedata.normalize("NFC", lines)):
            word = _check_word(typed)
            if word:
                yield word


def _check_word(typed: str) -> str:
    """One word, trimmed; "" when nothing is left of it, PromptError when it cannot be read."""
    for character in typed:
        category = unicodedata.category(character)
        if category[0] == "C" or category in ("Zl", "Zp"):
            number = f"U+{ord(character):04X}"
            raise PromptError(
                f"The words hold an invisible control character ({number}); remove it and type the words "
                "again."
            )
    # Any other space (a no-break space, pasted from a report) is a space, and a full stop at the end is the
    # sentence's.
    word = " ".join(typed.split()).strip(" .")
    for character in word:
        if not _is_readable(character):
            raise PromptError(
                f"{_shorten_for_message(word)} holds {character!r} (U+{ord(character):04X}), which the text "
                "encoders cannot read; use Latin letters, digits, spaces, hyphens, apostrophes and parentheses."
            )
    if word and not any(character.isalpha() for character in word):
        raise PromptError(
            f"{_shorten_for_message(word)} has no letter, so it names nothing that could be looked for; type a "
            "word."
        )
    return word


def _is_readable(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character in ALLOWED_MARKS
    return character in ALLOWED_MARKS or (
        character.isalpha() and unicodedata.name(character, "").startswith("LATIN ")
    )


def _prompt(word: str, entry: VocabularyEntry | None, vocabulary: Vocabulary) -> Prompt:
    if entry is None:
        return Prompt(word=word, synonyms=(), code=None, color=_generate_color(word, vocabulary))
    return Prompt(
        word=word,
        synonyms=tuple(text for text in (entry.word, *entry.synonyms) if same_text(text) != same_text(word)),
        code=entry.code,
        color=entry.color,
        modifier=entry.modifier,
        entry=entry.word,
        window=entry.window,
        objects=entry.objects,
    )


def _generate_color(word: str, vocabulary: Vocabulary) -> tuple[int, int, int]:
    """A bright colour that depends on the word alone and is none of the vocabulary's."""
    attempt = 0
    while True:
        digest = hashlib.sha256(f"{attempt} {same_text(word)}".encode()).digest()
        color = (digest[0], digest[1], digest[2])
        # Grey and near-black do not show on a grey image, and (127, 127, 127) means "no colour" to Slicer.
        shows = max(color) >= 128 and max(color) - min(color) >= 64
        if shows and all(_distance(color, taken) >= LEAST_COLOR_DISTANCE for taken in vocabulary.colors):
            return color
        attempt += 1


def _distance(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    return float(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5)


def _shorten_for_message(word: str) -> str:
    return repr(word if len(word) <= LONGEST_SHOWN else f"{word[:LONGEST_SHOWN]}...")


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
