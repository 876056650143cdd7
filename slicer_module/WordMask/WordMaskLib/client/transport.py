"""One request after the other, waited for: sent in blocks, read in blocks, tried again where that can do no
harm.

Certificates are verified always, a token goes to the server of the address alone, and what comes is given to
the call's reader. Proxies of the environment are not used: images go to the address that was chosen, and
nowhere else. Knows HTTP; not what requests mean.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import urljoin, urlsplit

from .addresses import ServerAddress, repair_address
from .calls import Call, checked_token
from .errors import (
    AddressError,
    ClientError,
    ConnectionLostError,
    EncryptionError,
    ServerAnswerError,
    ServerBusyError,
    ServerTimeoutError,
    ServerUnreachableError,
    network_error,
    not_understood,
)
from .multipart import BLOCK
from .readers import AnswerReader
from .wire import CancelToken, Wire, tls_context

CONNECT_SECONDS = 10.0
MOST_REDIRECTS = 3

T = TypeVar("T")
if TYPE_CHECKING:
    Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all (None: not known)


@dataclass(frozen=True)
class RetryPolicy:
    """When a request is sent again.

    attempts: in all; first_wait: seconds, doubled each time; patience: the longest wait that a server may ask
    for. One that asks for longer gets no second request: its sentence is shown.
    """

    attempts: int = 3
    first_wait: float = 0.3
    patience: float = 10.0

    def wait(self, error: ClientError, attempt: int, *, safe_to_repeat: bool) -> float | None:
        """Seconds to wait after the ``attempt``-th (from 1) ended with ``error``, None to give up.

        A refusal because of too many requests (429) did nothing, so every request may follow it, when the
        server says when.
        """
        if attempt >= self.attempts:
            return None
        asked = error.retry_after if isinstance(error, ServerAnswerError) else None
        if isinstance(error, ServerBusyError) and asked is not None:
            return asked if asked <= self.patience else None
        # A time-out was long enough.
        if not safe_to_repeat or isinstance(error, (ServerTimeoutError, EncryptionError)):
            return None
        if isinstance(error, ServerAnswerError):
            passing = error.status in (429, 502, 504) or (error.status == 503 and asked is not None)
            if not passing or (asked is not None and asked > self.patience):
                return None
        elif not isinstance(error, (ServerUnreachableError, ConnectionLostError)):
            return None
        return asked if asked is not None else float(self.first_wait * 2 ** (attempt - 1))


class HttpTransport:
    """Sends calls to one server.

    timeout: seconds without a sign of it, and until an answer without a file is complete.
    """

    def __init__(
        self,
        address: ServerAddress,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        ca_file: Path | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """AddressError: the token cannot be one; LocalFileError: the CA file cannot be read."""
        self.address, self.timeout = address, timeout
        self._token = checked_token(token) if token else None
        self._retry = retry or RetryPolicy()
        self._context = tls_context(ca_file) if address.is_encrypted or ca_file is not None else None

    def __repr__(self) -> str:
        return f"HttpTransport({str(self.address)!r}, timeout={self.timeout})"

    def run(self, call: Call[T], *, progress: Progress | None = None, cancel: CancelToken | None = None) -> T:
        """Send, wait, read. progress: of the upload if the call has one, else of the download.

        Raises every ClientError but AddressError and ServerStartError; nothing is left of a file then.
        """
        token, attempt = cancel or CancelToken(), 0
        while True:
            attempt += 1
            try:
                return self._follow(call, progress or _nobody, token)
            except ClientError as error:
                seconds = self._retry.wait(error, attempt, safe_to_repeat=call.safe_to_repeat)
                if seconds is None:
                    raise
            if token.wait(seconds):
                raise network_error("cancelled", self.address)

    def _follow(self, call: Call[T], progress: Progress, cancel: CancelToken) -> T:
        place, target = self.address, self.address.target(call.path, call.query)
        for _ in range(MOST_REDIRECTS + 1):
            exchange = _Exchange(self, place, call.reader(self.address), progress, cancel)
            moved = exchange.run(call, target)
            if moved is None:
                return exchange.answer()
            place, target = self._moved(place, target, moved)
        raise network_error("redirects", self.address)

    def _moved(self, place: ServerAddress, target: str, location: str) -> tuple[ServerAddress, str]:
        """Where a redirect leads; BadAnswerError when it is another machine, which must not get the token."""
        try:
            there = urlsplit(urljoin(f"{place.scheme}://{place.authority}{target}", location))
            found = repair_address(f"{there.scheme}://{there.netloc}")
        except (AddressError, ValueError):
            raise not_understood(
                self.address, "it sends requests to an address that cannot be read"
            ) from None
        upgraded = found.is_encrypted and not place.is_encrypted
        if found.host != place.host or not (
            upgraded or (found.scheme, found.port) == (place.scheme, place.port)
        ):
            raise not_understood(
                self.address,
                "it sends requests to another machine; enter the address of that one if you trust it",
            )
        path = (there.path or "/") + (f"?{there.query}" if there.query else "")
        if not path.isascii() or not path.isprintable() or " " in path:
            raise not_understood(self.address, "it sends requests to an address that cannot be read")
        return found, path

    def context_for(self, place: ServerAddress) -> ssl.SSLContext | None:
        """How to encrypt, None for not at all."""
        if not place.is_encrypted:
            return None
        self._context = self._context or tls_context(None)
        return self._context

    def headers_of(self, call: Call[T]) -> Mapping[str, str]:
        """The headers of a call, with the token."""
        return call.headers(self._token)


class _Exchange(Generic[T]):
    """One request and its answer."""

    def __init__(
        self,
        transport: HttpTransport,
        place: ServerAddress,
        reader: AnswerReader[T],
        progress: Progress,
        cancel: CancelToken,
    ) -> None:
        self._transport, self._place, self._reader = transport, place, reader
        self._progress, self._timeout = progress, transport.timeout
        self._wire = Wire(
            place,
            connect_seconds=min(CONNECT_SECONDS, transport.timeout),
            quiet_seconds=transport.timeout,
            cancel=cancel,
            context=transport.context_for(place),
        )
        self._http = http.client.HTTPConnection(place.host, place.port)
        self._answers: list[T] = []

    def answer(self) -> T:
        """What was read."""
        return self._answers[0]

    def run(self, call: Call[T], target: str) -> str | None:
        """Send and read; where to ask in its place, None when that is not needed."""
        try:
            length, content = self._content(call)
            self._wire.connect()
            self._http.sock = self._wire  # all of a socket that http.client uses
            self._http.putrequest(call.method, target, skip_accept_encoding=True)
            for name, value in {**self._transport.headers_of(call), "Connection": "close"}.items():
                self._http.putheader(name, value)
            if length is not None:
                self._http.putheader("Content-Length", str(length))
            self._http.endheaders()
            if length is not None:
                self._send(length, content)
            self._wire.deadline = time.monotonic() + self._timeout
            response = self._http.getresponse()
            location = response.getheader("Location")
            if call.method == "GET" and 300 <= response.status < 400 and location:
                return location
            self._answers.append(self._read(response, call))
            return None
        except (ConnectionError, http.client.IncompleteRead):
            raise network_error("closed", self._place) from None
        except http.client.HTTPException:
            raise not_understood(self._transport.address, "it does not answer as a web server does") from None
        finally:
            self._reader.abort()  # nothing, once a file is complete
            self._wire.shut()

    @staticmethod
    def _content(call: Call[T]) -> tuple[int | None, Iterator[bytes]]:
        if call.form is not None:
            return call.form.blocks()
        body = call.body()
        return (None, iter(())) if body is None else (len(body), iter((body,)))

    def _send(self, length: int, content: Iterator[bytes]) -> None:
        sent = 0
        for block in content:
            if self._wire.answered():  # a refusal: the rest of a large file need not be sent
                return
            try:
                self._wire.sendall(block)
            except ConnectionLostError:
                if self._wire.answered():
                    return
                raise
            sent += len(block)
            self._progress(sent, length)

    def _read(self, response: http.client.HTTPResponse, call: Call[T]) -> T:
        reader = self._reader
        reader.begin(response.status, response.reason, dict(response.getheaders()))
        if reader.takes_files and not reader.is_refusal:
            self._wire.deadline = None
        total, received = response.length, 0
        while total is None or received < total:
            # Never more than is announced: older Pythons do not count in read1, and would wait for more.
            block = response.read1(BLOCK if total is None else min(BLOCK, total - received))
            if not block:
                break
            received += len(block)
            reader.feed(block)
            if call.form is None:
                self._progress(received, total)
        return reader.finish()


def _nobody(done: int, total: int | None) -> None:
    """Nobody wants to know."""
