"""MONAI Label's routes for files and their JSON, outside the event loop and with the JSON checked.

MONAI Label's own copy files while all other requests wait, fail on JSON that is not an object, and keep
whatever is sent as a label. Here a label is kept once a training could read it.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from monailabel.config import RBAC_ANNOTATOR, settings
from monailabel.endpoints import datastore
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.utils.app import app_instance

from wordmask.data.image_files import suffix_of
from wordmask_app.hardening.images import safe_id, safe_tag
from wordmask_app.hardening.record import split_ending
from wordmask_app.http.people import name_person
from wordmask_app.jobs.requests import json_object
from wordmask_app.tasks.keeping import KeptLabel, NewLabel, check_new_info, label_file_name

logger = logging.getLogger(__name__)

AsAnnotator = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]
Json = Annotated[str, Form()]
Upload = Annotated[UploadFile, File()]

FINAL = DefaultLabelTag.FINAL.value

router = APIRouter(prefix="/datastore", tags=["Datastore"])


@router.put("/", include_in_schema=False, deprecated=True)
@router.put("/image", summary=f"{RBAC_ANNOTATOR}Upload new Image")
async def add_image(
    user: AsAnnotator, file: Upload, image: str | None = None, params: Json = "{}"
) -> dict[str, Any]:
    """image: its id, else the name of the file without its ending.

    params: a JSON object that is kept with it.
    """
    info = json_object(params)
    if user.username:
        info["user"] = user.username

    def keep() -> str:
        stem, ending = split_ending(Path(file.filename or "").name)
        name = safe_id(image or stem)
        with _received(file, f"image{ending}") as path:
            kept: str = app_instance().datastore().add_image(name, str(path), info)
        return kept

    return {"image": await run_in_threadpool(keep)}


@router.put("/label", summary=f"{RBAC_ANNOTATOR}Save Finished Label")
async def save_label(
    request: Request,
    user: AsAnnotator,
    image: str,
    label: Upload,
    params: Json = "{}",
    tag: str = "",
    annotator: str = "",
    client_id: str = "",
    replace: bool = False,
) -> dict[str, Any]:
    """Keep a label map, if a training could read it with its image.

    image: its id; params: a JSON object that is kept with the label, such as its ``label_info``.
    annotator: who made it, where authentication is off; replace: take the place of another person's final
    label, which is otherwise kept and this one beside it. The answer's ``tag`` says where it is kept.
    """
    info = json_object(params)
    who = name_person(request, user, annotator, client_id)

    def keep() -> dict[str, Any]:
        app = app_instance()
        name = safe_id(image)
        ending = suffix_of(Path(label.filename or "label.nii.gz"))
        with _received(label, label_file_name(name, ending)) as path:
            new = NewLabel(name, path, safe_tag(tag or FINAL), info, annotator=who, replace=replace)
            kept = app.keep_label(new)
        logger.info("label image=%r tag=%s annotator=%r", name, kept.tag, who)
        return {**(app.on_save_label(name, kept.label) or {}), **_describe(name, kept)}

    return await run_in_threadpool(keep)


@router.post("/label/restore", summary=f"{RBAC_ANNOTATOR}Bring back the final label that was replaced last")
async def restore_label(
    request: Request, user: AsAnnotator, image: str, annotator: str = ""
) -> dict[str, Any]:
    """The present final label and the one before it change places; a second time undoes that."""
    who = name_person(request, user, annotator)

    def restore() -> dict[str, Any]:
        return _describe(image, app_instance().restore_label(safe_id(image), who))

    return await run_in_threadpool(restore)


@router.put("/image/info", summary=f"{RBAC_ANNOTATOR}Update Image Info")
async def update_image_info(user: AsAnnotator, image: str, info: Json = "{}") -> Any:
    """info: a JSON object that is added to what is kept with the image."""
    json_object(info)
    return await run_in_threadpool(datastore.update_image_info, image, info, user.username)


@router.put("/label/info", summary=f"{RBAC_ANNOTATOR}Update Label Info")
async def update_label_info(user: AsAnnotator, label: str, tag: str, info: Json = "{}") -> Any:
    """info: a JSON object that is added to what is kept with the label."""
    added = json_object(info)

    def update() -> Any:
        check_new_info(label, tag, added, app_instance().datastore())
        return datastore.update_label_info(label, tag, json.dumps(added), user.username)

    return await run_in_threadpool(update)


@router.put("/updatelabelinfo", include_in_schema=False, deprecated=True)
async def update_label_info_by_params(user: AsAnnotator, label: str, tag: str, params: Json = "{}") -> Any:
    """The older name of `update_label_info`."""
    return await update_label_info(user, label, tag, params)


@contextmanager
def _received(file: UploadFile, name: str) -> Iterator[Path]:
    """An upload as a file of this name, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        with path.open("wb") as copy:
            shutil.copyfileobj(file.file, copy)
        yield path


def _describe(image: str, kept: KeptLabel) -> dict[str, Any]:
    return {"image": image, "label": kept.label, "tag": kept.tag, "message": kept.message}
