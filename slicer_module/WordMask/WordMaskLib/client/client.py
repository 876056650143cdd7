"""Requests that are waited for: for scripts, tests, the Logic and the start-up check.

    WordMaskClient("http://127.0.0.1:8000").run(calls.models())

The window does not wait and sends the same requests with Qt's transport. As there, certificates are always
verified, proxies of the system are not used, and redirects are not followed, so images and token reach the
chosen address alone. Knows HTTP; not what requests mean.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from pathlib import Path
from typing import TypeVar

from .addresses import ServerAddress, repair_address
from .calls import Call, check_token
from .errors import ClientError, bad_answer, network_error, no_certificates
from .multipart import BLOCK
from .readers import AnswerReader
from .retry import RetryPolicy

CONNECT_SECONDS = 10.0
_NO_TLS = (  # what OpenSSL says of an answer that is not encrypted
    "WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL",
    "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG",
)  # fmt: skip

T = TypeVar("T")


class WordMaskClient:
    """Sends requests to one server, each waited for. Control-C stops one and leaves nothing of a file."""

    def __init__(
        self,
        address: str | ServerAddress,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        ca_file: Path | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Prepare, without asking the server anything.

        Args:
            address: as typed, or repaired
            token: bearer token, if the server asks for one
            timeout: seconds without a sign of the server, and until an answer without a file is complete
            ca_file: trust the certificates in this file and no others
            retry: when a request is sent again

        Raises:
            AddressError: the address or the token cannot be one
            LocalFileError: the CA file cannot be read
        """
        self.address = repair_address(address) if isinstance(address, str) else address
        self._token = check_token(token) if token else None
        self._timeout, self._retry = timeout, retry or RetryPolicy()
        self._tls = _tls_context(ca_file) if self.address.is_encrypted else None

    def run(self, call: Call[T]) -> T:
        """Send a request of `calls` and return its answer, again where that can do no harm; ClientError."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._send(call)
            except ClientError as error:
                seconds = self._retry.wait(error, attempt, safe_to_repeat=call.safe_to_repeat)
                if seconds is None:
                    raise
            time.sleep(seconds)

    def _send(self, call: Call[T]) -> T:
        place, seconds = (self.address.host, self.address.port), min(self._timeout, CONNECT_SECONDS)
        connection = (
            http.client.HTTPConnection(*place, timeout=seconds)
            if self._tls is None
            else http.client.HTTPSConnection(*place, timeout=seconds, context=self._tls)
        )
        reader = call.reader(self.address)
        try:
            headers, body = {**call.headers(self._token), "Connection": "close"}, call.body()
            if call.form is not None:
                length, body = call.form.blocks()
                headers["Content-Length"] = str(length)
            connection.connect()
            connection.sock.settimeout(self._timeout)
            # A server that refuses an upload may hang up in the middle of it; its answer can still be read.
            with contextlib.suppress(ConnectionError):
                connection.request(call.method, self.address.target(call.path, call.query), body, headers)
            return self._read(connection.getresponse(), reader)
        except (OSError, UnicodeError) as error:
            raise self._network_error(error) from None
        except http.client.IncompleteRead:
            raise network_error("closed", self.address) from None
        except http.client.HTTPException:
            raise bad_answer(self.address, "it does not answer as a web server does") from None
        finally:
            reader.abort()  # does nothing once a file is complete
            connection.close()

    def _read(self, response: http.client.HTTPResponse, reader: AnswerReader[T]) -> T:
        reader.begin(response.status, response.reason, dict(response.getheaders()))
        total, received, until = response.length, 0, time.monotonic() + self._timeout
        # Not more than is announced: Python 3.9 does not count in read1, and would wait for more.
        while total is None or received < total:
            block = response.read1(BLOCK if total is None else min(BLOCK, total - received))
            if not block:
                break
            if not reader.takes_files and time.monotonic() > until:
                raise network_error("timeout", self.address, seconds=self._timeout)
            received += len(block)
            reader.feed(block)
        return reader.finish()

    def _network_error(self, error: Exception) -> ClientError:
        if isinstance(error, ssl.SSLCertVerificationError):
            kind = "certificate"
        elif isinstance(error, ssl.SSLError):
            kind = "no tls" if error.reason in _NO_TLS else "tls"
        elif isinstance(error, (socket.gaierror, UnicodeError)):
            kind = "unknown host"
        elif isinstance(error, (socket.timeout, TimeoutError)):  # one class since Python 3.10
            kind = "timeout"
        elif isinstance(error, ConnectionRefusedError):
            kind = "refused"
        else:
            kind = "closed" if isinstance(error, ConnectionError) else "network"
        return network_error(kind, self.address, seconds=self._timeout)


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Trust the authorities of this machine, or those of ``ca_file`` alone; LocalFileError."""
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ValueError):  # an SSLError is an OSError
        raise no_certificates(ca_file) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
