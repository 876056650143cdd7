"""What the model thought, in colour over the image: on demand, with its opacity, and the way to the slice that stands out."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from .findings import jump_to
from .geometry import SegmentsError
from .overlay import COLORS, VOLUME, remove_overlay, show_overlay
from .panel import Panel, Section
from .panel_words import shown_segmentation
from .prompts import same_text
from .segments import word_of
from .session import present
from .thinking import Thought, look_into


class OverlaySection(Section):
    """One overlay at a time; another one takes its place."""

    def __init__(self, panel: Panel) -> None:
        super().__init__(panel)
        self._thought: Thought | None = None
        self._kinds: list[str] = []
        self._words: list[str] = []
        self.ui.overlayButton.clicked.connect(self._on_show)
        self.ui.hideButton.clicked.connect(self._on_remove)
        self.ui.jumpButton.clicked.connect(self._on_jump)
        self.ui.opacitySlider.valueChanged.connect(self._on_opacity)

    def refresh(self) -> None:
        """There must be a word, and something that the model can show of it."""
        if self._thought is not None and not present(self._thought.node):
            self._thought = None
        free = not self.panel.busy
        self.ui.overlayButton.setEnabled(free and self.panel.volume is not None and bool(self._kinds) and bool(self._words))
        for name in ("hideButton", "jumpButton", "opacitySlider"):
            getattr(self.ui, name).setEnabled(self._thought is not None)
        for name in ("kindBox", "overlayWordBox"):
            getattr(self.ui, name).setEnabled(free)

    def connected(self) -> None:
        """What the model can show."""
        titles = {"probability": _("Probability"), "uncertainty": _("Uncertainty"), "attribution": _("Attribution")}
        model = self.session.model
        self._kinds = [kind for kind in titles if kind in COLORS and model is not None and kind in model.output_volumes]
        self.ui.kindBox.clear()
        for kind in self._kinds:
            self.ui.kindBox.addItem(titles[kind], kind)
        if "uncertainty" in self._kinds:
            self.ui.kindBox.setCurrentIndex(self._kinds.index("uncertainty"))

    def changed(self) -> None:
        """The words of the results, and an overlay of another volume goes."""
        segmentation = shown_segmentation(self.panel)
        words = []
        if segmentation is not None:
            words = [word_of(segmentation, segment_id) for segment_id in segmentation.GetSegmentation().GetSegmentIDs()]
        found = [word for word in dict.fromkeys(words) if word]
        found += [word for word in self.session.shown(self.panel.volume).not_found if same_text(word) not in map(same_text, found)]
        if found != self._words:
            self._words = found
            self.ui.overlayWordBox.clear()
            for word in found:
                self.ui.overlayWordBox.addItem(word, word)
        node = None if self._thought is None else self._thought.node
        if present(node) and node.GetNodeReference(VOLUME) is not self.panel.volume:
            self._on_hide()

    def close(self) -> None:
        """Nothing stays in front of the image without a way to hide it."""
        self._on_hide()

    def _on_show(self, *_args: Any) -> None:
        volume = self.panel.volume
        kind = self._kinds[int(self.ui.kindBox.property("currentIndex"))]
        word = self._words[int(self.ui.overlayWordBox.property("currentIndex"))]
        self.panel.begin(lambda: look_into(self.session, self.panel.address(), volume, word, kind), self._on_thought)

    def _on_thought(self, thought: Thought) -> None:
        if self._thought is not None and self._thought.node is not thought.node:
            self._on_hide()
        self._thought = thought
        show_overlay(thought.node, float(self.ui.opacitySlider.property("value")))
        titles = {"probability": _("probability"), "uncertainty": _("uncertainty"), "attribution": _("attribution")}
        self.panel.say(_("Shown over the image: {kind} of {word}.").format(kind=titles[thought.kind], word=thought.word))

    def _on_hide(self, *_args: Any) -> None:
        thought, self._thought = self._thought, None
        if thought is not None and present(thought.node):
            remove_overlay(thought.node)
        self.panel.refresh()

    def _on_remove(self, *_args: Any) -> None:
        """With the sentence that it is shown."""
        self._on_hide()
        self.panel.say("")

    def _on_jump(self, *_args: Any) -> None:
        if self._thought is None:
            return
        try:
            jump_to(self._thought.place().position)
        except SegmentsError as error:
            self.panel.complain(str(error))

    def _on_opacity(self, *_args: Any) -> None:
        if self._thought is not None and present(self._thought.node):
            show_overlay(self._thought.node, float(self.ui.opacitySlider.property("value")))
