"""Makes MONAI Label's authentication accept tokens again.

MONAI Label 0.8.5 checks a token without saying which signatures it accepts, and PyJWT 2 then refuses every
token, so that users cannot sign in. Knows MONAI Label's module; not routes, not roles.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import jwt
from monailabel.config import settings
from monailabel.endpoints.user import auth

# Only signatures by the realm's private key: a token that is signed with the public one, which everybody
# knows, is forged.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")


def accept_signed_tokens() -> None:
    """Let MONAI Label accept what the realm has signed; nothing changes while authentication is off."""
    if settings.MONAI_LABEL_AUTH_ENABLE:
        auth.jwt = SimpleNamespace(decode=functools.partial(jwt.decode, algorithms=ALGORITHMS))
