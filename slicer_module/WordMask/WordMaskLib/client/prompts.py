"""The text box: words out of what is typed, completion, history, and hints beside a word.

Reads text exactly as `wordmask.words.prompts` does on the server (a test compares them), so that what is shown is what is asked for. Knows
the vocabulary only by the server's suggestions; no Qt, no scene. Positions in a text count its characters, as Qt does for all letters
that the server can read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .answers import ModelInfo, Suggestion
from .errors import PromptError

LONGEST_TEXT = 256  # characters of one text
MOST_WORDS = 32
MOST_REMEMBERED = 30  # texts of the history
LONGEST_SHOWN = 40  # characters of a word that a sentence repeats
SEPARATORS = re.compile(r"[,;\r\n]")
ALLOWED_MARKS = frozenset(" -'\u2019()/.&+%:_")

# DICOM's modality -> what the vocabulary calls it; "picture" may show anything but a slice of CT or MR
MODALITIES = {
    "CT": "CT", "MR": "MR", "US": "US", "IVUS": "US", "CR": "X-ray", "DX": "X-ray", "MG": "X-ray", "RF": "X-ray", "XA": "X-ray",
    "ES": "endoscopy", "OP": "fundus", "OPT": "fundus", "XC": "picture", "GM": "picture",
}  # fmt: skip


@dataclass(frozen=True)
class TypedWord:
    """The word under the cursor. start, end: where it stands in the text, without spaces; query: its part before the cursor."""

    start: int
    end: int
    query: str


@dataclass(frozen=True)
class WordHint:
    """A sentence about one word. kind: unknown, untrained, modality; better: the word to offer in its place, empty without one."""

    word: str
    kind: str
    sentence: str
    better: str = ""


def same_text(text: str) -> str:
    """The form in which two spellings of one text are equal: "Left_Kidney", "left  kidney" and "LEFT-KIDNEY" are one."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).replace("\u2019", "'")
    return " ".join(folded.replace("_", " ").replace("-", " ").split())


def split_words(text: str, entries: Mapping[str, str] | None = None) -> list[str]:
    """The words of a text, in the order typed, each once; PromptError, with the server's sentence, when they cannot be used.

    entries: `same_text` of a word or synonym -> the vocabulary's own word (`known_entries` makes it), so that "liver, hepar" is one, as it
    is on the server. Without it, a synonym counts as another word, and the server's answer has fewer words than this.
    """
    words: dict[str, str] = {}
    for word in _words(text):
        key = same_text(word)
        words.setdefault(same_text((entries or {}).get(key, key)), word)
        if len(words) > MOST_WORDS:
            raise PromptError(f"More than {MOST_WORDS} words were given; ask for at most {MOST_WORDS} at a time.")
    if not words:
        raise PromptError('No word was given; type what to look for, for example "liver, spleen".')
    return list(words.values())


def known_entries(suggestions: Iterable[Suggestion]) -> dict[str, str]:
    """`same_text` of every word, synonym and matched text -> the vocabulary's own word."""
    return {same_text(text): found.word for found in suggestions for text in (found.matched, *found.synonyms, found.word)}


def word_at(text: str, cursor: int) -> TypedWord:
    """The word that the cursor is in or beside; an empty one between two separators."""
    cursor = min(max(cursor, 0), len(text))
    separators = [found.start() for found in SEPARATORS.finditer(text)]
    start = max((at + 1 for at in separators if at < cursor), default=0)
    end = min((at for at in separators if at >= cursor), default=len(text))
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return TypedWord(start, end, text[start : max(start, min(cursor, end))])


def replace_word(text: str, cursor: int, chosen: str) -> tuple[str, int]:
    """The text with the word under the cursor replaced by a chosen one, and where the cursor is then: behind it."""
    typed = word_at(text, cursor)
    before = text[: typed.start]
    if before and SEPARATORS.match(before[-1]) and before[-1] in ",;":
        before += " "
    return before + chosen + text[typed.end :], len(before) + len(chosen)


def remember(history: Sequence[str], text: str, *, limit: int = MOST_REMEMBERED) -> list[str]:
    """The history with a text in front, once, and no longer than ``limit``; texts are kept as words with commas."""
    try:
        tidy = ", ".join(split_words(text))
    except PromptError:
        return list(history[:limit])
    return [tidy, *(kept for kept in history if same_text(kept) != same_text(tidy))][:limit]


def read_history(kept: object, *, limit: int = MOST_REMEMBERED) -> list[str]:
    """A history out of settings, where one text may come back as itself and anything may be damaged: what can be used of it."""
    texts = [kept] if isinstance(kept, str) else list(kept) if isinstance(kept, (list, tuple)) else []
    history: list[str] = []
    for text in reversed(texts):
        history = remember(history, text, limit=limit) if isinstance(text, str) else history
    return history


def find_suggestion(word: str, suggestions: Iterable[Suggestion]) -> Suggestion | None:
    """The thing that a whole typed word means, out of the server's suggestions for it; None when the vocabulary does not have it."""
    key = same_text(word)
    for found in suggestions:
        if key in {same_text(text) for text in (found.word, *found.synonyms)}:
            return found
        if found.kind != "misspelling" and same_text(found.matched) == key:  # a plural
            return found
    return None


def word_hints(word: str, suggestions: Sequence[Suggestion], model: ModelInfo | None = None, modality: str = "") -> list[WordHint]:
    """What a person should know before asking for a word; nothing when all is well.

    suggestions: the server's for this word, whole; model: of which they were asked; modality: DICOM's code, or "picture", of the volume,
    "" when it is not known.
    """
    shown, found = _shown(word), find_suggestion(word, suggestions)
    if found is None:
        trained = model is not None and same_text(word) in {same_text(known) for known in model.trained_words}
        if trained:  # taught by somebody, and no word of the vocabulary
            return []
        better = suggestions[0].word if suggestions else ""
        advice = f"did you mean {better!r}?" if better else "check the spelling, and look at its mask with care."
        if not better and model is not None and model.refuses_unknown:
            advice = f"and {model.title} was not trained on it, so nothing will be marked."
        return [WordHint(word, "unknown", f"{shown} is not in the vocabulary; {advice}", better)]
    hints = []
    if found.trained is False:
        name = "This model" if model is None else f"The model {model.title}"
        refuses = model is not None and model.refuses_unknown
        advice = "so nothing will be marked; teach it, or use another model." if refuses else "so look at its mask with care."
        hints.append(WordHint(word, "untrained", f"{name} was not trained on {shown}, {advice}"))
    kind = MODALITIES.get(modality.upper(), modality)
    if kind and not _may_show(kind, found.modalities):
        usual = " or ".join(found.modalities)
        called = "a picture" if kind == "picture" else kind
        hints.append(WordHint(word, "modality", f"{shown} is usually looked for in {usual}; this image is {called}."))
    return hints


def _may_show(kind: str, modalities: Sequence[str]) -> bool:
    """As on the server: a picture may be of any kind, but is seldom a slice of CT or MR."""
    if not modalities:
        return True
    return not set(modalities) <= {"CT", "MR"} if kind == "picture" else kind in modalities


def _words(text: str) -> Iterator[str]:
    if len(text) > LONGEST_TEXT:
        raise PromptError(f"The words have {len(text)} characters together; at most {LONGEST_TEXT} are allowed.")
    for typed in SEPARATORS.split(unicodedata.normalize("NFC", text)):
        word = _checked(typed)
        if word:
            yield word


def _checked(typed: str) -> str:
    """One word, trimmed; "" when nothing is left of it, PromptError when it cannot be read."""
    for character in typed:
        category = unicodedata.category(character)
        if category[0] == "C" or category in ("Zl", "Zp"):
            number = f"U+{ord(character):04X}"
            raise PromptError(f"The text contains an invisible control character ({number}); remove it and type the words again.")
    word = " ".join(typed.split()).strip(" .")  # a full stop at the end is the sentence's
    for character in word:
        if not _is_readable(character):
            raise PromptError(
                f"{_shown(word)} contains {character!r} (U+{ord(character):04X}), which the text encoders cannot read; "
                "use Latin letters, digits, spaces, hyphens, apostrophes and parentheses."
            )
    if word and not any(character.isalpha() for character in word):
        raise PromptError(f"{_shown(word)} contains no letter, so it does not name a structure; type a word.")
    return word


def _is_readable(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character in ALLOWED_MARKS
    return character in ALLOWED_MARKS or (character.isalpha() and unicodedata.name(character, "").startswith("LATIN "))


def _shown(word: str) -> str:
    return repr(word if len(word) <= LONGEST_SHOWN else f"{word[:LONGEST_SHOWN]}...")
