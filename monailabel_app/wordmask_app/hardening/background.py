"""MONAI Label's background tasks, also between their acceptance and the start of their process.

They are training, scoring and batch inference. MONAI Label counts processes alone: a second task that comes
before the first has its process is queued silently, and a stop that comes then stops nothing. Knows MONAI
Label's tasks; not what they compute.
"""

from __future__ import annotations

import time

from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import processes, tasks

from wordmask.errors import WordMaskError

STARTING = 10.0  # seconds that a task may take to get its process
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
