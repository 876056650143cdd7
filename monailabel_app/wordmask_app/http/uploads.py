"""MONAI Label's routes for files and their JSON, outside the event loop and with the JSON checked.

MONAI Label's own copy files while all other requests wait, and fail on JSON that is not an object. The work
itself stays MONAI Label's.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, File, Form, UploadFile
from fastapi.concurrency import run_in_threadpool
from monailabel.config import RBAC_ANNOTATOR, settings
from monailabel.endpoints import datastore
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.datastore import DefaultLabelTag

from wordmask_app.jobs.requests import json_object

AsAnnotator = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]
Json = Annotated[str, Form()]
Upload = Annotated[UploadFile, File()]

router = APIRouter(prefix="/datastore", tags=["Datastore"])


@router.put("/", include_in_schema=False, deprecated=True)
@router.put("/image", summary=f"{RBAC_ANNOTATOR}Upload new Image")
async def add_image(
    user: AsAnnotator,
    background: BackgroundTasks,
    file: Upload,
    image: str | None = None,
    params: Json = "{}",
) -> Any:
    """image: its id, else the name of the file without its ending.

    params: a JSON object that is kept with it.
    """
    json_object(params)
    return await run_in_threadpool(datastore.add_image, background, image, params, file, user.username)


@router.put("/label", summary=f"{RBAC_ANNOTATOR}Save Finished Label")
async def save_label(
    user: AsAnnotator,
    background: BackgroundTasks,
    image: str,
    label: Upload,
    params: Json = "{}",
    tag: str = DefaultLabelTag.FINAL.value,
) -> Any:
    """image: its id; params: a JSON object that is kept with the label, such as its ``label_info``."""
    json_object(params)
    return await run_in_threadpool(datastore.save_label, background, image, params, tag, label, user.username)


@router.put("/image/info", summary=f"{RBAC_ANNOTATOR}Update Image Info")
async def update_image_info(user: AsAnnotator, image: str, info: Json = "{}") -> Any:
    """info: a JSON object that is added to what is kept with the image."""
    json_object(info)
    return await run_in_threadpool(datastore.update_image_info, image, info, user.username)


@router.put("/label/info", summary=f"{RBAC_ANNOTATOR}Update Label Info")
async def update_label_info(user: AsAnnotator, label: str, tag: str, info: Json = "{}") -> Any:
    """info: a JSON object that is added to what is kept with the label."""
    json_object(info)
    return await run_in_threadpool(datastore.update_label_info, label, tag, info, user.username)


@router.put("/updatelabelinfo", include_in_schema=False, deprecated=True)
async def update_label_info_by_params(user: AsAnnotator, label: str, tag: str, params: Json = "{}") -> Any:
    """The older name of `update_label_info`."""
    return await update_label_info(user, label, tag, params)
