"""From what came over the wire to a job: which image, which words, what to do with the result.

Everything is checked before the job waits; what can change while it waits (the image may be removed) is
checked again when it runs. Knows MONAI Label's datastore and sessions, and the runtime; not HTTP, and of the
app only what `CaseSource` names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.utils.sessions import Sessions

from wordmask.data.image_files import PICTURE_SUFFIXES, VOLUME_SUFFIXES, suffix_of
from wordmask.errors import RequestError, WordMaskError
from wordmask.inference.hints import check_kinds
from wordmask.models.loading import segmenter_class
from wordmask_app.hardening.images import find_image, safe_tag, session_image
from wordmask_app.jobs.queue import Job, JobResult
from wordmask_app.jobs.requests import InferRequest, RefineRequest, json_object, switch
from wordmask_app.jobs.runtime import Runtime

# These belong in the address or the form, not in params.
_ADDRESS = ("image", "model", "session", "session_id", "file")


class CaseSource(Protocol):
    """Where a job's image comes from and its label goes to: the app, as far as a job needs it."""

    def check_request(self, model: str, params: Mapping[str, Any]) -> InferRequest:
        """Check the parameters of a request against what the model can do; raises WordMaskError."""

    def datastore(self) -> Datastore:
        """The images and labels of the server."""

    def sessions(self) -> Sessions | None:
        """The images that clients have lent for a while; None when sessions are turned off."""

    def keep_result(self, image: str, result: JobResult, tag: str) -> object:
        """Save a result as a label of its image; its id."""


@dataclass(frozen=True)
class Submission:
    """One request as it came.

    Exactly one of image (id in the datastore), session_id and upload (file name, content) counts.
    """

    model: str = ""
    image: str = ""
    session_id: str = ""
    params: str = "{}"
    upload: tuple[str, BinaryIO] | None = None
    has_label: bool = False


def make_job(submission: Submission, source: CaseSource, runtime: Runtime) -> Job:
    """Check a request and make a job of it.

    Raises:
        UnknownModelError: there is no such model.
        UnknownImageError: there is no such image.
        PromptError: the words cannot be used.
        RequestError: another parameter cannot be used.
        TooLargeError: the upload exceeds the limits.
    """
    model = runtime.find_model(submission.model).name
    params = json_object(submission.params)
    _refuse_addresses(params, submission)
    request = source.check_request(
        model, {**params, "label": "a file" if submission.has_label else params.get("label")}
    )
    save_tag = _save_tag(params, submission)
    path, files = _find_image(submission, source, runtime)
    path()  # for its errors, now

    def work(job: Job) -> JobResult:
        try:
            result = runtime.segment(
                model, path(), request, job_id=job.id, progress=job.report, cancel=job.cancel
            )
        except WordMaskError as error:
            raise type(error)(_use_client_name(str(error), files, submission)) from error
        if save_tag is not None:
            source.keep_result(submission.image, result, save_tag)
        return result

    return Job(model, _name_image(submission), _words(request), work, files)


def make_refinement(submission: Submission, source: CaseSource, runtime: Runtime) -> Job:
    """Check a correction and make a job of it; raises as `make_job`."""
    model = runtime.find_model(submission.model).name
    params = json_object(submission.params)
    _refuse_addresses(params, submission)
    request = RefineRequest.from_params(params)
    check_kinds(request.hints, 1, segmenter_class(model).capabilities, model)
    path, files = _find_image(submission, source, runtime)
    path()  # for its errors, now

    def work(job: Job) -> JobResult:
        return runtime.refine(model, path(), request, progress=job.report, cancel=job.cancel)

    return Job(model, _name_image(submission), (request.word,), work, files)


def _refuse_addresses(params: Mapping[str, Any], submission: Submission) -> None:
    """MONAI Label would let params overrule the address, and so name any file of the server."""
    same = {"image": submission.image, "model": submission.model}
    for name in _ADDRESS:
        if name in params and (name not in same or params[name] != same[name]):
            raise RequestError(
                f"{name} belongs in the address or the form of a "
                "request, not in params; image is the id of an image."
            )


def _save_tag(params: Mapping[str, Any], submission: Submission) -> str | None:
    tag = safe_tag(params.get("label_tag") or DefaultLabelTag.ORIGINAL.value)
    if not switch(params, "save_label", default=False):
        return None
    if submission.upload is not None or submission.session_id:
        raise RequestError("save_label is for images of the server; this image came with the request.")
    return tag


def _find_image(
    submission: Submission, source: CaseSource, runtime: Runtime
) -> tuple[Callable[[], Path], list[Path]]:
    """How to find the image when it is needed, and the files that are to be removed after it."""
    if submission.upload is not None:
        name, content = submission.upload
        suffix = suffix_of(Path(name or "volume.nii.gz"))
        if suffix not in (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES, ".dcm"):
            raise RequestError(
                "An upload is a NIfTI, NRRD, MetaImage, DICOM or "
                f"picture file by its name, not {suffix[:20]!r}."
            )
        path = runtime.spool.keep(content, suffix)
        return lambda: path, [path]
    if submission.session_id:
        return lambda: session_image(submission.session_id, source.sessions()), []
    if not submission.image:
        raise RequestError(
            "The request does not name an image: give the id "
            "of an image of this server, a session, or a file."
        )
    return lambda: find_image(submission.image, source.datastore()), []


def _use_client_name(sentence: str, files: list[Path], submission: Submission) -> str:
    """The name that the client gave its file, in place of the one that it has in the spool."""
    for file in files:
        sentence = sentence.replace(file.name, _name_image(submission))
    return sentence


def _name_image(submission: Submission) -> str:
    if submission.upload is not None:
        return Path(submission.upload[0] or "volume").name[:100]
    return submission.image or f"session {submission.session_id}"


def _words(request: InferRequest) -> tuple[str, ...]:
    return tuple(prompt.word for prompt in request.prompts)
