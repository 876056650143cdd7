"""Child processes that do one thing again and again until they are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def repeating(prepare: Callable[[], Callable[[], object]]) -> Iterator[None]:
    """A copy of this process that prepares its work, has done it once and goes on with it.

    SIGKILL at the end.
    """
    reading, writing = os.pipe()
    process_id = os.fork()
    if not process_id:
        try:
            work = prepare()
            work()
            os.write(writing, b".")
            while True:
                work()
        except Exception:  # noqa: BLE001  a child must not go on as a second pytest
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading, "rb") as done:
        began = done.read(1)
    try:
        assert began, "the work failed; standard error says why"
        yield
    finally:
        os.kill(process_id, signal.SIGKILL)
        _, status = os.waitpid(process_id, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, "it ended before it was killed"
