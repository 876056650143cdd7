"""A connection with patience: it stops within a tenth of a second when somebody asks, and after a silence
that was agreed on.

Sockets here never block, so one thread is enough, and cancelling works while connecting, sending and waiting
alike. Looks enough like a socket for `http.client`. Knows TCP and TLS; not HTTP.
"""

from __future__ import annotations

import errno
import io
import selectors
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

from .addresses import ServerAddress
from .errors import LocalFileError, network_error

LOOK = 0.1  # seconds between looks whether to stop
EARLY = 1 << 14
_IN_PROGRESS = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY)
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_PLAIN = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
)


class CancelToken:
    """Ask a request to stop; from any thread, also before it begins."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask to stop; more than once does no harm."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but not longer than until somebody asks; whether somebody did."""
        return self._event.wait(seconds)


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Certificates are verified always: by the authorities of this machine, or by those of ``ca_file`` alone.

    LocalFileError.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ValueError):  # an SSLError is an OSError
        name = "" if ca_file is None else f" {Path(ca_file).name}"
        raise LocalFileError(
            f"The file{name} holds no certificates that can be read; choose the authority's file, in PEM "
            "form."
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Wire:
    """One connection to a server.

    connect_seconds, quiet_seconds: without a sign of the server; context: None for no TLS.

    deadline: moment (of time.monotonic) at which all must be over, None for none. Every method raises
    ServerUnreachableError and its kinds, ConnectionLostError or TransferCancelledError.
    """

    def __init__(
        self,
        address: ServerAddress,
        *,
        connect_seconds: float,
        quiet_seconds: float,
        cancel: CancelToken,
        context: ssl.SSLContext | None,
    ) -> None:
        self._address, self._cancel, self._context = address, cancel, context
        self._connect_seconds, self._quiet_seconds = connect_seconds, quiet_seconds
        self._sock: socket.socket | None = None
        self._early, self._ended = b"", False
        self.deadline: float | None = None

    def connect(self) -> None:
        """Connect, and agree on TLS."""
        self._sock = self._first_that_answers()
        if self._context is None:
            return
        try:
            self._sock = self._context.wrap_socket(
                self._sock,
                server_hostname=self._address.host,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
            )
            self._patiently(self._sock.do_handshake, self._connect_seconds)
        except ssl.SSLCertVerificationError:
            raise network_error("certificate", self._address) from None
        except ssl.SSLError as error:
            raise network_error("no tls" if error.reason in _PLAIN else "tls", self._address) from None
        except (OSError, ValueError):
            raise network_error("tls", self._address) from None

    def sendall(self, data: Any) -> None:
        """Send all of it."""
        left = memoryview(data).cast("B")
        while left:
            sent: int = self._guarded(lambda rest=left: self._connected.send(rest))
            left = left[sent:]

    def recv_into(self, buffer: Any) -> int:
        """Receive at most what fits; 0 at the end."""
        if self._early:
            count = min(len(buffer), len(self._early))
            buffer[:count] = self._early[:count]
            self._early = self._early[count:]
            return count
        if self._ended:
            return 0
        received: int = self._guarded(lambda: self._connected.recv_into(buffer))
        return received

    def answered(self) -> bool:
        """Whether the server says something, or hung up, while there is still something to send."""
        if self._early or self._ended:
            return True
        try:
            self._early = self._connected.recv(EARLY)
        except _WOULD_BLOCK:
            return False
        except OSError:
            self._ended = True
        self._ended = self._ended or not self._early
        return True

    def makefile(self, mode: str, *_: Any, **__: Any) -> io.BufferedReader:
        """What `http.client` reads from."""
        return io.BufferedReader(_Raw(self), 1 << 16)

    def close(self) -> None:
        """Nothing: `http.client` closes before it has read; `shut` is for whoever made this."""

    def shut(self) -> None:
        """Hang up; more than once does no harm."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    @property
    def _connected(self) -> socket.socket:
        if self._sock is None:
            raise network_error("closed", self._address)
        return self._sock

    def _guarded(self, step: Any) -> Any:
        try:
            return self._patiently(step, self._quiet_seconds)
        except ssl.SSLZeroReturnError:
            return 0
        except OSError:
            raise network_error("closed", self._address) from None

    def _patiently(self, step: Any, seconds: float) -> Any:
        """Do ``step`` as soon as the socket lets it."""
        until = time.monotonic() + seconds
        while True:
            self._check(until, seconds)
            try:
                return step()
            except ssl.SSLWantWriteError:
                self._ready(self._connected, selectors.EVENT_WRITE)
            except ssl.SSLWantReadError:
                self._ready(self._connected, selectors.EVENT_READ)
            except (BlockingIOError, InterruptedError):
                self._ready(self._connected, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def _check(self, until: float, seconds: float) -> None:
        now = time.monotonic()
        if self._cancel.cancelled:
            raise network_error("cancelled", self._address)
        if now > until or (self.deadline is not None and now > self.deadline):
            raise network_error("timeout", self._address, seconds=seconds)

    @staticmethod
    def _ready(sock: socket.socket, events: int) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(sock, events)
            return bool(selector.select(LOOK))

    def _first_that_answers(self) -> socket.socket:
        """A connection to the first of the name's addresses that takes one."""
        try:
            places = socket.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise network_error("unknown host", self._address) from None
        until, failure = time.monotonic() + self._connect_seconds, network_error("network", self._address)
        for number, (family, kind, protocol, _, place) in enumerate(places):
            # So that one silent address leaves time for the next.
            share = (until - time.monotonic()) / (len(places) - number)
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError:
                continue
            try:
                sock.setblocking(False)
                code = self._connect(sock, place, time.monotonic() + share)
            except BaseException:
                sock.close()
                raise
            if code == 0:
                return sock
            sock.close()
            kinds = {errno.ECONNREFUSED: "refused", errno.ETIMEDOUT: "timeout"}
            failure = network_error(kinds.get(code, "network"), self._address, seconds=self._connect_seconds)
        raise failure

    def _connect(self, sock: socket.socket, place: Any, until: float) -> int:
        """0, or the number of the error."""
        code = sock.connect_ex(place)
        if code not in _IN_PROGRESS:
            return code
        while not self._ready(sock, selectors.EVENT_WRITE):
            if self._cancel.cancelled:
                raise network_error("cancelled", self._address)
            if time.monotonic() > until:
                return errno.ETIMEDOUT
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


class _Raw(io.RawIOBase):
    """The reading half of a wire."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.recv_into(buffer)
