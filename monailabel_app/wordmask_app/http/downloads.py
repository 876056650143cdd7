"""`GET /datastore/image`: the file of an image, DICOM as a file that every client reads.

A DICOM file or folder is sent as the server reads it (NIfTI, or PNG for a picture), so that what a client
draws lies on the server's grid. Knows HTTP and the datastore; not models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from monailabel.config import RBAC_USER, settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import file_checksum, get_mime_type

from wordmask.data.image_files import suffix_of
from wordmask.data.studies import FILE_SUFFIXES
from wordmask.data.volumes import read_volume, write_volume
from wordmask_app.hardening.images import find_image
from wordmask_app.jobs.runtime import Runtime

AsUser = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]

router = APIRouter(prefix="/datastore", tags=["Datastore"])


@router.get("/image", summary=f"{RBAC_USER}Download Image")
async def download_image(user: AsUser, background: BackgroundTasks, image: str) -> FileResponse:
    """The image; the name of the file ends as its format does."""
    path, made = await run_in_threadpool(_as_file, image)
    if made:
        background.add_task(path.unlink, missing_ok=True)
    name = f"{image.rpartition('/')[2]}{suffix_of(path)}"
    return FileResponse(path, media_type=get_mime_type(str(path)), filename=name, background=background)


@router.head("/image", summary=f"{RBAC_USER}Check If Image Exists")
async def check_image(user: AsUser, image: str, check_sum: str | None = None) -> dict[str, Any]:
    """Whether there is an image, and whether it is the one with this sum of what `download_image` sends."""
    await run_in_threadpool(_check_sum, image, check_sum)
    return {}


def _check_sum(image: str, expected: str | None) -> None:
    if not expected:
        find_image(image, app_instance().datastore())
        return
    kind, _, digest = expected.rpartition(":")
    with _file_of(image) as path:
        if digest != file_checksum(path, algo=kind or "SHA256"):
            raise HTTPException(404, "The image on the server is another one: its sum differs.")


@contextmanager
def _file_of(image: str) -> Iterator[Path]:
    path, made = _as_file(image)
    try:
        yield path
    finally:
        if made:
            path.unlink(missing_ok=True)


def _as_file(image: str) -> tuple[Path, bool]:
    """A file of an image, and whether it was made for this request."""
    app = app_instance()
    runtime: Runtime = app.runtime
    path = find_image(image, app.datastore())
    if path.is_file() and suffix_of(path) in FILE_SUFFIXES:
        return path, False
    volume = read_volume(path, max_voxels=runtime.chosen.megavoxels * 10**6)
    made = runtime.spool.new_file(".png" if volume.is_picture else ".nii.gz", prefix="image-")
    try:
        write_volume(made, volume)
    except BaseException:
        made.unlink(missing_ok=True)
        raise
    return made, True
