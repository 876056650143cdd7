"""What a client is told of an error: one status and one sentence for each kind. Knows errors; not routes, not models."""

from __future__ import annotations

import errno
import json
import logging
import uuid
from dataclasses import dataclass, field

from fastapi import HTTPException
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException

from wordmask.errors import CancelledError, DiskFullError, OutOfMemoryError, TooLargeError, UnknownModelError, WeightsError, WordMaskError
from wordmask_app.images import UnknownImageError
from wordmask_app.jobs import JobNotReadyError, QueueFullError, ResultGoneError, TimeLimitError, UnknownJobError

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)

_STATUS: tuple[tuple[type[WordMaskError], int], ...] = (  # the first that fits; every other WordMaskError is the client's: 400
    (UnknownImageError, 404),
    (UnknownModelError, 404),
    (UnknownJobError, 404),
    (JobNotReadyError, 409),
    (CancelledError, 409),
    (ResultGoneError, 410),
    (TooLargeError, 413),
    (QueueFullError, 429),
    (OutOfMemoryError, 503),
    (TimeLimitError, 503),
    (WeightsError, 503),
    (DiskFullError, 507),
)


@dataclass(frozen=True)
class Fault:
    """status: of HTTP; sentence: for people, without a trace or a path of the server; headers: what else the answer carries."""

    status: int
    sentence: str
    headers: dict[str, str] = field(default_factory=dict)


def fault_of(error: BaseException) -> Fault:
    """What to answer; the trace of an error that nobody foresaw goes to the log, under the reference that the sentence gives."""
    if isinstance(error, WordMaskError):
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, QueueFullError) else {}
        return Fault(next((status for kind, status in _STATUS if isinstance(error, kind)), 400), str(error), headers)
    if isinstance(error, HTTPException):
        return Fault(error.status_code, str(error.detail), dict(error.headers or {}))
    if isinstance(error, OSError) and error.errno in _FULL:
        logger.error("The disk is full: %s", error)
        return Fault(507, "The server's disk is full, so nothing was kept; free some space and send the request again.")
    if isinstance(error, ImageNotFoundException | LabelNotFoundException):
        return Fault(404, "There is no such image or label on this server.")
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return Fault(400, "A part of the request is no valid JSON.")
    if isinstance(error, MONAILabelException):
        return Fault(400, f"{error.msg.rstrip('.')}.")
    reference = uuid.uuid4().hex[:8]
    logger.error("Reference %s: %s", reference, type(error).__name__, exc_info=error)
    return Fault(500, f"Something went wrong on the server; its log says what, under reference {reference}.")
