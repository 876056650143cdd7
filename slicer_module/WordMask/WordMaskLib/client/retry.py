"""When a failed request is sent again. Knows errors; not how requests travel."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import (
    ClientError,
    ConnectionLostError,
    EncryptionError,
    ServerAnswerError,
    ServerBusyError,
    ServerTimeoutError,
    ServerUnreachableError,
)


@dataclass(frozen=True)
class RetryPolicy:
    """How often and after which waits a request is sent again.

    Attributes:
        attempts: number of attempts in all
        first_wait: seconds, doubled each time
        patience: the longest wait in seconds that a server may ask for; if it asks for more, its sentence is
            shown instead
    """

    attempts: int = 3
    first_wait: float = 0.3
    patience: float = 10.0

    def wait(self, error: ClientError, attempt: int, *, safe_to_repeat: bool) -> float | None:
        """Return the seconds to wait after an attempt (counted from 1) ended with ``error``; None to give up.

        A request that was refused because there are too many (429) had no effect, so any request may be sent
        again when the server says when.
        """
        if attempt >= self.attempts:
            return None
        asked = error.retry_after if isinstance(error, ServerAnswerError) else None
        if isinstance(error, ServerBusyError) and asked is not None:
            return asked if asked <= self.patience else None
        # A time-out was long enough.
        if not safe_to_repeat or isinstance(error, (ServerTimeoutError, EncryptionError)):
            return None
        if isinstance(error, ServerAnswerError):
            passing = error.status in (429, 502, 504) or (error.status == 503 and asked is not None)
            if not passing or (asked is not None and asked > self.patience):
                return None
        elif not isinstance(error, (ServerUnreachableError, ConnectionLostError)):
            return None
        return asked if asked is not None else float(self.first_wait * 2 ** (attempt - 1))
