"""What clients receive: states of jobs as JSON, results as MONAI Label's clients expect them.

Knows jobs and HTTP responses; not models, not volumes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse, StreamingResponse
from monailabel.utils.others.generic import get_mime_type
from requests_toolbelt import MultipartEncoder

from wordmask.data.image_files import suffix_of
from wordmask_app.http.faults import fault_of
from wordmask_app.jobs.queue import Job, JobQueue, JobResult, JobState, expires

_BLOCK = 1 << 18


def job_status(job: Job, queue: JobQueue) -> dict[str, Any]:
    """A job as JSON.

    ``seconds`` counts the computation; ``waiting`` is the number of jobs before it, null unless it waits;
    ``status_code`` is that of its error, null without an error.
    """
    failure = job.outcome.exception() if job.state is JobState.FAILED else None
    progress = job.progress
    return {
        "id": job.id,
        "state": job.state.value,
        "model": job.model,
        "image": job.image,
        "words": list(job.words),
        "done": 0 if progress is None else progress.done,
        "total": 0 if progress is None else progress.total,
        "stage": job.message if progress is None else progress.stage,
        "seconds": round(job.seconds, 3),
        "waiting": queue.ahead_of(job),
        "message": job.message,
        "status_code": None if failure is None else fault_of(failure).status,
        "created": datetime.fromtimestamp(job.created, UTC).isoformat(timespec="seconds"),
        "expires": expires(job, queue.keep_seconds),
    }


def answer(result: JobResult, output: str | None, *, name: str, once: bool) -> Response:
    """The result as MONAI Label's clients expect it, sent in blocks.

    Args:
        result: of a job.
        output: ``json``, ``image``, else both as multipart/form-data with the parts params and image.
        name: of the file, without ending.
        once: remove the file now; it is open and still sent to its end, and it is gone also when the client
            disconnects.
    """
    file_name = name + suffix_of(result.file)
    file = result.file.open("rb")
    if once:
        result.file.unlink(missing_ok=True)
    if output == "json":
        file.close()
        return JSONResponse(result.fields)
    media = get_mime_type(file_name)
    if output == "image":
        headers = {
            "Content-Disposition": f'attachment; filename="{file_name}"',
            "Content-Length": str(os.fstat(file.fileno()).st_size),
        }
        return StreamingResponse(_blocks(file), media_type=media, headers=headers)
    fields = {
        "params": (None, json.dumps(result.fields), "application/json"),
        "image": (file_name, file, media),
    }
    encoder = MultipartEncoder(fields=fields)
    headers = {"Content-Length": str(encoder.len)}
    return StreamingResponse(_blocks(encoder), media_type=encoder.content_type, headers=headers)


def _blocks(content: Any) -> Iterator[bytes]:
    while block := content.read(_BLOCK):
        yield block
