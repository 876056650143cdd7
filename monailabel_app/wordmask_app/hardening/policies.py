"""What becomes of every route of the server: ours, replaced, guarded, refused, or left, and why.

"Left" is as MONAI Label made it. A route that is not in the table does not exist. docs/server.md shows the
same table. Knows paths and parameters; not bytes on the wire.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from starlette.datastructures import QueryParams

from wordmask.errors import RequestError, UnknownModelError
from wordmask_app.hardening.background import require_free
from wordmask_app.hardening.folder_lock import require_writable
from wordmask_app.hardening.images import safe_id, safe_session, safe_tag

Kind = Literal["ours", "replaced", "guarded", "refused", "left"]
LONGEST_BODY = 1_000_000  # bytes of a JSON body


@dataclass(frozen=True)
class Incoming:
    """What is known of a request before its route sees it.

    Attributes:
        path: parameters in the path.
        query: parameters after the path.
        body: empty unless the policy asks for it.
        names: kind (model, trainer, ...) -> the names that there are.
    """

    path: Mapping[str, str]
    query: QueryParams
    body: bytes
    names: Mapping[str, frozenset[str]]


Check = Callable[[Incoming], None]


@dataclass(frozen=True)
class Policy:
    """What becomes of one route.

    Attributes:
        kind: ours, replaced, guarded, refused or left.
        why: for people.
        check: raises WordMaskError for a request that may not pass.
        reads_body: whether ``check`` looks at the JSON body.
    """

    kind: Kind
    why: str
    check: Check | None = None
    reads_body: bool = False


_CHECKSUM = re.compile(r"((SHA256|SHA512|MD5):)?[0-9a-fA-F]{1,128}")
_RESERVED = {"bundle_path", "image"}  # MONAI Label runs code of the one, and reads the other as a path
_NAMED: Mapping[str, Callable[[object], str]] = {
    "image": safe_id,
    "id": safe_id,
    "label": safe_id,
    "tag": safe_tag,
}


def _check_ids(incoming: Incoming) -> None:
    """Ids and tags of the query; a parameter may be given twice, so every value counts."""
    for name, value in incoming.query.multi_items():
        if value and name in _NAMED:
            _NAMED[name](value)
    if any(not _CHECKSUM.fullmatch(value) for value in incoming.query.getlist("check_sum")):
        raise RequestError("check_sum is SHA256, SHA512 or MD5, a colon, and the digits of the sum.")


def _check_session(incoming: Incoming) -> None:
    session_id = safe_session(incoming.path["session_id"])
    sessions = app_instance().sessions()
    session = None if sessions is None else sessions.get_session(session_id, update_ts=False)
    if session is not None and "image" in incoming.query and Path(session.image).is_dir():
        raise RequestError(
            "This session has several files, which cannot be fetched as one image; leave image out."
        )


def _check_new_session(incoming: Incoming) -> None:
    if _asks_for(incoming, "uncompress"):
        raise RequestError(
            "uncompress is not offered, because an archive may write anywhere; send the files themselves."
        )
    if any(not re.fullmatch(r"[0-9]{1,6}", value) for value in incoming.query.getlist("expiry")):
        raise RequestError("expiry is a number of seconds below a million.")


def _check_name(kind: str) -> Check:
    """The one path parameter is the name of something that this server has."""

    def check(incoming: Incoming) -> None:
        known = incoming.names[kind]
        for given in incoming.path.values():
            if given not in known:
                raise UnknownModelError(
                    f"This server has no {kind} {given[:60]!r}; GET /info/ lists what it has."
                )

    return check


def _check_task(kind: str, method: str) -> Check:
    """A background task of a known name, one at a time.

    Its JSON body cannot name a path, and it does not run in the event loop.
    """

    def check(incoming: Incoming) -> None:
        _check_name(kind)(incoming)
        if _asks_for(incoming, "run_sync"):
            raise RequestError(
                "run_sync is not offered, because it would block "
                "all other requests; ask for the state of the task."
            )
        _check_body(incoming.body)
        require_writable(Path(settings.MONAI_LABEL_APP_DIR))
        if incoming.path and not _asks_for(incoming, "enqueue"):  # the routes without a name queue always
            require_free(method)

    return check


def _asks_for(incoming: Incoming, switch: str) -> bool:
    return any(
        value.lower() not in ("false", "0", "no", "off", "") for value in incoming.query.getlist(switch)
    )


def _check_strategy(incoming: Incoming) -> None:
    _check_name("strategy")(incoming)
    _check_body(incoming.body)


def _check_body(body: bytes) -> None:
    if not body:
        return
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError("The body of the request is not valid JSON.") from None
    if found is None:
        return
    if not isinstance(found, dict):
        raise RequestError('The body of the request is a JSON object, such as {"max_epochs": 10}.')
    _refuse_paths(found)
    if reserved := sorted(_RESERVED & found.keys()):
        raise RequestError(f"{reserved[0]} cannot be set by clients; leave it out.")
    if any(not isinstance(found.get(name, ""), str) for name in ("model", "method", "strategy")):
        raise RequestError("model, method and strategy are names.")
    safe_tag(found.get("label_tag") or "original")
    images = found.get("images", "all")
    if not isinstance(images, list) and images not in ("all", "labeled", "unlabeled"):
        raise RequestError("images is all, labeled, unlabeled, or a list of ids of images.")
    for image in images if isinstance(images, list) else []:
        safe_id(image)


def _refuse_paths(value: Any, depth: int = 0) -> None:
    if depth > 20:
        raise RequestError("The body of the request is nested too deeply.")
    if isinstance(value, str) and re.search(r"[/\\\x00]|\.\.", value):
        raise RequestError(
            f"{value[:60]!r} looks like a path; requests name images, models and tags, never files."
        )
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        _refuse_paths(item, depth + 1)


def _require_sign_in(incoming: Incoming) -> None:
    if not settings.MONAI_LABEL_AUTH_ENABLE:
        raise RequestError(
            "The log names studies, so it is shown to administrators "
            "only: turn authentication on, or read logs/app.log."
        )


def _check_path(incoming: Incoming) -> None:
    path = incoming.path.get("path", "")
    if re.search(r"(^|/|:|\\|%2f|%5c)\.{1,2}($|/|:|\\|%2f|%5c)|\x00", path, flags=re.IGNORECASE):
        raise RequestError("The path must not contain . or .. as a folder name.")


def _check_proxy(incoming: Incoming) -> None:
    if not settings.MONAI_LABEL_STUDIES.startswith(("http://", "https://")):
        raise UnknownModelError(
            "This server's studies are a folder, so there is no DICOMweb server to pass requests on to."
        )
    _check_path(incoming)


_OURS = Policy("ours", "MONAI Label's access rule; errors are sentences")
_LEFT_TASK = Policy("left", "state or end of a background task; takes no names")
_DATASTORE = Policy(
    "guarded",
    "ids and tags are names, never paths; the datastore checks them again and replaces files whole",
    _check_ids,
)
_UPLOAD = Policy(
    "replaced",
    "blocked the event loop and failed on JSON that is not an object; ids and tags as above",
    _check_ids,
)
_LABEL = Policy(
    "replaced",
    "kept whatever was sent: a final label is read and compared with its image first; ids and tags as above",
    _check_ids,
)
_DOWNLOAD = Policy(
    "replaced", "knew no DICOM: it is sent as the server reads it, as NIfTI or PNG; ids as above", _check_ids
)
_PROXY = Policy("guarded", "only where the studies are a DICOMweb server, and without `..`", _check_proxy)
_PAGE = Policy("left", "a page or file of MONAI Label; takes nothing")
_NO_SLIDES = Policy("refused", "whole-slide inference: no model here does it, and its parameters name files")

POLICIES: dict[tuple[str, str], Policy] = {
    ("POST", "/wordmask/jobs"): _OURS,
    ("GET", "/wordmask/jobs"): _OURS,
    ("POST", "/wordmask/refine"): _OURS,
    ("GET", "/wordmask/jobs/{job_id}"): _OURS,
    ("DELETE", "/wordmask/jobs/{job_id}"): _OURS,
    ("GET", "/wordmask/jobs/{job_id}/result"): _OURS,
    ("GET", "/wordmask/vocabulary"): _OURS,
    ("GET", "/wordmask/models"): _OURS,
    ("POST", "/wordmask/models/{name}/rollback"): _OURS,
    ("GET", "/wordmask/training"): _OURS,
    ("POST", "/wordmask/next"): _OURS,
    ("GET", "/wordmask/health"): _OURS,
    ("POST", "/infer/{model}"): Policy(
        "replaced", "computed in the event loop, and `params.image` named any file of the server"
    ),
    ("POST", "/reload"): Policy(
        "replaced", "had no access rule: now for administrators; jobs, models and caches stay"
    ),
    ("POST", "/infer/wsi/{model}"): _NO_SLIDES,
    ("POST", "/infer/wsi_v2/{model}"): _NO_SLIDES,
    ("GET", "/info/"): Policy("left", "names, labels and counts"),
    ("GET", "/model/{model}"): Policy("guarded", "configured models only", _check_name("model")),
    ("GET", "/model/info/{model}"): Policy("guarded", "configured models only", _check_name("model")),
    ("PUT", "/model/{model}"): Policy(
        "refused", "would replace weights by any file; versions come from training"
    ),
    ("DELETE", "/model/{model}"): Policy(
        "refused", "would take the weights away; go back with `/wordmask/models/{name}/rollback`"
    ),
    ("GET", "/batch/infer"): _LEFT_TASK,
    ("DELETE", "/batch/infer"): _LEFT_TASK,
    ("POST", "/batch/infer/{model}"): Policy(
        "guarded",
        "known model, one at a time, no `run_sync`, no paths",
        _check_task("model", "batch_infer"),
        True,
    ),
    ("GET", "/train/"): _LEFT_TASK,
    ("DELETE", "/train/"): Policy("replaced", "missed a training that was about to start"),
    ("POST", "/train/"): Policy("guarded", "no `run_sync`, no paths", _check_task("trainer", "train"), True),
    ("POST", "/train/{model}"): Policy(
        "guarded",
        "known trainer, one at a time, no `run_sync`, no paths",
        _check_task("trainer", "train"),
        True,
    ),
    ("GET", "/scoring/"): _LEFT_TASK,
    ("DELETE", "/scoring/"): _LEFT_TASK,
    ("POST", "/scoring/"): Policy(
        "guarded", "no `run_sync`, no paths", _check_task("scoring method", "scoring"), True
    ),
    ("POST", "/scoring/{method}"): Policy(
        "guarded",
        "known method, one at a time, no `run_sync`, no paths",
        _check_task("scoring method", "scoring"),
        True,
    ),
    ("POST", "/activelearning/{strategy}"): Policy(
        "replaced", "chose in the event loop; known strategy, no paths in the body", _check_strategy, True
    ),
    ("GET", "/datastore/"): Policy("left", "the list of images and labels"),
    ("PUT", "/datastore/"): _UPLOAD,
    ("DELETE", "/datastore/"): _DATASTORE,
    ("GET", "/datastore/image"): _DOWNLOAD,
    ("HEAD", "/datastore/image"): _DOWNLOAD,
    ("PUT", "/datastore/image"): _UPLOAD,
    ("DELETE", "/datastore/image"): _DATASTORE,
    ("GET", "/datastore/image/info"): _DATASTORE,
    ("PUT", "/datastore/image/info"): _UPLOAD,
    ("GET", "/datastore/label"): _DATASTORE,
    ("HEAD", "/datastore/label"): _DATASTORE,
    ("PUT", "/datastore/label"): _LABEL,
    ("POST", "/datastore/label/restore"): Policy(
        "ours", "brings back the final label that was replaced last; ids as above", _check_ids
    ),
    ("DELETE", "/datastore/label"): _DATASTORE,
    ("GET", "/datastore/label/info"): _DATASTORE,
    ("PUT", "/datastore/label/info"): _UPLOAD,
    ("PUT", "/datastore/updatelabelinfo"): _UPLOAD,
    ("GET", "/datastore/dataset"): Policy(
        "left", "images with final labels as one ZIP; packs them while others wait"
    ),
    ("GET", "/session/{session_id}"): Policy(
        "guarded", "ids are those that MONAI Label makes", _check_session
    ),
    ("DELETE", "/session/{session_id}"): Policy(
        "guarded", "ids are those that MONAI Label makes: `..` removed folders", _check_session
    ),
    ("PUT", "/session/"): Policy(
        "guarded", "no archives: unpacking a tar wrote outside; bounded expiry", _check_new_session
    ),
    ("GET", "/logs/"): Policy(
        "guarded", "only with authentication on: the log names studies", _require_sign_in
    ),
    ("GET", "/logs/gpu"): Policy("refused", "`/wordmask/health` says what is known of the device"),
    ("GET", "/ohif/{path:path}"): Policy("guarded", "no `..` in the path", _check_path),
    ("GET", "/proxy/dicom/wado/{path:path}"): _PROXY,
    ("POST", "/proxy/dicom/wado/{path:path}"): _PROXY,
    ("GET", "/proxy/dicom/qido/{path:path}"): _PROXY,
    ("POST", "/proxy/dicom/qido/{path:path}"): _PROXY,
    ("GET", "/proxy/dicom/stow/{path:path}"): _PROXY,
    ("POST", "/proxy/dicom/stow/{path:path}"): _PROXY,
    ("GET", "/proxy/dicom/{path:path}"): _PROXY,
    ("POST", "/proxy/dicom/{path:path}"): _PROXY,
    ("POST", "/auth/token"): Policy(
        "left", "only with authentication on: passes name and password to the realm"
    ),
    ("GET", "/auth/"): Policy("left", "only with authentication on: whether it is"),
    ("GET", "/auth/token/valid"): Policy("left", "only with authentication on: whether a token is valid"),
    ("GET", "/"): _PAGE,
    ("GET", "/docs"): _PAGE,
    ("HEAD", "/docs"): _PAGE,
    ("GET", "/openapi.json"): _PAGE,
    ("HEAD", "/openapi.json"): _PAGE,
    ("GET", "/favicon.ico"): _PAGE,
    ("GET", "/static/{path:path}"): _PAGE,
    ("HEAD", "/static/{path:path}"): _PAGE,
}
