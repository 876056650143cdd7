"""Work that takes time, cut into steps: a *flow* is a generator that yields what it waits for and receives
the answer.

    def flow():
        job = yield calls.start_job("simple_vilmedsam", ["liver"], file=path)  # a request; raises its error
        yield Report("computing", 3, 40)                       # how far it is
        yield Pause(0.3)                                       # let others work
        agreed = yield Question("replace_edited", ("liver",))  # a person answers yes or no
        return job

The Widget drives flows from its event loop (`tasks`), scripts and tests with `run_waiting`. Knows no Qt and
no scene.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from ..client.calls import Call
from ..client.client import WordMaskClient
from ..client.errors import ClientError, LocalFileError, TransferCancelledError

T = TypeVar("T")
Flow = Generator[Any, Any, T]


@dataclass(frozen=True)
class Pause:
    """Continue after so many seconds; 0 means after other waiting work had its turn."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """How far the work is.

    Attributes:
        stage: a name that `messages` translates
        done, total: bytes or slices; total is 0 if it is not known
        waiting: number of jobs before this one
        seconds_left: a rough estimate
        can_cancel: whether nothing in the scene has been changed yet
    """

    stage: str
    done: int = 0
    total: int = 0
    waiting: int | None = None
    seconds_left: float | None = None
    can_cancel: bool = True

    def with_bytes(self, done: int, total: int | None) -> Report:
        """Return the same stage with how much was sent or received."""
        return replace(self, done=done, total=total or 0)


@dataclass(frozen=True)
class Question:
    """A decision that only a person can make, yes or no.

    Attributes:
        kind: a name that `messages` translates
        names: what it is about
    """

    kind: str
    names: tuple[str, ...] = ()


def cancelled_error() -> TransferCancelledError:
    """Return the error that is raised in a flow when a person cancels it."""
    return TransferCancelledError("Cancelled at your request; nothing was changed.")


def in_turns(steps: Generator[None, None, T]) -> Flow[T]:
    """Run steps as a flow, so that other waiting work has its turn before each of them."""
    while True:
        yield Pause()
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder for the files of one flow, which is removed afterwards; LocalFileError."""
    try:
        folder = TemporaryDirectory(prefix="wordmask-")
    except OSError:
        raise LocalFileError("A temporary folder cannot be created; is the disk full?") from None
    with folder as path:
        yield Path(path)


def run_waiting(
    flow: Flow[T],
    client: WordMaskClient,
    *,
    report: Callable[[Report], None] | None = None,
    answer: Callable[[Question], bool] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Run a flow to its end and return its result; for scripts and tests. Control-C cancels it.

    Args:
        flow: to run
        client: sends its requests
        report: called with every report
        answer: answers its questions; by default with no
        sleep: waits for so many seconds
    """
    reply: Any = None
    error: BaseException | None = None
    try:
        while True:
            step = flow.send(reply) if error is None else flow.throw(error)
            reply = error = None
            try:
                if isinstance(step, Call):
                    reply = client.run(step)
                elif isinstance(step, Pause):
                    sleep(step.seconds)
                elif isinstance(step, Question):
                    reply = answer is not None and answer(step)
                elif report is not None:
                    report(step)
            except ClientError as failure:
                error = failure
            except KeyboardInterrupt:
                error = cancelled_error()
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        flow.close()
