"""Who sends a request. Knows HTTP; not what the request asks for."""

from __future__ import annotations

from fastapi import Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import User

LONGEST_NAME = 100


def name_person(request: Request, user: User, *named: object) -> str:
    """The user of authentication; without it, the name that the client sends, else its address.

    Args:
        request: of the client.
        user: as MONAI Label knows it; without authentication everybody is the same one.
        named: names that the client sent, the first that is not empty counts.
    """
    if settings.MONAI_LABEL_AUTH_ENABLE:
        return str(user.username)
    for name in named:
        if isinstance(name, str) and (shown := " ".join(name.split())[:LONGEST_NAME]):
            return shown
    return request.client.host if request.client else "somebody"
