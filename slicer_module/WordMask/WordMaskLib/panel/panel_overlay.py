"""What the model thought, in colour over the image: on demand, with its opacity and a way to the most
striking slice.
"""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from ..client.errors import SegmentsError
from ..client.prompts import same_text
from ..flows.overlay_flow import OverlayResult, request_overlay
from ..flows.results_table import jump_to
from ..flows.session import present
from ..scene.overlay import COLORS, VOLUME, remove_overlay, show_overlay
from ..scene.segments import word_of
from .panel import Panel, Section
from .panel_words import shown_segmentation


class OverlaySection(Section):
    """Shows one overlay at a time; a new one replaces it."""

    def __init__(self, panel: Panel) -> None:
        super().__init__(panel)
        self._shown: OverlayResult | None = None
        self._step = 0  # slices to check that were shown
        self._kinds: list[str] = []
        self._words: list[str] = []
        self.ui.overlayButton.clicked.connect(self._on_show)
        self.ui.hideButton.clicked.connect(self._on_remove)
        self.ui.jumpButton.clicked.connect(self._on_jump)
        self.ui.opacitySlider.valueChanged.connect(self._on_opacity)

    def refresh(self) -> None:
        """Enable the buttons that can do something with the chosen word and kind."""
        if self._shown is not None and not present(self._shown.node):
            self._shown = None
        free = not self.panel.busy
        self.ui.overlayButton.setEnabled(
            free and self.panel.volume is not None and bool(self._kinds) and bool(self._words)
        )
        for name in ("hideButton", "jumpButton", "opacitySlider"):
            getattr(self.ui, name).setEnabled(self._shown is not None)
        for name in ("kindBox", "overlayWordBox"):
            getattr(self.ui, name).setEnabled(free)

    def connected(self) -> None:
        """List the kinds of overlay that the model can return."""
        titles = {
            "probability": _("Probability"),
            "uncertainty": _("Uncertainty"),
            "attribution": _("Attribution"),
        }
        model = self.session.model
        self._kinds = [
            kind for kind in titles if kind in COLORS and model is not None and kind in model.output_volumes
        ]
        self.ui.kindBox.clear()
        for kind in self._kinds:
            self.ui.kindBox.addItem(titles[kind], kind)
        if "uncertainty" in self._kinds:
            self.ui.kindBox.setCurrentIndex(self._kinds.index("uncertainty"))

    def changed(self) -> None:
        """List the words of the results, and remove an overlay of another volume."""
        segmentation = shown_segmentation(self.panel)
        words = []
        if segmentation is not None:
            words = [
                word_of(segmentation, segment_id)
                for segment_id in segmentation.GetSegmentation().GetSegmentIDs()
            ]
        found = [word for word in dict.fromkeys(words) if word]
        found += [
            word
            for word in self.session.results_of(self.panel.volume).not_found
            if same_text(word) not in map(same_text, found)
        ]
        if found != self._words:
            self._words = found
            self.ui.overlayWordBox.clear()
            for word in found:
                self.ui.overlayWordBox.addItem(word, word)
        node = None if self._shown is None else self._shown.node
        if present(node) and node.GetNodeReference(VOLUME) is not self.panel.volume:
            self._on_hide()

    def close(self) -> None:
        """Remove the overlay, because nothing could hide it later."""
        self._on_hide()

    def _on_show(self, *_args: Any) -> None:
        volume = self.panel.volume
        kind = self._kinds[int(self.ui.kindBox.property("currentIndex"))]
        word = self._words[int(self.ui.overlayWordBox.property("currentIndex"))]
        self.panel.begin(
            lambda: request_overlay(self.session, self.panel.address(), volume, word, kind), self._on_overlay
        )

    def _on_overlay(self, overlay: OverlayResult) -> None:
        if self._shown is not None and self._shown.node is not overlay.node:
            self._on_hide()
        self._shown, self._step = overlay, 0
        show_overlay(overlay.node, float(self.ui.opacitySlider.property("value")))
        titles = {
            "probability": _("probability"),
            "uncertainty": _("uncertainty"),
            "attribution": _("attribution"),
        }
        said = _("Shown over the image: {kind} of {word}.").format(
            kind=titles[overlay.kind], word=overlay.word
        )
        if overlay.to_check and overlay.slices > 1:
            said += " " + _("{count} of {slices} slices are worth a look.").format(
                count=len(overlay.to_check), slices=overlay.slices
            )
        self.panel.say(said)

    def _on_hide(self, *_args: Any) -> None:
        overlay, self._shown = self._shown, None
        if overlay is not None and present(overlay.node):
            remove_overlay(overlay.node)
        self.panel.refresh()

    def _on_remove(self, *_args: Any) -> None:
        """Remove the overlay and the message about it."""
        self._on_hide()
        self.panel.say("")

    def _on_jump(self, *_args: Any) -> None:
        if self._shown is None:
            return
        try:
            jump_to(self._shown.place(self._step).position)
        except SegmentsError as error:
            self.panel.complain(str(error))
            return
        count = len(self._shown.to_check)
        if count > 1:
            self.panel.say(
                _("Slice {number} of {count} that are worth a look; click again for the next.").format(
                    number=self._step % count + 1, count=count
                )
            )
            self._step += 1

    def _on_opacity(self, *_args: Any) -> None:
        if self._shown is not None and present(self._shown.node):
            show_overlay(self._shown.node, float(self.ui.opacitySlider.property("value")))
