"""Whether a server can be used, by what it says of itself.

Knows answers and versions; not how requests travel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .addresses import ServerAddress
from .answers import Health, ServerInfo
from .errors import (
    BadAnswerError,
    ClientError,
    IncompatibleServerError,
    NotAWordMaskServerError,
    ServerAnswerError,
)

# The version of WordMask whose routes these are. A server with another first number is refused, one with a
# newer second number gets a warning.
NEEDED = (0, 1)
# How servers answer that do not have the route.
_NO_SUCH_ROUTE = (300, 301, 302, 303, 307, 308, 400, 404, 405, 422, 501)


@dataclass(frozen=True)
class Handshake:
    """A server that can be used.

    Attributes:
        version: of WordMask
        warnings: sentences to show beside it
    """

    address: ServerAddress
    version: str
    warnings: tuple[str, ...]


def judge_server(
    address: ServerAddress, health: Health | ClientError, info: ServerInfo | ClientError | None = None
) -> Handshake:
    """Decide whether a server can be used.

    Args:
        address: where it is
        health: what it answered to `calls.health`, or the error that came instead
        info: what it answered to `calls.info`, or the error; needed where `may_be_another` says so

    Raises:
        NotAWordMaskServerError, IncompatibleServerError: it cannot be used
        ClientError: ``health``, if that is an error which says nothing about the kind of server
    """
    if isinstance(health, Health):
        warnings = [_version_warning(address, health.version)]
        if not address.is_encrypted and not address.is_local:
            warnings.append(
                f"Images travel to {address} without encryption; use an address with https:// where others "
                "can listen."
            )
        return Handshake(address, health.version, tuple(warning for warning in warnings if warning))
    if not may_be_another(health):
        raise health
    if isinstance(info, ServerInfo) and info.name == "WordMask":
        raise _incompatible(address, info.version, "too old")
    if isinstance(info, ServerInfo):
        raise NotAWordMaskServerError(
            f"The server at {address} is MONAI Label with the app {info.name[:60]!r}, not WordMask; start it "
            "with --app monailabel_app."
        )
    raise NotAWordMaskServerError(
        f"A server answers at {address}, but it is not a WordMask server; check the address and its port."
    )


def may_be_another(health: Health | ClientError) -> bool:
    """Whether an answer to `calls.health` suggests another kind of server, which `calls.info` then names."""
    if isinstance(health, BadAnswerError):
        return True
    return isinstance(health, ServerAnswerError) and health.status in _NO_SUCH_ROUTE


def _version_warning(address: ServerAddress, version: str) -> str:
    """What to say about a version, empty when it is the one this module knows; IncompatibleServerError."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None:
        raise _incompatible(address, version, "unknown")
    found = (int(numbers.group(1)), int(numbers.group(2)))
    if found < NEEDED:
        raise _incompatible(address, version, "too old")
    if found[0] != NEEDED[0]:
        raise _incompatible(address, version, "too new")
    if found != NEEDED:
        return (
            f"The server at {address} has WordMask {version}, newer than this module; update the "
            "extension if something does not work."
        )
    return ""


def _incompatible(address: ServerAddress, version: str, how: str) -> IncompatibleServerError:
    remedy = (
        "update the extension" if how == "too new" else f"update it to {NEEDED[0]}.{NEEDED[1]} or a later one"
    )
    return IncompatibleServerError(
        f"The server at {address} has WordMask {version[:20]}, which is {how} for this module; {remedy}."
    )
