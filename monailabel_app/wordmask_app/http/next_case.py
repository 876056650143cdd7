"""`POST /wordmask/next`: the chosen case with a job that makes the label map to start from.

Knows the app, its chooser and its queue; not HTTP.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from wordmask.errors import WordMaskError
from wordmask_app.http.answers import job_status
from wordmask_app.jobs.submissions import Submission, make_job

if TYPE_CHECKING:
    from wordmask_app.app import WordMaskApp


@dataclass(frozen=True)
class NextRequest:
    """One question. skip: ids not to be offered; user: who asks, kept beside the case as MONAI Label does."""

    strategy: str
    model: str
    words: str
    skip: frozenset[str]
    user: str | None


def answer_next(asked: NextRequest, app: WordMaskApp) -> dict[str, Any]:
    """The answer as JSON; ``case`` is None when every case has its label. WordMaskError: what is wrong with the question."""
    found = app.next_case(asked.strategy, app.datastore(), model=asked.model, words=asked.words, skip=asked.skip)
    preview, problem = None, ""
    if found.case is not None:
        _take_note(found.case, asked, app)
        try:
            submission = Submission(found.model, found.case, params=json.dumps({"prompt": list(found.words)}))
            preview = job_status(app.runtime.queue.submit(make_job(submission, app, app.runtime)), app.runtime.queue)
        except WordMaskError as error:  # a full queue must not keep the case from who asks for it
            problem = str(error)
    score = (
        None if found.score is None else {name: value for name, value in asdict(found.score).items() if name not in ("case", "embedding")}
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


def _take_note(case: str, asked: NextRequest, app: WordMaskApp) -> None:
    """That the case was offered, where MONAI Label's own route notes it."""
    shown = app.datastore().get_image_info(case).get("strategy", {})
    app.datastore().update_image_info(case, {"strategy": {**shown, asked.strategy: {"ts": int(time.time()), "client_id": asked.user}}})
