"""A flow that runs in the background: each of its steps ends at the event loop, so the window never freezes.

Knows flows, and the transport and the timer that it is given; neither Qt nor what the steps are about.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..client.calls import Call
from ..client.errors import ClientError, TransferCancelledError
from .flows import Flow, Pause, Question, Report, cancelled_error


class Sending(Protocol):
    """A request on its way."""

    def abort(self) -> None:
        """Stop without calling ``done`` or ``failed``; nothing is left of a file."""


class Transport(Protocol):
    """Sends requests without waiting for the answer."""

    def send(
        self,
        call: Call[Any],
        done: Callable[[Any], None],
        failed: Callable[[ClientError], None],
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Sending:
        """Send a call; either ``done`` or ``failed`` is called once, later."""


@dataclass(frozen=True)
class FlowOutcome:
    """How a flow ended.

    Attributes:
        value: what it returned
        error: the sentence to show, "" if it succeeded
        cancelled: whether a person cancelled it
    """

    value: Any = None
    error: str = ""
    cancelled: bool = False

    @property
    def ok(self) -> bool:
        """Whether the flow succeeded."""
        return not self.error


class FlowTask:
    """One run of a flow.

    Args:
        flow: to run
        transport: sends its requests
        later: calls a function after so many seconds
        end: called once with the outcome
        report: called with every report
        ask: called with a question and a function for the answer
    """

    def __init__(
        self,
        flow: Flow[Any],
        transport: Transport,
        later: Callable[[float, Callable[[], None]], None],
        *,
        end: Callable[[FlowOutcome], None],
        report: Callable[[Report], None] | None = None,
        ask: Callable[[Question, Callable[[bool], None]], None] | None = None,
    ) -> None:
        self._flow, self._transport, self._later = flow, transport, later
        self._end, self._report, self._ask = end, report, ask
        self._last = Report("")
        self._sending: Sending | None = None
        self._turn = 0  # what comes of an earlier step, after this one was left, is not heard
        self._told = False

    @property
    def is_running(self) -> bool:
        """Whether the flow has not ended yet."""
        return not self._told

    def start(self) -> FlowTask:
        """Begin at the next turn of the event loop."""
        turn = self._next_turn()
        self._later(0.0, lambda: self._continue(turn))
        return self

    def cancel(self) -> bool:
        """Cancel, and report that at once; False if it is too late. The flow may still send a request to the
        server.
        """
        if self._told or not self._last.can_cancel:
            return False
        self._next_turn()
        self._abort()
        self._tell(FlowOutcome(error=str(cancelled_error()), cancelled=True))
        self._advance(error=cancelled_error())
        return True

    def _continue(self, turn: int, reply: Any = None, error: BaseException | None = None) -> None:
        if turn == self._turn:
            self._sending = None
            self._advance(reply, error)

    def _advance(self, reply: Any = None, error: BaseException | None = None) -> None:
        """Run steps until one has to be waited for."""
        try:
            step = self._flow.send(reply) if error is None else self._flow.throw(error)
            while isinstance(step, Report):
                self._last = step
                self._show(step)
                step = self._flow.send(None)
            self._wait_for(step)
        except StopIteration as end:
            self._tell(FlowOutcome(end.value))
        except TransferCancelledError as stopped:
            self._tell(FlowOutcome(error=str(stopped), cancelled=True))
        except ClientError as failure:
            self._tell(FlowOutcome(error=str(failure)))
        except Exception as defect:
            logging.getLogger("WordMask").exception("A step failed that should not")
            name = type(defect).__name__
            self._tell(
                FlowOutcome(
                    error=f"An unexpected error occurred ({name}); the Python console has the details."
                )
            )

    def _wait_for(self, step: Any) -> None:
        turn = self._next_turn()
        if isinstance(step, Call):
            self._sending = self._transport.send(
                step,
                lambda answer: self._continue(turn, answer),
                lambda failure: self._continue(turn, error=failure),
                lambda done, total: (
                    self._show(self._last.with_bytes(done, total)) if turn == self._turn else None
                ),
            )
        elif isinstance(step, Pause):
            self._later(step.seconds, lambda: self._continue(turn))
        elif isinstance(step, Question) and self._ask is not None and not self._told:
            self._ask(step, lambda agreed: self._continue(turn, agreed))
        else:
            self._later(0.0, lambda: self._continue(turn, False))

    def _show(self, report: Report) -> None:
        if self._report is not None and not self._told:
            self._report(report)

    def _tell(self, outcome: FlowOutcome) -> None:
        if not self._told:
            self._told = True
            self._end(outcome)

    def _abort(self) -> None:
        if self._sending is not None:
            self._sending.abort()
            self._sending = None

    def _next_turn(self) -> int:
        self._turn += 1
        return self._turn
