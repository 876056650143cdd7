"""Keeps the panel and the scene's parameter node alike, so that a saved scene brings back volume,
segmentation, points, words and model.

Slicer's `connectGui` is not used: it would replace what is typed by nothing whenever a scene is closed, and
the list of models belongs to the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import slicer.util

from ..scene.parameters import WordMaskParameterNode
from .panel import Panel, Section
from .panel_server import ServerSection

_SELECTORS = {
    "inputVolume": "volumeSelector",
    "segmentation": "segmentationSelector",
    "hint": "markupsSelector",
}


class SceneSection(Section):
    """Stores in the scene what is chosen and typed."""

    def __init__(self, panel: Panel, server_section: ServerSection) -> None:
        super().__init__(panel)
        self._server_section = server_section
        self._node: WordMaskParameterNode | None = None
        self._ignores_changes = False
        for name in _SELECTORS.values():
            getattr(self.ui, name).currentNodeChanged.connect(self._on_changed)
        self.ui.wordsLine.textChanged.connect(self._on_changed)

    def follow(self, node: WordMaskParameterNode | None) -> None:
        """Show what ``node`` remembers and store in it what is chosen from now on; None: store nothing."""
        self._node = node
        self.show()
        self._keep()

    def show(self) -> None:
        """Show the values of the node in the panel.

        A scene without volume, words or model does not change them.
        """
        node = self._node
        if node is None or self._ignores_changes:
            return
        with self._ignoring_changes():
            for parameter, name in _SELECTORS.items():
                wanted, selector = getattr(node, parameter), getattr(self.ui, name)
                if selector.currentNode() is not wanted and (
                    wanted is not None or parameter != "inputVolume"
                ):
                    selector.setCurrentNode(wanted)
            if node.words and node.words != self._words:
                self.ui.wordsLine.setText(node.words)
            if node.model:
                self._server_section.prefer(node.model)

    def connected(self) -> None:
        """Store the model that the server uses from now on."""
        if self._node is not None and self.session.model is not None:
            self._node.model = self.session.model.name

    def close(self) -> None:
        """Stop storing; the scene stays as it is."""
        self._node = None

    @property
    def _words(self) -> str:
        return str(self.ui.wordsLine.property("text"))

    def _on_changed(self, *_args: Any) -> None:
        self._keep()

    def _keep(self) -> None:
        """Store the values of the panel in the node."""
        node = self._node
        if node is None or self._ignores_changes:
            return
        with self._ignoring_changes(), slicer.util.NodeModify(node):
            for parameter, name in _SELECTORS.items():
                chosen = getattr(self.ui, name).currentNode()
                if getattr(node, parameter) is not chosen:
                    setattr(node, parameter, chosen)
            if node.words != self._words:
                node.words = self._words
            # Another one may have been asked for just now: see `connected`.
            if self.session.model is not None and not node.model:
                node.model = self.session.model.name

    @contextmanager
    def _ignoring_changes(self) -> Iterator[None]:
        """Ignore changes while values are set one by one: those still to be set must not be overwritten
        meanwhile.
        """
        self._ignores_changes = True
        try:
            yield
        finally:
            self._ignores_changes = False
