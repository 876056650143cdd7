"""The HTTP routes of WordMask, and those of MONAI Label that they replace.

Errors are raised as they are: guards.py turns every one of them into a status and a sentence. Computing
happens on the queue's thread, reading uploads on the pool's; the event loop only waits. Knows HTTP; what is
computed is the runtime's business.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, File, Form, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from monailabel.config import RBAC_ADMIN, RBAC_USER, settings
from monailabel.endpoints.activelearning import api_sample, sample
from monailabel.endpoints.infer import ResultType, api_run_inference
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance, clear_cache

from wordmask.errors import RequestError
from wordmask_app.hardening import background
from wordmask_app.http import catalogue, downloads, uploads
from wordmask_app.http.answers import answer, job_status
from wordmask_app.http.next_case import NextRequest, answer_next
from wordmask_app.http.people import name_person
from wordmask_app.jobs.queue import Job
from wordmask_app.jobs.runtime import Runtime
from wordmask_app.jobs.submissions import Submission, make_job, make_refinement
from wordmask_app.tasks.trainers import training_state

logger = logging.getLogger(__name__)

LOOK = 0.5  # seconds between looks whether a waiting client is still there

AsUser = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
AsAdmin = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))]
Params = Annotated[
    str, Form(description='JSON, such as {"words": "liver, spleen"}; docs/server.md has every parameter')
]
Upload = Annotated[UploadFile | None, File()]

router = APIRouter(prefix="/wordmask", tags=["WordMask"])
replacing = APIRouter(tags=["WordMask"])


def install(app: FastAPI) -> None:
    """Add the routes, and take away those of MONAI Label that they replace; a second call changes nothing."""
    # Imported here, because the module reads the settings when it is imported.
    from monailabel.app import reload as reload_without_rule

    entries = app.router.routes
    if any(_is(entry, infer) for entry in entries):
        return
    replaced = (api_run_inference, api_sample, reload_without_rule)
    app.router.routes[:] = [
        entry for entry in entries if not any(_is(entry, endpoint) for endpoint in replaced)
    ]
    theirs = list(app.router.routes)
    app.router.routes.clear()
    for added in (router, replacing, uploads.router, downloads.router):
        app.include_router(added, prefix=settings.MONAI_LABEL_API_STR)
    app.router.routes.extend(theirs)  # the first route that fits answers
    app.openapi_schema = None  # made again, with these routes, when it is next asked for


def _is(entry: Any, endpoint: Any) -> bool:
    """Whether an entry of the application's routes is, or includes, the route of an endpoint."""
    inner = getattr(entry, "original_router", None)  # FastAPI keeps an included router whole
    routes = [entry] if inner is None else inner.routes
    return any(getattr(route, "endpoint", None) is endpoint for route in routes)


def _runtime() -> Runtime:
    runtime: Runtime = app_instance().runtime
    return runtime


def _submit(submission: Submission) -> Job:
    app = app_instance()
    return app.runtime.queue.submit(make_job(submission, app, app.runtime))


def _submit_refinement(submission: Submission) -> Job:
    app = app_instance()
    return app.runtime.queue.submit(make_refinement(submission, app, app.runtime), first=True)


def _answer_next(question: NextRequest) -> dict[str, Any]:
    app = app_instance()
    return answer_next(question, app, app.next_case, app.runtime)


def _upload(file: UploadFile | None) -> tuple[str, Any] | None:
    return None if file is None else (file.filename or "", file.file)


@router.post("/jobs", status_code=202, summary=f"{RBAC_USER}Queue a segmentation and answer at once")
async def start_job(
    user: AsUser,
    model: str = "",
    image: str = "",
    session_id: str = "",
    params: Params = "{}",
    file: Upload = None,
) -> dict[str, Any]:
    """model: the server's first when left out.

    image: id of the datastore, or ``session_id``, or ``file``; params: as of infer.
    """
    job = await run_in_threadpool(_submit, Submission(model, image, session_id, params, _upload(file)))
    return job_status(job, _runtime().queue)


@router.post(
    "/refine", status_code=202, summary=f"{RBAC_USER}Queue a correction of a mask, before all others"
)
async def start_refinement(
    user: AsUser, model: str = "", image: str = "", session_id: str = "", params: Params = "{}"
) -> dict[str, Any]:
    """params: ``words`` (one), ``points`` or ``box`` in voxels, ``spread``, ``locked``, ``least_overlap``.

    The result of the job is the part of the image that changed; its ``slices`` are the ones to replace.
    """
    job = await run_in_threadpool(_submit_refinement, Submission(model, image, session_id, params))
    return job_status(job, _runtime().queue)


@router.get("/jobs", summary=f"{RBAC_USER}All jobs that are still known, newest first")
async def list_jobs(user: AsUser) -> dict[str, Any]:
    """States of all jobs."""
    queue = _runtime().queue
    return {"jobs": [job_status(job, queue) for job in queue.all()]}


@router.get("/jobs/{job_id}", summary=f"{RBAC_USER}How far a job is")
async def get_job(job_id: str, user: AsUser) -> dict[str, Any]:
    """State, progress and message of a job."""
    queue = _runtime().queue
    return job_status(queue.get(job_id), queue)


@router.delete("/jobs/{job_id}", summary=f"{RBAC_USER}Cancel a job between two batches")
async def cancel_job(job_id: str, user: AsUser) -> dict[str, Any]:
    """State after asking; a job that is running is cancelled a moment later, a final one stays as it is."""
    queue = _runtime().queue
    return job_status(queue.cancel(job_id), queue)


@router.get("/jobs/{job_id}/result", summary=f"{RBAC_USER}What a job made", response_class=Response)
async def get_result(job_id: str, user: AsUser, output: ResultType | None = None) -> Response:
    """Label map and JSON, the same multipart answer as infer gives.

    Kept for a minute after it was fetched.
    """
    _refuse_dicom_seg(output)
    return answer(_runtime().queue.result(job_id), output, name=job_id, once=False)


@router.get("/vocabulary", summary=f"{RBAC_USER}Suggestions for the text box")
async def get_vocabulary(
    user: AsUser,
    q: Annotated[str, Query(max_length=200)] = "",
    model: str = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 20,
) -> dict[str, Any]:
    """Words, synonyms, codes, and what the model was trained on."""
    return await run_in_threadpool(lambda: catalogue.vocabulary(_runtime().find_model(model), q, limit))


@router.get("/models", summary=f"{RBAC_USER}Models, what they can do, and their versions")
async def get_models(user: AsUser) -> dict[str, Any]:
    """Every configured model."""
    return await run_in_threadpool(lambda: catalogue.models(_runtime()))


@router.post("/models/{name}/rollback", summary=f"{RBAC_ADMIN}Use an earlier version again")
async def rollback(name: str, user: AsAdmin, to: Annotated[int | None, Query(ge=0)] = None) -> dict[str, Any]:
    """to: a version's number, 0 the preset's own weights, else the version before.

    The next request is answered by it.
    """

    def go_back() -> dict[str, Any]:
        served = _runtime().find_model(name)
        served.store.rollback(to)
        served.load_if_trained()
        return {"model": name, "version": served.version}

    done = await run_in_threadpool(go_back)
    logger.info("rollback model=%s version=%s user=%r", name, done["version"], user.username)
    return done


@router.get("/training", summary=f"{RBAC_USER}How far the training of a model is, or how the last one ended")
async def get_training(user: AsUser, model: str = "") -> dict[str, Any]:
    """Start one with `POST /train/{model}`, stop it with `DELETE /train/`."""
    return await run_in_threadpool(lambda: training_state(_runtime().find_model(model).store))


@router.post(
    "/next", summary=f"{RBAC_USER}The case to label next, why this one, and a label map to start from"
)
async def next_case(
    request: Request,
    user: AsUser,
    strategy: Annotated[str, Query(max_length=100)] = "hybrid",
    model: str = "",
    words: Annotated[str, Query(max_length=10_000)] = "",
    skip: Annotated[list[str] | None, Query()] = None,
    annotator: str = "",
    client_id: str = "",
) -> dict[str, Any]:
    """strategy: first, random, uncertainty, diversity, hybrid.

    words: else those of the submitted labels; skip: ids not to be offered, which others may have then.
    annotator (or client_id): who asks, where authentication is off; nobody else is offered the case.
    """
    who = name_person(request, user, annotator, client_id)
    question = NextRequest(strategy, model, words, frozenset(skip or ()), who)
    return await run_in_threadpool(lambda: _answer_next(question))


@router.get("/health", summary=f"{RBAC_USER}Device, queue, cache and version figures")
async def get_health(user: AsUser) -> dict[str, Any]:
    """Figures for monitoring."""
    return await run_in_threadpool(lambda: catalogue.health(_runtime()))


@replacing.post(
    "/infer/{model}", summary=f"{RBAC_USER}Run Inference for supported model", response_class=Response
)
async def infer(
    request: Request,
    model: str,
    user: AsUser,
    image: str = "",
    session_id: str = "",
    params: Params = "{}",
    file: Upload = None,
    label: Upload = None,
    output: ResultType | None = None,
) -> Response:
    """MONAI Label's route, waiting off the event loop: a client that goes away cancels its job."""
    _refuse_dicom_seg(output)
    submission = Submission(model, image, session_id, params, _upload(file), has_label=label is not None)
    job = await run_in_threadpool(_submit, submission)
    outcome = asyncio.wrap_future(job.outcome)
    while not (await asyncio.wait({outcome}, timeout=LOOK))[0]:
        if await request.is_disconnected():
            _runtime().queue.cancel(job.id)
            break
    result = await outcome
    return answer(result, output, name=job.id, once=True)


@replacing.post(
    "/activelearning/{strategy}", summary=f"{RBAC_USER}Run Active Learning strategy to get next sample"
)
async def activelearning(
    request: Request, strategy: str, user: AsUser, params: dict[str, Any] | None = None
) -> dict[str, Any]:
    """MONAI Label's route, off the event loop; the same choice as `/wordmask/next`, without a preview."""
    asked = params or {}
    who = name_person(request, user, asked.get("annotator"), asked.get("client_id"))
    found: dict[str, Any] = await run_in_threadpool(sample, strategy, {**asked, "client_id": who}, who)
    return found


@replacing.delete("/train/", summary=f"{RBAC_ADMIN}Stop Training Task")
async def stop_training(user: AsAdmin) -> dict[str, Any] | None:
    """MONAI Label's route, which stops a training also when it is only about to start."""
    return await run_in_threadpool(background.stop, "train")


@replacing.post("/reload", include_in_schema=False)
async def reload(user: AsAdmin) -> dict[str, Any]:
    """MONAI Label's route, for administrators only: build the app again; jobs, models and caches stay."""
    clear_cache()
    await run_in_threadpool(app_instance)
    return {}


def _refuse_dicom_seg(output: ResultType | None) -> None:
    if output == ResultType.dicom_seg:
        raise RequestError(
            "This server answers with label maps, not with DICOM "
            "SEG; leave output out, or use image, json or all."
        )
