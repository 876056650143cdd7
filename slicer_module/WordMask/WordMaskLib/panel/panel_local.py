"""A server on this computer: choose where WordMask is installed, then start and stop the server with its log
in view.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from ..client import calls
from ..client.addresses import ServerAddress, repair_address
from ..client.answers import Health
from ..client.errors import AddressError, ClientError
from ..flows.flows import Flow
from ..flows.segmenting import shake_hands
from ..flows.tasks import FlowOutcome, FlowTask
from ..server.local_server import LocalServer
from ..server.server_process import likely_addresses
from .panel import FAULT_STYLE, Panel, Section
from .panel_server import ServerSection

POLL_MS = 500
MOST_LINES = 2000
LOOK_SECONDS = 10.0  # a server on this computer answers, or is refused, at once


class LocalSection(Section):
    """Folders, buttons and log of a server on this computer."""

    def __init__(self, panel: Panel, server_section: ServerSection) -> None:
        super().__init__(panel)
        self._server_section = server_section
        self._server = LocalServer(self._on_text, self._on_ended)
        self._looking: FlowTask | None = None
        self._asking: FlowTask | None = None
        self._answer: Health | ClientError | None = None
        self._up = self._stopping = False
        self._timer = qt.QTimer(self.ui.serverLog)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._on_poll)
        for line, name in ((self.ui.environmentLine, "environment"), (self.ui.studiesLine, "studies")):
            line.setText(panel.settings.text(name))
            line.textChanged.connect(self._on_folder)
        self.ui.environmentButton.clicked.connect(
            self._chooser(self.ui.environmentLine, _("Where WordMask is installed"))
        )
        self.ui.studiesButton.clicked.connect(
            self._chooser(self.ui.studiesLine, _("Images that the server offers"))
        )
        self.ui.startServerButton.clicked.connect(self._on_start)
        self.ui.stopServerButton.clicked.connect(self._on_stop)
        self.ui.serverLog.setMaximumBlockCount(MOST_LINES)
        self.ui.serverLog.setVisible(False)
        self.ui.localLabel.setVisible(False)

    def refresh(self) -> None:
        """Enable *Start* when nothing runs and both folders are chosen, *Stop* when a server runs."""
        idle = not self._server.is_running and self._looking is None
        folders = all(
            getattr(self.ui, name).property("text").strip() for name in ("environmentLine", "studiesLine")
        )
        self.ui.startServerButton.setEnabled(idle and folders)
        self.ui.stopServerButton.setEnabled(self._server.is_running and not self._stopping)
        for name in ("environmentLine", "environmentButton", "studiesLine", "studiesButton"):
            getattr(self.ui, name).setEnabled(idle)

    def close(self) -> None:
        """End the server with Slicer."""
        self._timer.stop()
        self._server.end()

    def _chooser(self, line: Any, title: str) -> Callable[..., None]:
        def choose(*_args: Any) -> None:
            folder = qt.QFileDialog.getExistingDirectory(None, title, line.property("text"))
            if folder:
                line.setText(folder)

        return choose

    def _on_folder(self, *_args: Any) -> None:
        self.panel.settings.keep("environment", self.ui.environmentLine.property("text").strip())
        self.panel.settings.keep("studies", self.ui.studiesLine.property("text").strip())
        self.refresh()

    # --- start ---

    def _on_start(self, *_args: Any) -> None:
        """Use a server that is already running, or start one."""
        self._say(_("Checking whether a server is already running."))
        self._look_at(likely_addresses(self._remembered_addresses()))
        self.refresh()

    def _remembered_addresses(self) -> list[ServerAddress]:
        try:
            return [repair_address(self.panel.settings.address)]
        except AddressError:
            return []

    def _look_at(self, addresses: list[ServerAddress]) -> None:
        if not addresses:
            self._looking = None
            self._start()
            return
        address = addresses[0]

        def finish(outcome: FlowOutcome) -> None:
            if not outcome.ok:
                self._look_at(addresses[1:])
                return
            self._looking = None
            self._say(_("A server is already running at {address} and will be used.").format(address=address))
            self._use(address)

        self._looking = self.panel.run_in_background(
            shake_hands(address), finish, address=address, timeout=LOOK_SECONDS
        )

    def _start(self) -> None:
        self.ui.serverLog.clear()
        self.ui.serverLog.setVisible(True)
        self._up = self._stopping = False
        self._answer = None
        try:
            self._server.start(
                self.ui.environmentLine.property("text").strip(), self.ui.studiesLine.property("text").strip()
            )
        except ClientError as error:
            self._say(str(error), fault=True)
            self.panel.refresh()
            return
        self._timer.start()
        self._on_poll()
        self.panel.refresh()

    def _on_poll(self, *_args: Any) -> None:
        """Check whether the server is up, and say how far it is."""
        if self._up or self._stopping:
            return
        state = self._server.state(self._answer)
        self._say(state.sentence, fault=state.phase == "failed")
        if state.phase == "up" and self._server.address is not None:
            self._up = True
            self._timer.stop()
            self._use(self._server.address)
        elif state.phase == "failed":
            self._timer.stop()
            self._server.stop()
        elif self._asking is None and self._server.address is not None:
            self._asking = self.panel.run_in_background(
                _health(), self._on_answer, address=self._server.address, timeout=LOOK_SECONDS
            )

    def _on_answer(self, outcome: FlowOutcome) -> None:
        self._asking = None
        self._answer = outcome.value if outcome.ok else None

    def _use(self, address: ServerAddress) -> None:
        self.ui.addressLine.setText(str(address))
        self.session.forget_server()
        self._server_section.ask()
        self.panel.refresh()

    # --- end ---

    def _on_stop(self, *_args: Any) -> None:
        self._stopping = True
        self._say(_("The server is stopping."))
        self._server.stop()
        self.panel.refresh()

    def _on_ended(self) -> None:
        self._timer.stop()
        if self._stopping:
            self._say(_("The server was stopped."))
        else:
            self._say(self._server.state(None).sentence, fault=True)
        self._stopping = self._up = False
        self.panel.refresh()

    def _on_text(self, text: str) -> None:
        for line in text.rstrip("\n").split("\n"):
            self.ui.serverLog.appendPlainText(line)

    def _say(self, text: str, *, fault: bool = False) -> None:
        self.ui.localLabel.setStyleSheet(FAULT_STYLE if fault else "")
        self.ui.localLabel.setText(text)
        self.ui.localLabel.setVisible(bool(text))


def _health() -> Flow[Health | ClientError]:
    """Ask the server what it is; return its answer, or the error, which says something, too."""
    try:
        return (yield calls.health())
    except ClientError as error:
        return error
