"""Everything that can go wrong between Slicer, its scene and a server.

Each message is one sentence that a clinician can act on.

    ClientError
    ├── AddressError                what was typed is not an address
    ├── ServerUnreachableError      no answer: server down, or name unknown
    │   ├── ServerTimeoutError      it exists, but says nothing for too long
    │   └── EncryptionError         certificate not trusted, or no TLS
    ├── ConnectionLostError         the connection broke in the middle
    ├── ServerAnswerError           the server refused; ``status`` of HTTP, ``sentence``
    │   ├── AccessDeniedError       401, 403
    │   └── ServerBusyError         429; ``retry_after`` in seconds
    ├── BadAnswerError              the answer is not one of WordMask
    ├── NotAWordMaskServerError     it is another kind of server
    │   └── IncompatibleServerError it is WordMask, too old or too new for this module
    ├── TransferCancelledError      a person cancelled
    ├── LocalFileError              a file or folder of this computer cannot be read or written
    ├── ServerStartError            a server on this computer cannot start, or stopped
    └── SegmentsError               something cannot be done with the scene, which is as it was
        └── GeometryError           two images do not lie on one grid, or a grid cannot be used

Knows nothing else of the package. No message contains a token or the name of a Python exception.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

START_COMMAND = "wordmask serve --studies FOLDER"
LONGEST_QUOTE = 40  # characters of typed text that a message repeats
LONGEST_SENTENCE = 500  # characters of what a server says that are shown


class ClientError(Exception):
    """Base of all errors of the module; ``str(error)`` is the sentence to show."""


class AddressError(ClientError):
    """What was typed cannot be the address of a server."""


class ServerUnreachableError(ClientError):
    """The server does not answer: it is down, or its name is unknown."""


class ServerTimeoutError(ServerUnreachableError):
    """The server did not say anything for too long."""


class EncryptionError(ServerUnreachableError):
    """The certificate is not trusted, or one side speaks TLS and the other does not."""


class ConnectionLostError(ClientError):
    """The connection broke in the middle of a request or an answer."""


class ServerAnswerError(ClientError):
    """The server refused a request, or failed while processing it.

    Attributes:
        status: of HTTP
        sentence: what the server said, which is also the message
        retry_after: seconds to wait before another request, None if the server did not say
    """

    def __init__(self, status: int, sentence: str, *, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after = status, sentence, retry_after


class AccessDeniedError(ServerAnswerError):
    """The server requires a token, another token, or an account with more rights."""


class ServerBusyError(ServerAnswerError):
    """The server is too busy; ``retry_after`` says in how many seconds to try again, None if the server did
    not say.
    """


class BadAnswerError(ClientError):
    """Something answers at the address, but not what a WordMask server answers."""


class NotAWordMaskServerError(ClientError):
    """The server at the address is not a WordMask server."""


class IncompatibleServerError(NotAWordMaskServerError):
    """The server is WordMask, but too old or too new for this module."""


class TransferCancelledError(ClientError):
    """A person cancelled; no partial file is left."""


class LocalFileError(ClientError):
    """A file or a folder of this machine cannot be read or written."""


class ServerStartError(ClientError):
    """A server on this machine cannot be started, or it stopped by itself."""


class SegmentsError(ClientError):
    """Something cannot be done with what is in the scene; the scene is as it was."""


class GeometryError(SegmentsError):
    """Two images do not lie on one grid, or a grid cannot be used."""


class Address(Protocol):
    """What a sentence needs to know about an address."""

    @property
    def is_local(self) -> bool:
        """Whether the address is this computer."""

    @property
    def is_encrypted(self) -> bool:
        """Whether the address begins with https."""


def network_error(kind: str, address: Address, *, seconds: float = 0.0) -> ClientError:
    """Return the error for a failure without an answer.

    Args:
        kind: refused, closed, unknown host, timeout, certificate, no tls or tls; anything else means that the
            address cannot be reached
        address: of the server
        seconds: how long the server was waited for
    """
    if kind == "refused":
        return ServerUnreachableError(f"No server at {address}; {_remedy(address)}.")
    if kind == "unknown host":
        return ServerUnreachableError(
            f"There is no computer with the name in {address}; check the spelling and the network connection."
        )
    if kind == "timeout":
        waited = f" for {seconds:.0f} s" if seconds >= 1 else ""
        return ServerTimeoutError(
            f"The server at {address} does not answer{waited}; it may be busy or stopped: try again, or "
            "restart it."
        )
    if kind == "certificate":
        return EncryptionError(
            f"The certificate of {address} is not trusted, so nothing was sent; "
            "ask for the file of its certificate authority and choose it in the settings."
        )
    if kind == "no tls":
        return EncryptionError(
            f"The server at {address} does not use encryption; try http:// instead of https://."
        )
    if kind == "tls":
        return EncryptionError(
            f"An encrypted connection to {address} could not be set up; ask whoever runs the server about "
            "its TLS settings."
        )
    if kind == "closed":
        hint = "" if address.is_encrypted else " (if it uses encryption, its address begins with https://)"
        return ConnectionLostError(
            f"The connection to {address} was closed before the answer was complete; try again{hint}."
        )
    return ServerUnreachableError(f"{address} cannot be reached over the network; {_remedy(address)}.")


def bad_answer(address: object, what: str) -> BadAnswerError:
    """Return the error for an answer that WordMask would not give; ``what`` ends its sentence."""
    return BadAnswerError(
        f"The answer from {address} does not come from WordMask, or a proxy changed it on its way: {what}."
    )


def no_certificates(ca_file: Path | None) -> LocalFileError:
    """Return the error for an authority's file that cannot be used; None: this computer's own."""
    name = "of this machine" if ca_file is None else ca_file.name
    return LocalFileError(
        f"The file {name} does not contain readable certificates; choose the authority's file in PEM format."
    )


def quote_text(text: str) -> str:
    """Quote something that a person typed, for a sentence: printable and short."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return repr(printable if len(printable) <= LONGEST_QUOTE else f"{printable[:LONGEST_QUOTE]}...")


def as_sentence(text: object) -> str:
    """Return what a server said as one sentence to show; "" if it is not a sentence (a page, a trace, not a
    text).
    """
    if not isinstance(text, str):
        return ""
    line = " ".join("".join(" " if ord(character) < 32 else character for character in text).split())
    if not line or re.search(r"<\s*/?\s*[a-zA-Z!]|Traceback \(most recent", line):
        return ""
    if len(line) > LONGEST_SENTENCE:
        line = line[:LONGEST_SENTENCE].rstrip() + "…"
    return line if line[-1] in ".!?…" else f"{line}."


def _remedy(address: Address) -> str:
    if address.is_local:
        return f"start it with: {START_COMMAND}"
    return "check the address, or ask whoever runs the server whether it is running"
