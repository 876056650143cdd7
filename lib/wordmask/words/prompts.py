"""Parses typed words into prompts and checks them once.

A prompt is printable Latin script in NFC, and no structure comes twice. Knows the vocabulary; not models,
images or label values (`wordmask.words.labels`).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wordmask.errors import PromptError
from wordmask.words.sides import exchange_sides, is_side
from wordmask.words.vocabulary import Code, Vocabulary, VocabularyEntry, load_vocabulary, same_text

LONGEST_TEXT = 256  # characters of one string
MOST_WORDS = 32
LONGEST_SHOWN = 40  # characters of a word that an error message repeats
SEPARATORS = re.compile(r"[,;\n]")
ALLOWED_MARKS = frozenset(" -'\u2019()/.&+%:_")
# Between a generated colour and every colour of the vocabulary: Euclidean, in 8-bit RGB.
LEAST_COLOR_DISTANCE = 24.0


@dataclass(frozen=True)
class Prompt:
    """One structure to find.

    Attributes:
        word: as typed, trimmed, case kept.
        synonyms: other names of the structure, from the vocabulary.
        code: of the structure, where the vocabulary has one.
        color: 0..255 each.
        modifier: left or right, where the vocabulary has it.
        entry: the vocabulary's own word; None for a word that it does not have.
        window: name of the CT window for the word, where the vocabulary has one.
        objects: how many of them a slice shows at most (both lungs: 2).
        prompt_set: which sentences the text encoder reads instead (`wordmask.words.prompt_sets`); None leaves
            the choice to the model.
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
        """The name of the word in cards, limits and channels, the same for every spelling of it.

        The vocabulary's own word, else the typed one in lower case with spaces instead of hyphens and
        underscores.
        """
        return self.entry or same_text(self.word)

    @property
    def text(self) -> str:
        """The text that a text encoder reads, the same for every spelling that was typed.

        It is spelt as in the vocabulary or, for other words, as in the key.
        """
        typed = same_text(self.word)
        entry = load_vocabulary().lookup(typed)
        if entry is None:
            return typed
        return next((text for text in entry.texts if same_text(text) == typed), entry.word)


def parse_prompts(text: str | Sequence[str]) -> list[Prompt]:
    """Parse words as a person types them.

    A structure that is named twice, also by a synonym or in another case ("liver, Hepar"), is kept once, as
    it was typed first.

    Args:
        text: words separated by commas, semicolons or line breaks, or a list of such strings.

    Returns:
        The prompts in the order typed.

    Raises:
        PromptError: there is no word, more than 256 characters in one string, more than 32 words, or a
            character that the text encoders cannot read.
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
                f"More than {MOST_WORDS} words were given; ask for at most {MOST_WORDS} at a time."
            )
    if not prompts:
        raise PromptError('No word was given; type what to look for, for example "liver, spleen".')
    return list(prompts.values())


def parse_name(name: str) -> Prompt:
    """The structure that the name of a label stands for.

    A name is one structure, unlike what people type to ask for several: "kidney, left" is the left kidney,
    "Neoplasm, Primary" (as Slicer calls it) is the primary neoplasm, and "tumor; rim" is one word.

    Raises:
        PromptError: the name is empty, only a side, too long, or has characters that cannot be read.
    """
    pieces = [piece for piece in (part.strip() for part in SEPARATORS.split(name)) if piece]
    sides = [piece for piece in pieces if is_side(piece)]
    others = [piece for piece in pieces if not is_side(piece)]
    if not others:
        return parse_prompts(sides)[0]  # refuses a side alone
    joined = [" ".join([*sides, *reversed(others)]), " ".join([*sides, *others])]
    known = [word for word in joined if load_vocabulary().lookup(word) is not None]
    return parse_prompts([(known or joined)[0 if known else -1]])[0]


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
        pieces = [_check_word(typed) for typed in SEPARATORS.split(unicodedata.normalize("NFC", lines))]
        yield from _attach_sides([piece for piece in pieces if piece])


def _attach_sides(pieces: Sequence[str]) -> list[str]:
    """["kidney", "left", "right"] -> ["left kidney", "right kidney"]: a side belongs to the word before."""
    words: list[str] = []
    base = None
    for piece in pieces:
        if not is_side(piece):
            base = piece
            words.append(piece)
        elif base is None:
            raise PromptError(
                f"{_shorten_for_message(piece)} is a side without a structure; add it, for example "
                '"left kidney".'
            )
        elif exchange_sides(base) is not None:
            raise PromptError(
                f"{_shorten_for_message(piece)} comes after {_shorten_for_message(base)}, which has a side "
                'already; write each structure with its side, for example "left kidney, right kidney".'
            )
        else:
            sided = f"{piece} {base}"
            if words[-1] == base:
                words[-1] = sided
            else:
                words.append(sided)
    return words


def _check_word(typed: str) -> str:
    """Trim one word; "" when nothing is left of it, PromptError when the text encoders cannot read it."""
    for character in typed:
        category = unicodedata.category(character)
        if category[0] == "C" or category in ("Zl", "Zp"):
            number = f"U+{ord(character):04X}"
            raise PromptError(
                f"The text contains an invisible control character ({number}); remove it and type the words "
                "again."
            )
    # Any other space (a no-break space, pasted from a report) counts as a space, and a full stop at the end
    # belongs to the sentence, not to the word.
    word = " ".join(typed.split()).strip(" .")
    for character in word:
        if not _is_readable(character):
            raise PromptError(
                f"{_shorten_for_message(word)} contains {character!r} (U+{ord(character):04X}), which the "
                "text encoders cannot read; use Latin letters, digits, spaces, hyphens, apostrophes and "
                "parentheses."
            )
    if word and not any(character.isalpha() for character in word):
        raise PromptError(
            f"{_shorten_for_message(word)} contains no letter, so it does not name a structure; type a word."
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
