"""Which file a request may read: an image of the datastore or of an open session.

MONAI Label takes whatever path ``params.image`` names (seen in 0.8.5); here an id is never a path.
Knows MONAI Label's datastore and sessions; not models, not HTTP.
"""

from __future__ import annotations

import re
from pathlib import Path

from monailabel.interfaces.datastore import Datastore
from monailabel.utils.sessions import Sessions

from wordmask.errors import RequestError, VolumeError

IMAGE_PATTERNS = (
    "*.nii.gz",
    "*.nii",
    "*.nrrd",
    "*.mha",
    "*.png",
    "*.jpg",
    "*.jpeg",
    "*.tif",
    "*.tiff",
    "*.bmp",
)

_SESSION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# An id may contain a slash (XNAT), but cannot climb.
_PATH = re.compile(r"[\x00-\x1f\x7f\\]|^/|(^|/)\.{1,2}(/|$)")


class UnknownImageError(VolumeError):
    """There is no image of that id on this server."""


def find_image(image: object, datastore: Datastore) -> Path:
    """The file (or DICOM folder) that an id stands for.

    Raises:
        RequestError: the id is not a name.
        UnknownImageError: the datastore has no image of that name, or its file is gone.
    """
    image = safe_id(image)
    # Before any look-up, because some datastores turn the id into a path or a request.
    if image not in datastore.list_images():
        raise UnknownImageError(
            f"There is no image {image!r} on this server; GET /datastore/?output=all lists its images."
        )
    path = Path(datastore.get_image_uri(image))
    if not path.exists():
        raise UnknownImageError(
            f"The file of image {image!r} is no longer there; refresh the list of images."
        )
    return path


def session_image(session_id: str, sessions: Sessions | None) -> Path:
    """The image of an open session.

    Raises:
        RequestError: the text is not the id of a session.
        UnknownImageError: there is no such session.
    """
    session = None if sessions is None else sessions.get_session(safe_session(session_id))
    if session is None:
        raise UnknownImageError(
            "There is no such session on this server; it expired, or sessions are turned off."
        )
    return Path(session.image)


def safe_id(image: object) -> str:
    """The id of an image or label that cannot lead out of the folder.

    Raises:
        RequestError: it is anything else.
    """
    if not isinstance(image, str) or not image:
        raise RequestError("The request does not name an image; give the id of an image of this server.")
    if _PATH.search(image) or len(image) > 200:
        raise RequestError("image is the id of an image of this server, not a path.")
    return image


def safe_session(session_id: str) -> str:
    """The id of a session, as MONAI Label makes them.

    Raises:
        RequestError: it is anything else, which could lead out of the folder of sessions.
    """
    if not _SESSION.fullmatch(session_id):
        raise RequestError(
            "A session is named by the id that PUT /session/ "
            "returned, such as 3f0b9ba4-7a0e-11ee-b962-0242ac120002."
        )
    return session_id


def safe_tag(tag: object) -> str:
    """A label tag that is one folder name and stays inside ``labels/``.

    Raises:
        RequestError: it is anything else.
    """
    if not isinstance(tag, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", tag):
        raise RequestError("label_tag is a short name of letters, digits, - and _, such as original.")
    return tag
