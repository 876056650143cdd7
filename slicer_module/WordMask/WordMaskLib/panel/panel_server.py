"""The server's section: address, token, authority, models, and what the server is."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from ..client.errors import AddressError
from ..flows.segmenting import connect
from ..flows.session import ServerState
from .panel import FAULT_STYLE, Panel, Section

TOOL_TIP = 3  # Qt.ToolTipRole, as a number for all of Slicer's versions


class ServerSection(Section):
    """Address, token, authority and model."""

    def __init__(self, panel: Panel) -> None:
        super().__init__(panel)
        self._asked = ""
        self.ui.addressLine.setText(panel.settings.address)
        self.ui.certificateLine.setText(panel.settings.text("certificate"))
        self.ui.connectButton.clicked.connect(self._on_connect)
        self.ui.addressLine.returnPressed.connect(self._on_connect)
        for line in (self.ui.addressLine, self.ui.tokenLine, self.ui.certificateLine):
            line.textEdited.connect(self._on_edited)
        self.ui.modelBox.activated.connect(self._on_model)

    def refresh(self) -> None:
        """Disable the server's widgets while a task runs."""
        free = not self.panel.busy
        for name in ("addressLine", "tokenLine", "certificateLine"):
            getattr(self.ui, name).setEnabled(free)
        self.ui.connectButton.setEnabled(free)
        self.ui.modelBox.setEnabled(free and self.session.server is not None)

    def connected(self) -> None:
        """Show what the server says about itself."""
        server = self.session.server
        if server is None:
            return
        box = self.ui.modelBox
        box.clear()
        for number, model in enumerate(server.models):
            box.addItem(model.title, model.name)
            box.setItemData(number, model.description, TOOL_TIP)
        box.setCurrentIndex([model.name for model in server.models].index(server.model.name))
        for name, text in (("address", str(server.handshake.address)), ("model", server.model.name)):
            self.panel.settings.keep(name, text)
        self.panel.settings.keep("certificate", self.ui.certificateLine.property("text").strip())
        self.ui.serverLabel.setStyleSheet(FAULT_STYLE if server.handshake.warnings else "")
        self.ui.serverLabel.setText(" ".join([_describe(server), *server.handshake.warnings]))

    def ask(self, model: str = "") -> None:
        """Connect, and show the outcome."""
        name = model or self.panel.settings.text("model")
        self.ui.serverLabel.setText("")
        self.panel.begin(lambda: connect(self.session, self.panel.address(), name), self._on_done)

    def prefer(self, model: str) -> None:
        """Use a model if the server has it: at once if the server is known and free, otherwise when it is
        asked next.
        """
        self.panel.settings.keep("model", model)
        server = self.session.server
        if (
            server is not None
            and server.model.name != model
            and model in {offered.name for offered in server.models}
        ):
            self.ask(model)

    def _on_connect(self, *_args: Any) -> None:
        self.ask()

    def _on_done(self, _state: ServerState) -> None:
        try:
            self.ui.addressLine.setText(str(self.panel.address()))
        except AddressError:  # it was another one a moment ago
            return
        self.panel.connected()
        self.panel.say(_("The server is ready."))

    def _on_edited(self, *_args: Any) -> None:
        if self.session.server is not None:
            self.session.forget_server()
            self.ui.serverLabel.setText("")
            self.ui.modelBox.clear()
            self.panel.refresh()

    def _on_model(self, *_args: Any) -> None:
        name = self.ui.modelBox.itemData(int(self.ui.modelBox.property("currentIndex")))
        if self.session.model is not None and name != self.session.model.name:
            self.ask(str(name))


def _describe(server: ServerState) -> str:
    model = server.model
    text = _("WordMask {version}. Model version: {model}, on {device}.")
    versions = text.format(
        version=server.handshake.version, model=model.version or "?", device=model.device or "?"
    )
    trained = (
        _("Trained words: {count}.").format(count=len(model.trained_words)) if model.trained_words else ""
    )
    hints = {"points": _("It also takes points."), "box": _("It also takes a box.")}
    both = _("It also takes points or a box.") if {"points", "box"} <= set(model.hints) else ""
    taken = both or " ".join(text for name, text in hints.items() if name in model.hints)
    return " ".join(part for part in (versions, trained, taken) if part)
