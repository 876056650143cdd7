"""Progress and cancellation of a long request. Knows nothing of images or models."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from wordmask.errors import CancelledError


@dataclass(frozen=True)
class Progress:
    """How far a request is.

    Attributes:
        done: slices that are done, each counted once per pass over the volume.
        total: slices of all passes.
        stage: the current step, for people.
        words: how many words were asked for.
    """

    done: int
    total: int
    stage: str
    words: int


class CancelToken:
    """Asks a running request to stop between two batches; may be used from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the request to stop; repeated calls have no effect."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def check(self) -> None:
        """Stop here if `cancel` was called.

        Raises:
            CancelledError: it was.
        """
        if self.cancelled:
            raise CancelledError("Cancelled at your request.")


class ProgressMeter:
    """Counts the slices of all passes of a request, reports changes, and stops a cancelled request."""

    def __init__(
        self, total: int, words: int, report: Callable[[Progress], None] | None, cancel: CancelToken | None
    ) -> None:
        self.total, self.words = total, words
        self._report, self._cancel = report, cancel
        self._last: Progress | None = None
        self._before = 0  # slices of finished chunks
        self._chunk = 0
        self._done = 0
        self.stage = ""

    def start_chunk(self, slices: int) -> None:
        """Begin the next chunk, which has this many slices."""
        self._before += self._chunk
        self._chunk = slices
        self.advance(0.0)

    def advance(self, fraction: float) -> None:
        """Note that ``fraction`` (0..1) of the chunk is done.

        Raises:
            CancelledError: the request was cancelled.
        """
        if self._cancel is not None and self._cancel.cancelled:
            raise CancelledError("The request was cancelled; nothing was written.")
        # The maximum, because two steps of one chunk both start at 0.
        self._done = max(self._done, self._before + int(self._chunk * fraction))
        progress = Progress(self._done, self.total, self.stage, self.words)
        if self._report is not None and progress != self._last:
            self._report(progress)
        self._last = progress

    def skip(self, slices: int) -> None:
        """Count slices that need no work."""
        self.start_chunk(slices)
        self.advance(1.0)
