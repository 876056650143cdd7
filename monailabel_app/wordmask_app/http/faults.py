"""The answer to an error: one status and one sentence for each kind.

Knows errors; not routes, not models.
"""

from __future__ import annotations

import errno
import json
import logging
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import requests
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelException,
)

from wordmask.errors import (
    CancelledError,
    DiskFullError,
    OutOfMemoryError,
    TooLargeError,
    UnknownModelError,
    WeightsError,
    WordMaskError,
)
from wordmask_app.hardening.background import TaskRunningError
from wordmask_app.hardening.folder_lock import NOT_ALLOWED, ReadOnlyError
from wordmask_app.hardening.images import UnknownImageError
from wordmask_app.jobs.queue import (
    JobNotReadyError,
    QueueFullError,
    ResultGoneError,
    TimeLimitError,
    UnknownJobError,
)

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_NAME = (errno.ENAMETOOLONG, errno.EISDIR)
_REFERENCE = "reference "

# The first that fits counts; any other WordMaskError is the client's fault: 400.
_STATUS: tuple[tuple[type[WordMaskError], int], ...] = (
    (ReadOnlyError, 403),
    (UnknownImageError, 404),
    (UnknownModelError, 404),
    (UnknownJobError, 404),
    (JobNotReadyError, 409),
    (CancelledError, 409),
    (ResultGoneError, 410),
    (TooLargeError, 413),
    (QueueFullError, 429),
    (TaskRunningError, 429),
    (OutOfMemoryError, 503),
    (TimeLimitError, 503),
    (WeightsError, 503),
    (DiskFullError, 507),
)


@dataclass(frozen=True)
class Fault:
    """The answer to an error.

    Attributes:
        status: of HTTP.
        sentence: for people, without a trace or a path of the server.
        headers: of the answer, besides the usual ones.
    """

    status: int
    sentence: str
    headers: dict[str, str] = field(default_factory=dict)


def fault_of(error: BaseException) -> Fault:
    """The answer to an error.

    The trace of an unforeseen error goes to the log, under a reference that the sentence gives.
    """
    if isinstance(error, WordMaskError):
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, QueueFullError) else {}
        return Fault(
            next((status for kind, status in _STATUS if isinstance(error, kind)), 400), str(error), headers
        )
    if isinstance(error, HTTPException):
        return Fault(error.status_code, str(error.detail), dict(error.headers or {}))
    if isinstance(error, OSError) and error.errno in _FULL:
        logger.error("The disk is full: %s", error)
        return Fault(
            507, "The server's disk is full, so nothing was kept; free some space and send the request again."
        )
    if isinstance(error, OSError) and error.errno in NOT_ALLOWED:
        logger.error("A file or folder may not be used: %s", error)
        return Fault(403, _say_denied(error))
    if isinstance(error, OSError) and error.errno in _NO_NAME:
        return Fault(400, "The name of a file in the request is too long, or is not a file name.")
    if isinstance(error, requests.RequestException):
        return _of_another_server(error)
    if isinstance(error, ImageNotFoundException | LabelNotFoundException):
        return Fault(404, "There is no such image or label on this server.")
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return Fault(400, "A part of the request is not valid JSON.")
    if isinstance(error, MONAILabelException):
        return Fault(400, f"{error.msg.rstrip('.')}.")
    return Fault(500, f"Something went wrong on the server; its log says what, under {_reference(error)}.")


def _say_denied(error: OSError) -> str:
    """Which of the server's folders its account may not use; not where the folder is."""
    path = Path(str(error.filename or ""))
    kinds = {"app": settings.MONAI_LABEL_APP_DIR, "studies": settings.MONAI_LABEL_STUDIES}
    folder = next(
        (
            f"the {kind} folder {Path(root).name}"
            for kind, root in kinds.items()
            if root and path.is_relative_to(root)
        ),
        "the folder for temporary files",
    )
    return (
        f"The server may not use {path.name or 'a file'} in {folder} ({error.strerror}), so nothing was "
        "kept; whoever runs the server must give its account the right to read and write there."
    )


def _reference(error: BaseException) -> str:
    """A reference under which the log has the trace.

    The trace is logged once, however often a client asks for the state of a job that ended with it.
    """
    for note in getattr(error, "__notes__", ()):
        if note.startswith(_REFERENCE):
            return str(note)
    reference = f"{_REFERENCE}{uuid.uuid4().hex[:8]}"
    error.add_note(reference)
    logger.error("%s: %s", reference, type(error).__name__, exc_info=error)
    return reference


def _of_another_server(error: requests.RequestException) -> Fault:
    """The realm that knows passwords, or the DICOMweb server."""
    logger.warning("Another server failed: %s", error)
    if error.response is not None and error.response.status_code in (400, 401, 403):
        return Fault(
            401,
            "The server that was asked did not accept this name or password.",
            {"WWW-Authenticate": "Bearer"},
        )
    return Fault(
        503,
        "A server that this one depends on does not answer as it should; try again later.",
        {"Retry-After": "10"},
    )
