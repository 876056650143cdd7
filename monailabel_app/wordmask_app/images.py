"""Which file a request may read: an image of the datastore, of an open session, or the one uploaded with the request.

MONAI Label takes whatever path ``params.image`` names (seen in 0.8.5); here an id is never a path.
Knows MONAI Label's datastore and sessions; not models, not HTTP.
"""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.utils.sessions import Sessions

from wordmask.errors import RequestError, VolumeError

IMAGE_PATTERNS = ("*.nii.gz", "*.nii", "*.nrrd", "*.mha", "*.png", "*.jpg", "*.jpeg", "*.tif", "*.tiff", "*.bmp")

_UPLOAD = re.compile(r"tmp[a-z0-9_]{8}(\..*)?")  # how MONAI Label names an upload; not to be guessed
_PATH = re.compile(r"[\x00-\x1f\x7f\\]|^/|(^|/)\.{1,2}(/|$)")  # an id may hold a slash (XNAT), but cannot climb


class UnknownImageError(VolumeError):
    """There is no image of that id on this server."""


def find_image(request: Mapping[str, Any], datastore: Datastore, sessions: Sessions | None) -> Path:
    """The file (or DICOM folder) that ``request["image"]`` stands for.

    RequestError: the id is not a name; UnknownImageError: nothing of that name is in the datastore, or its file is gone.
    """
    image = request.get("image")
    if not isinstance(image, str) or not image:
        raise RequestError("The request names no image; give the id of an image of this server.")
    if (path := _uploaded(image) or _of_session(request, sessions)) is not None:
        return path
    if _PATH.search(image) or len(image) > 256:  # also where the datastore lists it: an image can be added under the id ../x
        raise RequestError("image is the id of an image of this server, not a path.")
    if image not in datastore.list_images():  # before any look-up: some datastores make a path or a request of the id
        raise UnknownImageError(f"There is no image {image!r} on this server; GET /datastore/?output=all lists its images.")
    path = Path(datastore.get_image_uri(image))
    if not path.exists():
        raise UnknownImageError(f"The file of image {image!r} is no longer there; refresh the list of images.")
    return path


def _uploaded(image: str) -> Path | None:
    """The file that came with this request. MONAI Label hands its path over under the same name as an id."""
    path = Path(image)
    right_there = str(path.parent) == tempfile.gettempdir() and _UPLOAD.fullmatch(path.name)
    return path if right_there and path.is_file() and not path.is_symlink() else None


def _of_session(request: Mapping[str, Any], sessions: Sessions | None) -> Path | None:
    """The image of an open session; what the request says about the session counts only if the server knows it so."""
    claimed = request.get("session")
    known = sessions.get(claimed.get("name")) if sessions is not None and isinstance(claimed, dict) else None
    return Path(known.image) if known is not None and known.image == request.get("image") else None


def same_stem(folder: Path, patterns: Iterable[str]) -> list[list[str]]:
    """Groups of image files that share one id, of which the datastore shows only one."""
    groups: dict[str, set[str]] = defaultdict(set)
    for pattern in patterns:
        for path in folder.glob(pattern):
            groups[path.name.removesuffix(pattern.removeprefix("*"))].add(path.name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def safe_tag(tag: object) -> str:
    """A label tag that is one folder name and stays inside ``labels/``; RequestError otherwise."""
    if not isinstance(tag, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", tag):
        raise RequestError("label_tag is a short name of letters, digits, - and _, such as original.")
    return tag
