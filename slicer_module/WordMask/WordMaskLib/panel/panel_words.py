"""The text box and its buttons: type, choose, segment, repeat a slice, undo."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

from ..client import calls
from ..client.answers import Suggestion
from ..client.errors import SegmentsError
from ..client.prompts import find_suggestion, same_text, typed_words, word_hints
from ..flows.flows import Flow
from ..flows.messages import segmented_text
from ..flows.segmenting import Segmented, segment, slice_in_view
from ..flows.session import target_segmentation
from ..flows.tasks import FlowOutcome
from ..scene.geometry import is_picture
from ..scene.modality import modality_of
from .completion import WordCompleter
from .panel import Panel, Section, slice_nodes

MOST_HINTS = 3


class WordsSection(Section):
    """Volume, segmentation, words, and the buttons that segment."""

    def __init__(self, panel: Panel) -> None:
        super().__init__(panel)
        # (model, word) -> what the server suggested.
        self._asked: dict[tuple[str, str], tuple[Suggestion, ...]] = {}
        self._pending: set[tuple[str, str]] = set()
        self.completer = WordCompleter(self.ui.wordsLine, self._vocabulary, self._look_up)
        self._menu = qt.QMenu(self.ui.historyButton)
        self._menu.aboutToShow.connect(self._fill_history)
        self.ui.historyButton.setMenu(self._menu)
        self._fill_history()
        self._timer = qt.QTimer(self.ui.wordsLine)
        self._timer.setSingleShot(True)
        self._timer.setInterval(300)
        self._timer.timeout.connect(self._show_hints)
        self.ui.wordsLine.textChanged.connect(self._on_text)
        self.ui.wordsLine.returnPressed.connect(self._on_return)
        self.ui.segmentButton.clicked.connect(self._on_segment)
        self.ui.redoButton.clicked.connect(self._on_redo)
        self.ui.undoButton.clicked.connect(self._on_undo)
        self.ui.volumeSelector.currentNodeChanged.connect(self._on_nodes)
        self.ui.segmentationSelector.currentNodeChanged.connect(self._on_nodes)
        self.ui.hintLabel.setVisible(False)

    @property
    def text(self) -> str:
        """The typed text."""
        return str(self.ui.wordsLine.property("text"))

    def refresh(self) -> None:
        """Enable the buttons that can do something now."""
        volume, free = self.panel.volume, not self.panel.busy
        ready = free and volume is not None and bool(self.text.strip())
        self.ui.segmentButton.setEnabled(ready)
        again = (
            volume is not None and not is_picture(volume) and bool(self.session.results_of(volume).statistics)
        )
        self.ui.redoButton.setEnabled(ready and again)
        self.ui.undoButton.setEnabled(free and self.session.can_undo())
        for name in (
            "volumeSelector",
            "segmentationSelector",
            "markupsSelector",
            "wordsLine",
            "historyButton",
        ):
            getattr(self.ui, name).setEnabled(free)
        for name in ("markupsLabel", "markupsSelector"):
            getattr(self.ui, name).setVisible(self.session.model is not None)

    def connected(self) -> None:
        """Check the words again, with another vocabulary."""
        self._timer.start()

    def changed(self) -> None:
        """Check the words again, because another volume may be of another kind."""
        self._timer.start()

    def close(self) -> None:
        """Stop hints and completion."""
        self._timer.stop()
        self.completer.close()

    def _vocabulary(self) -> tuple[Suggestion, ...]:
        return () if self.session.server is None else self.session.server.words

    def _on_text(self, *_args: Any) -> None:
        self.ui.hintLabel.setVisible(False)
        self._timer.start()
        self.panel.refresh()

    def _on_nodes(self, *_args: Any) -> None:
        self.panel.changed()

    def _on_return(self, *_args: Any) -> None:
        if self.ui.segmentButton.isEnabled():
            self._on_segment()

    def _on_segment(self, *_args: Any) -> None:
        self._segment(None)

    def _on_redo(self, *_args: Any) -> None:
        try:
            index = slice_in_view(
                self.panel.volume, self.session.results_of(self.panel.volume).plane, slice_nodes()
            )
        except SegmentsError as error:
            self.panel.complain(str(error))
            return
        self._segment(index)

    def _segment(self, redo: int | None) -> None:
        volume, text, chosen = self.panel.volume, self.text, self.panel.segmentation
        model = (
            self.session.model.name if self.session.model is not None else self.panel.settings.text("model")
        )
        known = self.session.server

        def done(segmented: Segmented) -> None:
            if self.session.server is not known:
                self.panel.connected()
            self._on_done(segmented)

        self.panel.settings.remember_words(text)
        hint = self.ui.markupsSelector.currentNode() if self.session.model is not None else None
        address = self.panel.address
        self.panel.begin(
            lambda: segment(self.session, address(), volume, text, chosen, model=model, redo=redo, hint=hint),
            done,
        )

    def _on_done(self, done: Segmented) -> None:
        self.panel.changed()
        segmentation = done.imported.segmentation
        table = self.session.table(done.volume, segmentation)
        self.panel.say(segmented_text(done, table))

    def _on_undo(self, *_args: Any) -> None:
        try:
            words = self.session.undo()
        except SegmentsError as error:
            self.panel.complain(str(error))
            return
        self.panel.changed()
        self.panel.say(_("Undone: {names}.").format(names=", ".join(words)))

    def _fill_history(self, *_args: Any) -> None:
        self._menu.clear()
        for text in self.panel.settings.history:
            action = self._menu.addAction(text)
            action.triggered.connect(lambda *_args, chosen=text: self.ui.wordsLine.setText(chosen))
        if not self.panel.settings.history:
            self._menu.addAction(_("No earlier words")).setEnabled(False)

    def _show_hints(self, *_args: Any) -> None:
        """Show what a person should know about the typed words before requesting them; nothing while no
        server is known.
        """
        server, hints = self.session.server, []
        for word in [] if server is None else typed_words(self.text):
            local = server.look_up(word)
            known = (local,) if local is not None else self._suggestions_for(word)
            if known is not None:
                hints += word_hints(word, known, server.model, modality_of(self.panel.volume))
        self.ui.hintLabel.setText("\n".join(hint.sentence for hint in hints[:MOST_HINTS]))
        self.ui.hintLabel.setVisible(bool(hints))

    def _suggestions_for(self, word: str) -> tuple[Suggestion, ...] | None:
        """Return the server's suggestions for a word that is not in the vocabulary; None while the server is
        asked.
        """
        model = self.session.model
        key = (model.name if model is not None else "", same_text(word))
        if key not in self._asked:
            self._look_up(word)
            return None
        found = self._asked[key]
        meant = find_suggestion(word, found)  # a plural
        return found if meant is None else (meant,)

    def _look_up(self, word: str) -> None:
        """Ask the server what a word may mean, and show that when the answer comes."""
        model = self.session.model
        if model is None:
            return
        key = (model.name, same_text(word))
        if key in self._asked:
            self.completer.offer(word, self._asked[key])
            return
        if key in self._pending:
            return

        def finish(outcome: FlowOutcome) -> None:
            self._pending.discard(key)
            if outcome.ok:
                self._asked[key] = outcome.value
                self.completer.offer(word, outcome.value)
                self._timer.start()

        self._pending.add(key)
        self.panel.run_in_background(_ask_for(word, model.name), finish)


def _ask_for(word: str, model: str) -> Flow[tuple[Suggestion, ...]]:
    return (yield calls.vocabulary(word, model))


def shown_segmentation(panel: Panel) -> Any | None:
    """Return the segmentation whose results are shown: the chosen one, or the volume's own."""
    return None if panel.volume is None else target_segmentation(panel.volume, panel.segmentation)
