"""Requests by Qt's network classes, sent and read in pieces while the window goes on working.

Uses the same calls, readers and sentences as `WordMaskClient`, which waits. Certificates are always verified,
proxies of the system are not used, and redirects are not followed. Knows Qt and HTTP; not what requests mean.

Every Qt object here has a parent, so that Qt deletes it, in the right thread: Python's collector of cycles
runs in whichever thread needs memory, and a timer that is deleted in another thread ends the process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import qt

from ..client.addresses import ServerAddress
from ..client.calls import Call, check_token
from ..client.errors import ClientError, LocalFileError, bad_answer, network_error, no_certificates
from ..client.multipart import Form, TextPart
from ..client.retry import RetryPolicy

T = TypeVar("T")
Done = Callable[[Any], None]
Failed = Callable[[ClientError], None]

BUFFER = 4 << 20  # bytes that Qt may hold before they are read
HEADERS = (
    "content-encoding",
    "content-length",
    "content-type",
    "content-disposition",
    "transfer-encoding",
    "retry-after",
)
# QNetworkReply's numbers, which PythonQt and PySide6 show as different types
CLOSED, HANDSHAKE = 2, 6
KINDS = {1: "refused", CLOSED: "closed", 3: "unknown host", 4: "timeout", 5: "closed", HANDSHAKE: "tls"}
LAST_NETWORK_ERROR = 199  # below: no complete answer came; above: HTTP's status says more, or it is not HTTP


class QtTransport:
    """Sends calls to one server.

    ``timeout`` is in seconds: without a sign of the server, and until an answer without a file is complete.
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
        """Prepare, without asking the server anything.

        Raises:
            AddressError: the token is not valid
            LocalFileError: the CA file does not contain a certificate
        """
        self.address, self.timeout, self.retry = address, timeout, retry or RetryPolicy()
        self._token = check_token(token) if token else None
        self._tls = None if ca_file is None else _tls_for(ca_file)
        # Python must not delete it: it may be the manager's own signal that drops the last reference to this
        # transport.
        self.manager = qt.QNetworkAccessManager(qt.QCoreApplication.instance())
        self.manager.setProxy(qt.QNetworkProxy(qt.QNetworkProxy.NoProxy))
        self._open: list[QtSending] = []

    def __del__(self) -> None:
        manager = getattr(self, "manager", None)
        if manager is not None:
            with contextlib.suppress(RuntimeError):  # at the end of the program Qt was quicker
                manager.deleteLater()

    def send(
        self,
        call: Call[Any],
        done: Done,
        failed: Failed,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> QtSending:
        """Send a call; either ``done`` or ``failed`` is called once, later.

        ``progress`` counts the upload if there is one, otherwise the download.
        """
        sending = QtSending(self, call, done, failed, progress)
        self._open.append(sending)
        return sending

    def close(self) -> None:
        """Stop all requests."""
        for sending in list(self._open):
            sending.abort()

    def forget(self, sending: QtSending) -> None:
        """Remove a request that has ended."""
        if sending in self._open:
            self._open.remove(sending)

    def request(self, call: Call[Any]) -> Any:
        """Make Qt's request for a call."""
        request = qt.QNetworkRequest(
            qt.QUrl.fromEncoded(qt.QByteArray(call.url(self.address).encode("ascii")))
        )
        headers = call.headers(self._token)
        if call.method in ("POST", "PUT"):
            # Else Qt says that it is a web form.
            headers.setdefault("Content-Type", "application/octet-stream")
        for name, value in headers.items():
            request.setRawHeader(qt.QByteArray(name.encode("ascii")), qt.QByteArray(value.encode("ascii")))
        manual = 0
        for attribute in (
            "RedirectPolicyAttribute",
            "CookieLoadControlAttribute",
            "CookieSaveControlAttribute",
            "Http2AllowedAttribute",
        ):
            request.setAttribute(
                getattr(qt.QNetworkRequest, attribute), 1 if attribute.startswith("Cookie") else manual
            )
        if self._tls is not None:
            request.setSslConfiguration(self._tls)
        return request


class QtSending:
    """One call, sent again where that can do no harm."""

    def __init__(
        self, transport: QtTransport, call: Call[Any], done: Done, failed: Failed, progress: Any
    ) -> None:
        self._transport, self._call, self._progress = transport, call, progress
        self._done, self._failed = done, failed
        self._attempts = 0
        self._attempt: _Attempt | None = None
        self._over = False
        self._try()

    def abort(self) -> None:
        """Stop without calling ``done`` or ``failed``; nothing is left of a file."""
        self._over = True
        if self._attempt is not None:
            self._attempt.stop()
        self._transport.forget(self)

    def _try(self) -> None:
        if self._over:
            return
        self._attempts += 1
        try:
            self._attempt = _Attempt(
                self._transport, self._call, self._on_answer, self._on_failure, self._progress
            )
        except ClientError as error:
            failure = error
            qt.QTimer.singleShot(0, lambda: self._on_failure(failure))

    def _on_answer(self, answer: Any) -> None:
        if not self._over:
            self._over = True
            self._transport.forget(self)
            self._done(answer)

    def _on_failure(self, error: ClientError) -> None:
        if self._over:
            return
        seconds = self._transport.retry.wait(error, self._attempts, safe_to_repeat=self._call.safe_to_repeat)
        if seconds is not None:
            qt.QTimer.singleShot(int(1000 * seconds), self._try)
            return
        self._over = True
        self._transport.forget(self)
        self._failed(error)


class _Attempt:
    """One request and its answer."""

    def __init__(
        self, transport: QtTransport, call: Call[Any], done: Done, failed: Failed, progress: Any
    ) -> None:
        self._address, self._timeout = transport.address, transport.timeout
        self._done, self._failed, self._progress = done, failed, progress
        self._counts_upload = call.form is not None
        self._reader = call.reader(transport.address)
        self._begun = self._over = self._untrusted = False
        self._code = 0
        self._reply = self._send(transport, call)
        self._timer = qt.QTimer(self._reply)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._on_silence)
        self._reply.setReadBufferSize(BUFFER)
        for name, slot in (
            ("errorOccurred", self._on_error), ("sslErrors", self._on_ssl_errors),
            ("uploadProgress", self._on_upload), ("downloadProgress", self._on_download),
            ("readyRead", self._on_ready), ("finished", self._on_finished),
        ):  # fmt: skip
            getattr(self._reply, name).connect(slot)
        self._watch()

    def stop(self) -> None:
        """Close the connection without reporting an outcome."""
        if not self._over:
            self._leave()
            self._reply.abort()

    def _send(self, transport: QtTransport, call: Call[Any]) -> Any:
        request, manager = transport.request(call), transport.manager
        multipart = None if call.form is None else self._multipart(call.form)
        content = qt.QByteArray(call.body() or b"") if multipart is None else multipart
        if call.method in ("POST", "PUT"):
            reply = manager.post(request, content) if call.method == "POST" else manager.put(request, content)
        else:
            reply = manager.deleteResource(request) if call.method == "DELETE" else manager.get(request)
        if multipart is not None:
            multipart.setParent(reply)  # Qt reads from it as long as the reply lives, and not longer
        return reply

    def _multipart(self, form: Form) -> Any:
        """Make Qt's form, whose files Qt reads while it sends them; LocalFileError."""
        form.blocks()  # says which file cannot be read
        multipart = qt.QHttpMultiPart(qt.QHttpMultiPart.FormDataType)
        multipart.setBoundary(qt.QByteArray(form.boundary.encode("ascii")))
        for part in form.parts:
            piece = qt.QHttpPart()
            for name, value in part.headers():
                piece.setRawHeader(qt.QByteArray(name.encode("ascii")), qt.QByteArray(value.encode("ascii")))
            if isinstance(part, TextPart):
                piece.setBody(qt.QByteArray(part.text.encode()))
            else:
                file = qt.QFile(str(part.path))
                if not file.open(qt.QIODevice.ReadOnly):
                    raise LocalFileError(
                        f"The file {part.path.name} cannot be read; check that you may read it."
                    )
                file.setParent(multipart)
                piece.setBodyDevice(file)
            multipart.append(piece)
        return multipart

    def _watch(self) -> None:
        """Restart the time-out, because the server gave a sign."""
        self._timer.start(int(1000 * self._timeout))

    def _on_silence(self, *_: Any) -> None:
        self._fail(network_error("timeout", self._address, seconds=self._timeout))

    def _on_error(self, code: Any, *_: Any) -> None:
        self._code = int(getattr(code, "value", code))

    def _on_ssl_errors(self, *_: Any) -> None:
        self._untrusted = True  # and not ignored, so Qt hangs up

    def _on_upload(self, done: int, total: int) -> None:
        if total > 0 and not self._over:
            self._watch()
            if self._counts_upload and self._progress is not None:
                self._progress(int(done), int(total))

    def _on_download(self, done: int, total: int) -> None:
        if not self._over and not self._counts_upload and self._progress is not None:
            self._progress(int(done), int(total) if total > 0 else None)

    def _on_ready(self, *_: Any) -> None:
        if self._over:
            return
        if self._reader.takes_files:
            self._watch()
        try:
            self._take()
        except ClientError as error:
            self._fail(error)

    def _on_finished(self, *_: Any) -> None:
        if self._over:
            return
        try:
            status = self._status()
            if status is None or 0 < self._code <= LAST_NETWORK_ERROR:
                raise self._network_failure()
            self._take()
            answer = self._reader.finish()
        except ClientError as error:
            self._fail(error)
            return
        self._leave(keep_file=True)
        self._done(answer)

    def _take(self) -> None:
        """Read what has arrived."""
        if not self._begun:
            self._begun = True
            self._reader.begin(self._status() or 0, self._reason(), self._headers())
        data = self._reply.readAll().data()
        if data:
            self._reader.feed(data)

    def _network_failure(self) -> ClientError:
        if self._code == HANDSHAKE and self._untrusted:
            return network_error("certificate", self._address)
        if self._code > LAST_NETWORK_ERROR or self._code == 0:
            return bad_answer(self._address, "it does not answer as a web server does")
        return network_error(KINDS.get(self._code, "network"), self._address)

    def _status(self) -> int | None:
        status = self._reply.attribute(qt.QNetworkRequest.HttpStatusCodeAttribute)
        return None if status is None else int(status)

    def _reason(self) -> str:
        return str(self._reply.attribute(qt.QNetworkRequest.HttpReasonPhraseAttribute) or "")

    def _headers(self) -> dict[str, str]:
        found = {name: _raw_header(self._reply, name) for name in HEADERS}
        return {name: value for name, value in found.items() if value}

    def _fail(self, error: ClientError) -> None:
        if not self._over:
            self._leave()
            self._reply.abort()
            self._failed(error)

    def _leave(self, *, keep_file: bool = False) -> None:
        self._over = True
        self._timer.stop()
        if not keep_file:
            self._reader.abort()
        self._reply.deleteLater()


def _raw_header(reply: Any, name: str) -> str:
    try:
        value = reply.rawHeader(name)  # Qt 6
    except (TypeError, ValueError):
        value = reply.rawHeader(qt.QByteArray(name.encode("ascii")))
    return str(value.data().decode("latin-1"))


def _tls_for(ca_file: Path) -> Any:
    """Make a TLS configuration that trusts only the authorities of a file."""
    certificates = qt.QSslCertificate.fromPath(str(ca_file)) if ca_file.is_file() else []
    if not certificates:
        raise no_certificates(ca_file)
    configuration = qt.QSslConfiguration.defaultConfiguration()
    configuration.setCaCertificates(certificates)
    return configuration
