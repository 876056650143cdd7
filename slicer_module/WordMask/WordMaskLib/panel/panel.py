"""What all sections of the panel share: the server, the running task, its progress, the question and the
message.

One task at a time runs for the person (`begin`); other work runs in the background (`run_in_background`).
Expected faults are one sentence under the buttons, never a dialog. Qt is written in the dialect that
PythonQt and PySide6 share.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer

from ..client.addresses import ServerAddress, repair_address
from ..client.errors import ClientError
from ..flows.flows import Flow, Question, Report
from ..flows.messages import question_text, stage_text
from ..flows.session import Session
from ..flows.tasks import FlowOutcome, FlowTask
from .qt_transport import QtTransport
from .settings import Settings

FAULT_STYLE = "color: #c62828;"


class Section:
    """One section of the panel."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.ui, self.session = panel, panel.ui, panel.session

    def refresh(self) -> None:
        """Enable and fill what depends on the state. It is called often, so it must be quick."""

    def connected(self) -> None:
        """React to a server that was asked and can be used."""

    def changed(self) -> None:
        """React to a change of the segments, the volume or the segmentation."""

    def close(self) -> None:
        """Clean up when the module ends."""


class Panel:
    """The panel: ``ui`` has the widgets by name, ``make_transport`` takes the arguments of `QtTransport`."""

    def __init__(
        self, ui: Any, session: Session, settings: Settings, make_transport: Callable[..., Any] = QtTransport
    ) -> None:
        self.ui, self.session, self.settings = ui, session, settings
        self._make_transport = make_transport
        self._transports: dict[tuple[ServerAddress, str, str], Any] = {}
        self._task: FlowTask | None = None
        self._background: list[FlowTask] = []
        self._answer: Callable[[bool], None] | None = None
        self.sections: list[Section] = []
        self._changing = self._closed = False
        for name in ("progressRow", "questionRow", "messageLabel"):
            getattr(ui, name).setVisible(False)
        ui.cancelButton.clicked.connect(self._on_cancel)
        ui.yesButton.clicked.connect(lambda *_args: self._on_answer(True))
        ui.noButton.clicked.connect(lambda *_args: self._on_answer(False))

    # --- what is chosen ---

    @property
    def volume(self) -> Any | None:
        """The chosen volume."""
        return self.ui.volumeSelector.currentNode()

    @property
    def segmentation(self) -> Any | None:
        """The chosen segmentation; None for the volume's own."""
        return self.ui.segmentationSelector.currentNode()

    def address(self) -> ServerAddress:
        """Return the typed address, repaired; AddressError."""
        return repair_address(self.ui.addressLine.property("text"))

    def transport(self) -> Any:
        """Return the transport to the typed address, with the token and the authority that are entered;
        ClientError.
        """
        token, authority = (
            self.ui.tokenLine.property("text").strip(),
            self.ui.certificateLine.property("text").strip(),
        )
        key = (self.address(), token, authority)
        if key not in self._transports:
            ca_file = Path(authority).expanduser() if authority else None
            self._transports = {key: self._make_transport(key[0], token or None, ca_file=ca_file)}
        return self._transports[key]

    # --- work ---

    @property
    def busy(self) -> bool:
        """Whether a task runs for the person."""
        return self._task is not None

    def begin(self, make_flow: Callable[[], Flow[Any]], done: Callable[[Any], None]) -> None:
        """Start a task, unless another one runs.

        Args:
            make_flow: makes the flow; an error that it raises is shown
            done: called with the flow's result
        """
        if self.busy:
            return
        self._message("")
        try:
            transport, flow = self.transport(), make_flow()
        except ClientError as error:
            self.complain(str(error))
            return
        self._task = FlowTask(
            flow,
            transport,
            later,
            end=lambda outcome: self._on_end(outcome, done),
            report=self._on_report,
            ask=self._on_ask,
        )
        self._on_report(Report(""))
        self.ui.progressRow.setVisible(True)
        self.refresh()
        self._task.start()

    def run_in_background(
        self,
        flow: Flow[Any],
        end: Callable[[FlowOutcome], None],
        *,
        address: ServerAddress | None = None,
        timeout: float | None = None,
    ) -> FlowTask | None:
        """Start a task in the background; None if there is no usable address.

        Args:
            flow: to run
            end: called with the outcome
            address: of the server; None for the typed one
            timeout: seconds without a sign of the server
        """
        try:
            transport = (
                self.transport()
                if address is None
                else self._make_transport(address, None, ca_file=None, timeout=timeout)
            )
        except ClientError:
            return None

        def finish(outcome: FlowOutcome) -> None:
            if task in self._background:
                self._background.remove(task)
                end(outcome)

        task = FlowTask(flow, transport, later, end=finish)
        self._background.append(task)
        return task.start()

    def drop(self, task: FlowTask | None) -> None:
        """Stop a background task; its outcome is not reported."""
        if task is not None and task in self._background:
            self._background.remove(task)
            task.cancel()

    def cancel(self) -> None:
        """Cancel the running task, if that is still possible."""
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        """Stop everything when the module ends."""
        self._closed = True
        self.cancel()
        for task in list(self._background):
            self.drop(task)
        for section in self.sections:
            section.close()
        for transport in self._transports.values():
            transport.close()

    # --- what is said ---

    def say(self, text: str) -> None:
        """Show a sentence."""
        self._message(text)

    def complain(self, text: str) -> None:
        """Show a sentence about a fault."""
        self._message(text, FAULT_STYLE)

    def refresh(self) -> None:
        """Refresh all sections."""
        for section in self.sections:
            section.refresh()

    def connected(self) -> None:
        """Tell the sections that a server was asked and can be used."""
        for section in self.sections:
            section.connected()
        self.refresh()

    def changed(self) -> None:
        """Tell the sections that segments changed, or that other nodes were chosen."""
        for section in self.sections:
            section.changed()
        self.refresh()

    def changed_soon(self) -> None:
        """Call `changed` once for everything that happens in this turn of the event loop."""
        if not self._changing:
            self._changing = True
            self.soon(self._on_changed)

    def soon(self, step: Callable[[], None]) -> None:
        """Call ``step`` in the next turn of the event loop, unless the module has ended by then."""
        later(0.0, lambda: None if self._closed else step())

    def _on_changed(self) -> None:
        self._changing = False
        self.changed()

    def _message(self, text: str, style: str = "") -> None:
        label = self.ui.messageLabel
        label.setStyleSheet(style)
        label.setText(text)
        label.setVisible(bool(text))

    def _on_report(self, report: Report) -> None:
        bar = self.ui.progressBar
        # 0 of 0: Qt shows that something happens.
        bar.setRange(0, report.total if report.total < 2**31 else 0)
        bar.setValue(min(report.done, report.total) if report.total < 2**31 else 0)
        bar.setFormat("%p %")
        self.ui.progressLabel.setText(stage_text(report) if report.stage else "")
        self.ui.cancelButton.setEnabled(report.can_cancel)

    def _on_end(self, outcome: FlowOutcome, done: Callable[[Any], None]) -> None:
        self._task = None
        self._answer = None
        self.ui.progressRow.setVisible(False)
        self.ui.questionRow.setVisible(False)
        if outcome.ok:
            done(outcome.value)
        elif outcome.cancelled:
            self.say(outcome.error)
        else:
            self.complain(outcome.error)
        self.refresh()

    def _on_ask(self, question: Question, answer: Callable[[bool], None]) -> None:
        text, yes, no = question_text(question)
        self._answer = answer
        self.ui.questionLabel.setText(text)
        self.ui.yesButton.setText(yes)
        self.ui.noButton.setText(no)
        self.ui.progressRow.setVisible(False)
        self.ui.questionRow.setVisible(True)

    def _on_answer(self, agreed: bool) -> None:
        answer, self._answer = self._answer, None
        self.ui.questionRow.setVisible(False)
        if answer is not None:
            self.ui.progressRow.setVisible(True)
            answer(agreed)

    def _on_cancel(self, *_args: Any) -> None:
        self.cancel()


def later(seconds: float, step: Callable[[], None]) -> None:
    """Call ``step`` from the event loop after so many seconds."""
    qt.QTimer.singleShot(int(1000 * seconds), step)


def slice_nodes() -> list[Any]:
    """Return the slice views in the layout; all slice views if none is marked so."""
    nodes = list(slicer.util.getNodesByClass("vtkMRMLSliceNode"))
    return [node for node in nodes if node.IsMappedInLayout()] or nodes
