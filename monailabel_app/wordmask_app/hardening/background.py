"""MONAI Label's background tasks, also between their acceptance and the start of their process.

They are training, scoring and batch inference. MONAI Label counts processes alone: a second task that comes
before the first has its process is queued silently, and a stop that comes then stops nothing. The tasks of a
server that was killed would go on unseen, beside those of the next one. Knows MONAI Label's tasks; not what
they compute.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time

import psutil
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import processes, tasks

from wordmask.errors import WordMaskError

logger = logging.getLogger(__name__)

STARTING = 10.0  # seconds that a task may take to get its process
SERVER = "WORDMASK_SERVER_PROCESS"  # environment variable that tells a task's process whose it is
LOOK = 0.5  # seconds between looks whether the server of a task is alive
# MONAI Label's names of the tasks, and ours.
KINDS = {"train": "training", "scoring": "scoring", "batch_infer": "batch inference"}


class TaskRunningError(WordMaskError):
    """One task of a kind runs at a time."""


def require_free(method: str) -> None:
    """Check that no task of a kind runs or is about to run.

    Args:
        method: a key of `KINDS`.

    Raises:
        TaskRunningError: one does.
    """
    if any(task["status"] in ("SUBMITTED", "RUNNING") for task in tasks(method)):
        raise TaskRunningError(
            f"A {KINDS[method]} is already running on this server; wait for its end, or stop it."
        )


def stop(method: str) -> dict[str, object] | None:
    """Stop the task that runs, waiting for its process where it is only about to run.

    Returns None if no task runs.
    """
    deadline = time.monotonic() + STARTING
    while (
        not processes(method)
        and any(task["status"] == "SUBMITTED" for task in tasks(method))
        and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    stopped: dict[str, object] | None = AsyncTask.stop(method)
    return stopped


def become_server() -> None:
    """Tell the processes that this one will start that they are to end with it."""
    os.environ[SERVER] = str(os.getpid())


def end_with_server() -> None:
    """In the process of a task: end it, and what it started, as soon as its server is gone.

    A server that is killed cannot end its tasks itself. Does nothing elsewhere.
    """
    number = os.environ.get(SERVER, "")
    if not number or int(number) == os.getpid():
        return
    try:
        server = psutil.Process(int(number))
    except psutil.NoSuchProcess:
        _end_now()
    else:
        threading.Thread(target=_watch, args=(server,), name="wordmask-server-watch", daemon=True).start()


def _watch(server: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
            time.sleep(LOOK)
    _end_now()


def _end_now() -> None:
    logger.error("The server of this task is gone, so the task ends.")
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)
