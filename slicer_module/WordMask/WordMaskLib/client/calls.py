"""Every request that the module sends, as plain data: what goes out, and how its answer is read.

    call = calls.start_job("simple_vilmedsam", ["liver"], image="ct_trunk")
    client.run(call)                                       # waits
    # for Qt's transport, which does not wait:
    call.url(address), call.headers(token), call.body(), call.reader(address)

Knows routes and parameters; not sockets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from .. import __version__
from .addresses import ServerAddress
from .answers import (
    DatastoreImage,
    Health,
    ModelInfo,
    ServerInfo,
    Suggestion,
    ignore_answer,
    images_from_json,
    rows_of,
    text_of,
)
from .errors import AddressError, ClientError
from .job_answers import JobResult, JobStatus, NextCase, TrainingState
from .multipart import FilePart, Form, TextPart, safe_file_name
from .readers import ENDINGS, AnswerReader, FileReader, JsonReader, ResultReader

T = TypeVar("T")
if TYPE_CHECKING:
    Words = str | Sequence[str]  # as typed, with commas, or one by one


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request.

    ``safe_to_repeat`` means that sending it twice has the same effect as sending it once, so it may be sent
    again after the connection broke.
    """

    method: str
    path: str
    reader: Callable[[ServerAddress], AnswerReader[T]]
    query: tuple[tuple[str, str], ...] = ()
    form: Form | None = None
    json: Mapping[str, Any] | None = None
    safe_to_repeat: bool = False

    def url(self, address: ServerAddress) -> str:
        """Return the whole URL at a server."""
        return address.url(self.path, self.query)

    def headers(self, token: str | None = None) -> dict[str, str]:
        """Return all headers except Host and Content-Length; AddressError: the token is not valid."""
        found = {
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": f"WordMask-Slicer/{__version__}",
        }
        if token:
            found["Authorization"] = f"Bearer {check_token(token)}"
        if self.form is not None:
            found["Content-Type"] = self.form.content_type
        elif self.json is not None:
            found["Content-Type"] = "application/json"
        return found

    def body(self) -> bytes | None:
        """Return the JSON to send; None if there is none, or a form."""
        return None if self.json is None else json.dumps(self.json).encode()


def check_token(token: str) -> str:
    """Return a bearer token as it may stand in a header; AddressError, which does not repeat the token."""
    token = token.strip()
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]{1,16384}", token):
        raise AddressError(
            "The token contains characters that are not allowed; copy it again without quotes, spaces and "
            "line breaks."
        )
    return token


def info() -> Call[ServerInfo]:
    """Ask any MONAI Label server what it is."""
    return _get("/info/", ServerInfo.from_json)


def health() -> Call[Health]:
    """Ask a WordMask server what it is. This is the first request to send."""
    return _get("/wordmask/health", Health.from_json)


def models() -> Call[tuple[ModelInfo, ...]]:
    """Ask for the models, what they can do, and their versions."""
    return _get("/wordmask/models", rows_of("models", ModelInfo.from_json))


def vocabulary(typed: str = "", model: str = "", limit: int = 20) -> Call[tuple[Suggestion, ...]]:
    """Ask for suggestions for the beginning of a word or a misspelt one, best first.

    Args:
        typed: only its first 200 characters are sent
        model: whose trained words are marked
        limit: at most 500
    """
    query = [("q", typed[:200]), ("limit", str(max(1, min(limit, 500))))] + (
        [("model", _name(model))] if model else []
    )
    return _get("/wordmask/vocabulary", rows_of("words", Suggestion.from_json), query)


def start_job(
    model: str,
    words: Words | None,
    *,
    image: str = "",
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Call[JobStatus]:
    """Queue a segmentation of an image of the server, or of a file.

    Args:
        model: its name
        words: as typed, with commas, or one by one; None for the server's default words
        image: id of an image of the server
        file: an image file to send instead
        options: ``plane``, ``window``, ``threshold``, ``slices`` ([first, last]), ``output_volume``,
            ``result_extension``, ``points``, ``box``, ``scribbles`` and others that docs/server.md names

    Raises:
        ClientError: neither or both of image and file, or a file of another kind
    """
    if bool(image) == (file is not None):
        raise ClientError("A request is about either an image of the server or a file; choose one of them.")
    params = {
        **(options or {}),
        **({} if words is None else {"words": words if isinstance(words, str) else list(words)}),
    }
    query = [("model", _name(model)), *([("image", image)] if image else [])]
    return Call(
        "POST", "/wordmask/jobs", _json(JobStatus.from_json), tuple(query), _form(params, "file", file, None)
    )


def job(job_id: str) -> Call[JobStatus]:
    """Ask how far a job is."""
    return _get(f"/wordmask/jobs/{_name(job_id)}", JobStatus.from_json)


def cancel_job(job_id: str) -> Call[JobStatus]:
    """Ask a job to stop; a running one is cancelled a moment later."""
    return Call("DELETE", f"/wordmask/jobs/{_name(job_id)}", _json(JobStatus.from_json), safe_to_repeat=True)


def job_result(job_id: str, folder: Path, stem: str = "") -> Call[JobResult]:
    """Ask for the result of a job. Its file is put into ``folder`` as ``stem`` (by default the job's id) with
    the ending of its format.
    """
    name = stem or _name(job_id)
    return Call(
        "GET",
        f"/wordmask/jobs/{_name(job_id)}/result",
        lambda address: ResultReader(address, folder, name, JobResult.from_json),
        safe_to_repeat=True,
    )


def images() -> Call[tuple[DatastoreImage, ...]]:
    """Ask for every case of the server's datastore."""
    return _get("/datastore/", images_from_json, [("output", "all")])


def image_file(image: str, folder: Path, stem: str = "") -> Call[Path]:
    """Ask for the file of a case. It is put into ``folder`` as ``stem`` (by default a safe form of its id)
    with the ending of its format.
    """
    name = stem or safe_file_name(image)
    query = (("image", image),)
    return Call(
        "GET",
        "/datastore/image",
        lambda address: FileReader(address, folder, name, _same_path),
        query,
        safe_to_repeat=True,
    )


def upload_image(image: str, file: Path, info: Mapping[str, Any] | None = None) -> Call[str]:
    """Put a file into the datastore under the id ``image``, which the server returns.

    An image with that id is replaced, and its labels stay.
    """
    form = _form(info or {}, "file", file, "image")
    return Call("PUT", "/datastore/image", _json(text_of("image")), (("image", image),), form)


def submit_label(
    image: str,
    file: Path,
    names: Mapping[str, int],
    *,
    tag: str = "final",
    codes: Mapping[str, Any] | None = None,
    annotator: str = "",
    replace: bool = False,
) -> Call[str]:
    """Store a label map of an image; the model learns from the one with the tag "final".

    Returns the tag under which it is stored: another one where another person has submitted the final one.

    Args:
        image: id of the image
        file: the label map
        names: word -> value in the file; a word without a voxel is absent from the image
        tag: "final", or another one
        codes: what else is stored with the labels, like ``label_info`` of MONAI Label: word -> {"color":
            [...], "code": {...}}
        annotator: who made it
        replace: whether it may replace another person's final label map

    Raises:
        ClientError: no name, a value below 1, or one value for two words
    """
    values = list(names.values())
    if (
        not names
        or any(type(value) is not int or value < 1 for value in values)
        or len(set(values)) != len(values)
    ):
        raise ClientError(
            "A label map is submitted with a name for each of its values, and every name needs a value of "
            "its own above 0."
        )
    rows = [{**(codes or {}).get(word, {}), "name": word, "idx": value} for word, value in names.items()]
    form = _form({"label_info": rows}, "label", file, "label")
    query = [("image", image), ("tag", tag), *([("annotator", annotator)] if annotator else [])]
    query += [("replace", "true")] if replace else []
    return Call("PUT", "/datastore/label", _json(text_of("tag", tag)), tuple(query), form)


def start_training(model: str, options: Mapping[str, Any] | None = None) -> Call[None]:
    """Start learning from all final labels, in the background.

    ``options`` are ``recipe``, ``force``, ``start``, ``steps`` and other numbers.
    """
    return Call("POST", f"/train/{_name(model)}", _json(ignore_answer), json=dict(options or {}))


def training(model: str = "") -> Call[TrainingState]:
    """Ask how far a training is, or how the last one ended."""
    return _get("/wordmask/training", TrainingState.from_json, [("model", _name(model))] if model else [])


def stop_training() -> Call[None]:
    """Stop the running training, if there is one; the model in use stays as it is."""
    return Call("DELETE", "/train/", _json(ignore_answer))


def next_case(
    strategy: str = "hybrid",
    *,
    model: str = "",
    words: str = "",
    skip: Sequence[str] = (),
    annotator: str = "",
) -> Call[NextCase]:
    """Ask for the case to label next, with a reason and a preview job.

    Args:
        strategy: first, random, uncertainty, diversity or hybrid
        model: its name; by default the server's first one
        words: what to look for; by default the server's words
        skip: ids of cases to leave out, which the server may offer to others
        annotator: who asks; the server does not offer the case to others for a while
    """
    query = [
        ("strategy", strategy),
        *([("model", _name(model))] if model else []),
        *([("words", words)] if words else []),
        *([("annotator", annotator)] if annotator else []),
    ]
    return Call(
        "POST", "/wordmask/next", _json(NextCase.from_json), (*query, *(("skip", case) for case in skip))
    )


def rollback(model: str, to: int | None = None) -> Call[str]:
    """Use the previous version again, or version ``to`` (0: the preset's own weights). The server returns the
    version in use.
    """
    query = () if to is None else (("to", str(to)),)
    return Call("POST", f"/wordmask/models/{_name(model)}/rollback", _json(text_of("version")), query)


def _get(path: str, parse: Callable[[Any], T], query: Sequence[tuple[str, str]] = ()) -> Call[T]:
    return Call("GET", path, _json(parse), tuple(query), safe_to_repeat=True)


def _same_path(path: Path) -> Path:
    return path


def _json(parse: Callable[[Any], T]) -> Callable[[ServerAddress], AnswerReader[T]]:
    return lambda address: JsonReader(address, parse)


def _name(given: str) -> str:
    """A model's name or a job's id, as part of a path; ClientError for what could lead to another route."""
    if not re.fullmatch(r"[\w.-]{1,200}", given) or not given.strip("."):
        raise ClientError(
            f"{given[:40]!r} is not the name of a model or a job; choose one that the server has."
        )
    return quote(given, safe="")


def _form(params: Mapping[str, Any], field: str, file: Path | None, called: str | None) -> Form:
    """Make a form of ``params`` as JSON and a file, which the server knows as ``called``, or by its own name.

    MONAI Label takes everything after the first dot of a name for its ending, so "CT 1.5.nii.gz" must not be
    sent as it is.
    """
    text = TextPart("params", json.dumps(params), "application/json")
    if file is None:
        return Form((text,))
    path = Path(file)
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
    if ending is None:
        raise ClientError(
            f"{path.name!r} is not an image file that the server accepts; save it as NIfTI (.nii.gz), NRRD, "
            "or PNG."
        )
    name = called or safe_file_name(path.name[: -len(ending)])
    return Form((text, FilePart(field, path, f"{name}{ending}")))
