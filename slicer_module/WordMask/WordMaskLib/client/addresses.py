"""The address of a server: what a person types or pastes, repaired, or refused with a sentence.

Knows the shape of addresses and which paths a MONAI Label server has; not HTTP.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from .errors import AddressError, quote_text

DEFAULT_PORT = 8000  # MONAI Label's
EXAMPLE = "http://127.0.0.1:8000"

# Also with a slash or the colon missing.
_SCHEME = re.compile(r"(?:([a-z][a-z0-9+.-]*):|(https?)|:)?//*", re.IGNORECASE)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
# What people look at in a browser, and MONAI Label's routes.
_PAGES = frozenset((
    "docs", "favicon.ico", "info", "logs", "ohif", "openapi.json", "redoc", "static",
    "activelearning", "auth", "batch", "datastore", "infer", "model", "proxy", "scoring", "session", "train",
))  # fmt: skip
# After /wordmask/, which may be a proxy's prefix, too.
_OURS = frozenset(("health", "jobs", "models", "next", "training", "vocabulary"))
_UNBOUND = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where a server listens, and where it can be asked


@dataclass(frozen=True)
class ServerAddress:
    """Address of a server.

    Attributes:
        scheme: "http" or "https"
        host: a name, or an IP address without brackets
        port: 1 to 65535
        prefix: path before the server's own paths, "" or "/a/b"
    """

    scheme: str
    host: str
    port: int
    prefix: str = ""

    def __str__(self) -> str:
        port = "" if self.port == {"http": 80, "https": 443}[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self._bracketed_host}{port}{self.prefix}"

    @property
    def authority(self) -> str:
        """Host and port, as the Host header has them."""
        return f"{self._bracketed_host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether the server runs on this computer."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def is_encrypted(self) -> bool:
        """Whether requests are encrypted with TLS."""
        return self.scheme == "https"

    def target(self, path: str, query: Sequence[tuple[str, str]] = ()) -> str:
        """Return what the request line names: the prefix, the path (already quoted) and the query."""
        return f"{self.prefix}{path}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")

    def url(self, path: str, query: Sequence[tuple[str, str]] = ()) -> str:
        """Return the whole URL of a route."""
        return f"{self.scheme}://{self.authority}{self.target(path, query)}"

    @property
    def _bracketed_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def repair_address(text: str) -> ServerAddress:
    """Return the address that a person means by ``text``; AddressError if it cannot be one.

    ``localhost:8000``, ``0.0.0.0:8000`` (127.0.0.1), ``server`` (http, port 8000), ``server:443`` (https), a
    trailing slash, spaces around it and around its colons, and a pasted ``/docs``, ``/info/`` or
    ``/wordmask/jobs`` are repaired. A path that is none of the server's own is kept: a proxy may need it.
    """
    typed = text.strip().strip("<>\"'`").strip()
    if not typed:
        raise AddressError(f"There is no server address; type one, such as {EXAMPLE}.")
    typed = re.sub(r"\s*([:/])\s*", r"\1", typed.replace("\\", "/"))
    scheme, rest = _split_scheme(typed)
    authority, path = re.fullmatch(r"([^/?#]*)([^?#]*).*", rest, flags=re.DOTALL).groups()  # type: ignore[union-attr]  # fits everything
    if "@" in authority:
        raise AddressError(
            "An address cannot contain a user name or a password; remove everything before the @, as in "
            f"{EXAMPLE}."
        )
    host, port = _split_port(authority)
    if port is None:
        port = DEFAULT_PORT if not scheme else {"http": 80, "https": 443}[scheme]
    scheme = scheme or ("https" if port == 443 else "http")
    return ServerAddress(scheme, _check_host(host), port, _prefix(path))


def _split_scheme(typed: str) -> tuple[str, str]:
    found = _SCHEME.match(typed)
    if found is None:
        return "", typed
    scheme = (found.group(1) or found.group(2) or "").lower()
    if scheme not in ("http", "https", ""):
        raise AddressError(
            f"An address must begin with http:// or https://, not with {quote_text(scheme)}; type one like "
            f"{EXAMPLE}."
        )
    return scheme, typed[found.end() :]


def _split_port(authority: str) -> tuple[str, int | None]:
    """Host and port, None when none is named; AddressError."""
    bare = authority.strip("[]")
    if _is_version_6(bare):
        return bare, None
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        return authority.strip("[]"), None
    if port == "":
        return host.strip("[]"), None
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise AddressError(
            f"A port is a number from 1 to 65535, not {quote_text(port)}; type an address such as {EXAMPLE}."
        )
    return host.strip("[]"), int(port)


def _check_host(host: str) -> str:
    if _is_version_6(host):
        host = str(ipaddress.IPv6Address(host))
        return _UNBOUND.get(host, host)
    name = host.rstrip(".").lower()
    try:
        name = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    labels = name.split(".")
    if not name or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressError(
            f"{quote_text(host)} is not a valid computer name; type an address such as {EXAMPLE}."
        )
    if labels[-1].isdigit():  # then it is meant as numbers
        try:
            name = str(ipaddress.IPv4Address(name))
        except ValueError:
            raise AddressError(
                f"{quote_text(host)} is neither a computer name nor four numbers from 0 to 255; type one "
                f"like {EXAMPLE}."
            ) from None
    return _UNBOUND.get(name, name)


def _is_version_6(host: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(host)) and "%" not in host  # a zone names a card of one machine
    except ValueError:
        return False


def _prefix(path: str) -> str:
    """The path without the server's own part; AddressError for one that climbs or cannot be read."""
    segments = [segment for segment in path.split("/") if segment]
    for index, segment in enumerate(segments):
        ours = segment == "wordmask" and index + 1 < len(segments) and segments[index + 1] in _OURS
        if ours or segment in _PAGES:
            del segments[index:]
            break
    if not all(re.fullmatch(r"[A-Za-z0-9._~-]+", segment) and segment.strip(".") for segment in segments):
        raise AddressError(
            f"{quote_text(path)} is not a path on a server; type an address such as {EXAMPLE}."
        )
    return "".join(f"/{segment}" for segment in segments)
