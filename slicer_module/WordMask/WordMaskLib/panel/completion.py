"""Completion of the word at the cursor, from the server's vocabulary.

`matches` is plain Python. `WordCompleter` puts its result into a QCompleter whose entries are the whole text
with that word replaced, so that keys and clicks work as everywhere in Qt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import qt
from slicer.i18n import tr as _

from ..client.answers import Suggestion
from ..client.prompts import replace_word, same_text, word_at

MOST_SHOWN = 12
SHOWN_TEXT = 0  # Qt.DisplayRole
WHOLE_TEXT = 256  # Qt.UserRole: what the line is when the entry is chosen


def matches(query: str, words: Iterable[Suggestion], most: int = MOST_SHOWN) -> list[tuple[Suggestion, str]]:
    """Return entries that begin with ``query``, with the synonym that does ("" if the word does).

    Words come first, then words that contain it, then synonyms.
    """
    key = same_text(query)
    ranked: list[tuple[int, str, Suggestion, str]] = []
    for found in words if key else ():
        word = same_text(found.word)
        synonym = next((text for text in found.synonyms if same_text(text).startswith(key)), "")
        if word.startswith(key):
            ranked.append((0, word, found, ""))
        elif f" {key}" in word:
            ranked.append((1, word, found, ""))
        elif synonym:
            ranked.append((2, word, found, synonym))
    ranked.sort(key=lambda row: row[:2])
    return [(found, synonym) for _rank, _word, found, synonym in ranked[:most]]


class WordCompleter:
    """Offers words while a person types.

    Args:
        line: the line edit
        words: returns the vocabulary
        misspelt: called with a word that no entry begins with
    """

    def __init__(
        self, line: Any, words: Callable[[], Iterable[Suggestion]], misspelt: Callable[[str], None]
    ) -> None:
        self._line, self._words, self._misspelt = line, words, misspelt
        self._cursors: dict[str, int] = {}
        self._closed = False
        self.completer = qt.QCompleter()
        self.completer.setParent(line.parent())  # all of Qt's objects here have a parent, see qt_transport
        self.model = qt.QStandardItemModel(0, 1, self.completer)
        self.completer.setModel(self.model)
        self.completer.setCompletionRole(WHOLE_TEXT)
        self.completer.setCompletionMode(qt.QCompleter.UnfilteredPopupCompletion)
        self.completer.setMaxVisibleItems(MOST_SHOWN)
        line.setCompleter(self.completer)
        line.textEdited.connect(self._on_edited)
        self.completer.activated.connect(self._on_chosen)
        self._timer = qt.QTimer(line)
        self._timer.setSingleShot(True)
        self._timer.setInterval(250)
        self._timer.timeout.connect(self._on_pause)

    def offer(self, query: str, found: Iterable[Suggestion]) -> None:
        """Show the server's suggestions for a misspelt word, unless the person has typed on."""
        if query == self._typed_word() and bool(self._line.property("focus")):
            self._fill([(suggestion, "") for suggestion in found])
            if self._cursors:
                self.completer.complete()

    def close(self) -> None:
        """Prepare for the end of the line edit; calling it again has no effect.

        The completer goes first: its list is a window of its own, which it deletes and others must not delete
        before.
        """
        if not self._closed:
            self._closed = True
            self._timer.stop()
            self._cursors.clear()
            self._line.setCompleter(None)
            self.completer.deleteLater()

    def _typed_word(self) -> str:
        return word_at(self._line.property("text"), int(self._line.property("cursorPosition"))).query

    def _on_edited(self, *_args: Any) -> None:
        query = self._typed_word()
        found = matches(query, self._words())
        if len(found) == 1 and same_text(found[0][0].word) == same_text(query):
            found = []  # it is typed already
        self._fill(found)
        self._timer.start()

    def _on_pause(self, *_args: Any) -> None:
        query = self._typed_word()
        if len(query) > 2 and not matches(query, self._words()):
            self._misspelt(query)

    def _fill(self, found: list[tuple[Suggestion, str]]) -> None:
        text, cursor = self._line.property("text"), int(self._line.property("cursorPosition"))
        self._cursors.clear()
        self.model.setRowCount(0)
        # No items made here, whose owner PythonQt and PySide6 see differently.
        self.model.setRowCount(len(found))
        for row, (suggestion, synonym) in enumerate(found):
            whole, place = replace_word(text, cursor, suggestion.word)
            index = self.model.index(row, 0)
            self.model.setData(index, _entry_text(suggestion, synonym), SHOWN_TEXT)
            self.model.setData(index, whole, WHOLE_TEXT)
            self._cursors[whole] = place

    def _on_chosen(self, *chosen: Any) -> None:
        """Place the cursor behind the word that Qt has put in."""
        text = chosen[0] if chosen and isinstance(chosen[0], str) else self._line.property("text")
        place = self._cursors.get(text)
        if place is not None:
            qt.QTimer.singleShot(
                0, lambda: self._line.setCursorPosition(place) if text in self._cursors else None
            )


def _entry_text(suggestion: Suggestion, synonym: str) -> str:
    text = f"{suggestion.word} ({synonym})" if synonym else suggestion.word
    return text if suggestion.trained is not False else text + _("  – not trained")
