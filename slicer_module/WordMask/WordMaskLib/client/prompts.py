"""Help for typing words: completion, history, and hints about a word.

The server reads the typed text and answers with the words; here the text is only split at commas. Knows the
vocabulary only from the server's suggestions; no Qt, no scene. Positions in a text count its characters, as
Qt does for all letters that the server can read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .answers import ModelInfo, Suggestion
from .errors import quote_text

MOST_REMEMBERED = 30  # texts of the history
SEPARATORS = re.compile(r"[,;\r\n]")

# DICOM's modality -> what the vocabulary calls it; "picture" may show anything but a slice of CT or MR
MODALITIES = {
    "CT": "CT", "MR": "MR", "US": "US", "IVUS": "US",
    "CR": "X-ray", "DX": "X-ray", "MG": "X-ray", "RF": "X-ray", "XA": "X-ray",
    "ES": "endoscopy", "OP": "fundus", "OPT": "fundus", "XC": "picture", "GM": "picture",
}  # fmt: skip


@dataclass(frozen=True)
class TypedWord:
    """The word at the cursor.

    Attributes:
        start, end: its place in the text, without spaces
        query: its part before the cursor
    """

    start: int
    end: int
    query: str


@dataclass(frozen=True)
class WordHint:
    """A sentence about one word.

    Attributes:
        kind: unknown, untrained or modality
        better: the word to offer instead, "" without one
    """

    word: str
    kind: str
    sentence: str
    better: str = ""


def same_text(text: str) -> str:
    """Return a form in which the spellings of a text are equal: "Left_Kidney", "left  kidney", "LEFT-KIDNEY".

    Finds a typed word among the vocabulary and the trained words, which the server folds in this way, and the
    earlier segment of a word. It never decides what is segmented.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(re.sub("[-_|]", " ", folded.replace("\u2019", "'")).split())


def typed_words(text: str) -> list[str]:
    """Split a text at separators, for completion, hints and history.

    Only the server decides which words are segmented (`JobStatus.words`): it also refuses characters, and
    treats synonyms as one word.
    """
    return [word for piece in SEPARATORS.split(text) if (word := " ".join(piece.split()))]


def word_at(text: str, cursor: int) -> TypedWord:
    """Return the word at the cursor; an empty one between two separators."""
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
    """Replace the word at the cursor by a chosen one; return the text and the cursor behind it."""
    typed = word_at(text, cursor)
    before = text[: typed.start]
    if before and SEPARATORS.match(before[-1]) and before[-1] in ",;":
        before += " "
    return before + chosen + text[typed.end :], len(before) + len(chosen)


def remember(history: Sequence[str], text: str, *, limit: int = MOST_REMEMBERED) -> list[str]:
    """Return the history with a text in front, without duplicates, and no longer than ``limit``."""
    tidy = ", ".join(typed_words(text))
    if not tidy or not tidy.isprintable():
        return list(history[:limit])
    return [tidy, *(kept for kept in history if same_text(kept) != same_text(tidy))][:limit]


def read_history(kept: object, *, limit: int = MOST_REMEMBERED) -> list[str]:
    """Return what can be used of a history from settings, in which a single text may not be a list and
    anything may be damaged.
    """
    texts = [kept] if isinstance(kept, str) else list(kept) if isinstance(kept, (list, tuple)) else []
    history: list[str] = []
    for text in reversed(texts):
        history = remember(history, text, limit=limit) if isinstance(text, str) else history
    return history


def find_suggestion(word: str, suggestions: Iterable[Suggestion]) -> Suggestion | None:
    """Return the entry that a complete typed word means, among the server's suggestions; None if there is
    none.
    """
    key = same_text(word)
    for found in suggestions:
        if key in {same_text(text) for text in (found.word, *found.synonyms)}:
            return found
        if found.kind != "misspelling" and same_text(found.matched) == key:  # a plural
            return found
    return None


def word_hints(
    word: str, suggestions: Sequence[Suggestion], model: ModelInfo | None = None, modality: str = ""
) -> list[WordHint]:
    """Return what a person should know before requesting a word; an empty list if all is well.

    Args:
        word: as typed
        suggestions: the server's suggestions for this word
        model: the model that the suggestions are for
        modality: DICOM's code for the volume, "picture", or "" if it is not known
    """
    shown, found = quote_text(word), find_suggestion(word, suggestions)
    if found is None:
        trained = model is not None and same_text(word) in {same_text(known) for known in model.trained_words}
        if trained:  # a word outside the vocabulary that the model was taught
            return []
        better = suggestions[0].word if suggestions else ""
        advice = (
            f"did you mean {better!r}?" if better else "check the spelling, and check its mask carefully."
        )
        if not better and model is not None and model.refuses_unknown:
            advice = f"and {model.title} was not trained on it, so nothing will be marked."
        return [WordHint(word, "unknown", f"{shown} is not in the vocabulary; {advice}", better)]
    hints = []
    if found.trained is False:
        name = "This model" if model is None else f"The model {model.title}"
        refuses = model is not None and model.refuses_unknown
        advice = (
            "so nothing will be marked; teach it the word, or use another model."
            if refuses
            else "so check its mask carefully."
        )
        hints.append(WordHint(word, "untrained", f"{name} was not trained on {shown}, {advice}"))
    kind = MODALITIES.get(modality.upper(), modality)
    if kind and not _may_show(kind, found.modalities):
        usual = " or ".join(found.modalities)
        called = "a picture" if kind == "picture" else kind
        hints.append(
            WordHint(
                word, "modality", f"{shown} is usually segmented in {usual}, but this image is {called}."
            )
        )
    return hints


def _may_show(kind: str, modalities: Sequence[str]) -> bool:
    """Decide as the server does: a picture may be of any kind, but is seldom a slice of CT or MR."""
    if not modalities:
        return True
    return not set(modalities) <= {"CT", "MR"} if kind == "picture" else kind in modalities
