"""What the server can use of its studies, for the log: the same as `wordmask check` prints.

Everything is read once, from a thread behind the requests of people. Knows the datastore; not HTTP.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress

from wordmask.learning.inspection import Finding, inspect_cases, inspect_path, summarise
from wordmask_app.hardening.datastore import GuardedDatastore
from wordmask_app.tasks.labelled import labelled_cases
from wordmask_app.tasks.scoring import POLITE

logger = logging.getLogger(__name__)


def start_summary(datastore: GuardedDatastore, max_voxels: int) -> None:
    """Log the summary soon; returns at once."""
    work = threading.Thread(target=_run, args=(datastore, max_voxels), name="wordmask-summary", daemon=True)
    work.start()


def log_summary(datastore: GuardedDatastore, max_voxels: int) -> None:
    """Read all images and final labels, and log what is warned about or refused, and the counts.

    What is left out is named by the datastore.
    """
    images = list(inspect_path(datastore.root, max_voxels=max_voxels))
    cases, problems = labelled_cases(datastore)
    labels = [*inspect_cases(cases), *(_refuse(problem) for problem in problems)]
    for kind, findings in (("image", images), ("final label", labels)):
        for finding in findings:
            if finding.state in ("warned", "refused"):
                logger.warning("The %s of %r is %s: %s", kind, finding.name, finding.state, finding.reason)
    logger.info("Images of the studies: %s. Final labels: %s.", summarise(images), summarise(labels))


def _refuse(problem: str) -> Finding:
    name, _, reason = problem.partition(": ")
    return Finding(name, "refused", reason)


def _run(datastore: GuardedDatastore, max_voxels: int) -> None:
    with suppress(AttributeError, OSError):  # of this thread alone, on Linux
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), POLITE)
    try:
        log_summary(datastore, max_voxels)
    except Exception:  # the server serves without it
        logger.exception("The studies could not be summarised")
