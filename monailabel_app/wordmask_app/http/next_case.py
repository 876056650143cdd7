"""`POST /wordmask/next`: the chosen case with a job that makes the label map to start from.

Knows the chooser and the queue; not HTTP.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from monailabel.interfaces.datastore import Datastore

from wordmask.errors import WordMaskError
from wordmask_app.hardening.folder_lock import ReadOnlyError
from wordmask_app.http.answers import job_status
from wordmask_app.jobs.runtime import Runtime
from wordmask_app.jobs.submissions import CaseSource, Submission, make_job
from wordmask_app.tasks.strategies import CaseChooser


@dataclass(frozen=True)
class NextRequest:
    """A question for the next case.

    Attributes:
        skip: ids not to offer.
        user: who asks: nobody else is offered the case for a while.
    """

    strategy: str
    model: str
    words: str
    skip: frozenset[str]
    user: str


def answer_next(
    request: NextRequest, source: CaseSource, choose: CaseChooser, runtime: Runtime
) -> dict[str, Any]:
    """The answer as JSON; ``case`` is None when every case has its label.

    Raises:
        WordMaskError: the question cannot be answered; the message says why.
    """
    found = choose(
        request.strategy,
        source.datastore(),
        model=request.model,
        words=request.words,
        skip=request.skip,
        who=request.user,
    )
    preview, problem = None, ""
    if found.case is not None:
        _record_offer(found.case, request, source.datastore())
        try:
            submission = Submission(found.model, found.case, params=json.dumps({"words": list(found.words)}))
            preview = job_status(runtime.queue.submit(make_job(submission, source, runtime)), runtime.queue)
        except WordMaskError as error:  # a full queue must not keep the case from who asks for it
            problem = str(error)
    score = (
        None
        if found.score is None
        else {name: value for name, value in asdict(found.score).items() if name not in ("case", "embedding")}
    )
    return {
        "case": found.case,
        "strategy": found.strategy,
        "model": found.model,
        "version": found.version,
        "words": list(found.words),
        "reason": found.reason,
        "score": score,
        "scores": {name: getattr(found, name) for name in ("unlabelled", "scored", "stale", "refreshing")},
        "skipped": [{"case": case, "reason": reason} for case, reason in found.skipped.items()],
        "preview": preview,
        "preview_message": problem,
    }


def _record_offer(case: str, request: NextRequest, datastore: Datastore) -> None:
    """Record that the case was offered, where MONAI Label's own route does."""
    shown = datastore.get_image_info(case).get("strategy", {})
    offer = {request.strategy: {"ts": int(time.time()), "client_id": request.user}}
    with suppress(ReadOnlyError):
        datastore.update_image_info(case, {"strategy": {**shown, **offer}})
