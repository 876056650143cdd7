"""A server of 127.0.0.1 that misbehaves as it is told: one script per connection, the last one for all that
follow.

Speaks through plain sockets, so that it can do what no web server does.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from WordMaskLib.client.client import WordMaskClient
from WordMaskLib.client.errors import ClientError
from WordMaskLib.client.retry import RetryPolicy

PATIENCE = 30.0
TOKEN = "s3cret.t0ken-value"
MULTIPART = "multipart/form-data; boundary=b0"
ONCE = RetryPolicy(attempts=1)
QUICK = RetryPolicy(attempts=3, first_wait=0.05, patience=0.5)
HTML = "<html><body><h1>502 Bad Gateway</h1></body></html>"


def is_a_sentence(error: BaseException) -> bool:
    """For people: one sentence, no token, no name of a Python exception."""
    text = str(error)
    unwanted = re.search(
        r"\n|Traceback|\w+(Error|Exception)\b|Errno|0x[0-9a-f]{6}|<|object at|" + re.escape(TOKEN), text
    )
    return unwanted is None and text.endswith(".") and 20 < len(text) < 600


def a_closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def client(url: str, **options: Any) -> WordMaskClient:
    """A client that waits, sends the token, and does not try again."""
    return WordMaskClient(url, TOKEN, **{"timeout": PATIENCE, "retry": ONCE, **options})


def outcome(ask: Callable[[], Any]) -> Any:
    """The answer, or the error whose text is the sentence."""
    try:
        return ask()
    except ClientError as error:
        return error


def everything_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@dataclass
class Request:
    """What came over one connection. head: request line and headers."""

    head: str
    body: bytes

    @property
    def line(self) -> str:
        return self.head.split("\r\n", 1)[0]


@dataclass
class Caller:
    """One connection, for a script."""

    sock: socket.socket
    server: FaultServer

    def request(self, *, most: int | None = None) -> Request:
        """Read a request, and at most so many bytes of its body."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.sock.recv(1 << 16)
            if not more:
                raise ConnectionError("no request came")
            data += more
        head, body = data.split(b"\r\n\r\n", 1)
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            ),
            0,
        )
        parts, received = [body], len(body)
        while received < (length if most is None else min(length, most)):
            more = self.sock.recv(1 << 16)
            if not more:
                break
            parts.append(more)
            received += len(more)
        found = Request(head.decode("latin-1"), b"".join(parts))
        self.server.requests.append(found)
        return found

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> None:
        """Break the connection, as a crash or a firewall does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Script = Callable[[Caller], None]


@dataclass
class FaultServer:
    """requests: what came so far; connections: how many there were; over: set when the test has what it
    wants.
    """

    port: int
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


@contextlib.contextmanager
def fault_server(*scripts: Script, tls: ssl.SSLContext | None = None) -> Iterator[FaultServer]:
    """A server that does with its first connection what the first script says, and so on."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = FaultServer(listener.getsockname()[1], "http" if tls is None else "https")

    def serve(sock: socket.socket, script: Script) -> None:
        with contextlib.suppress(OSError):  # a client that goes away is what many tests are about
            sock.settimeout(PATIENCE)
            if tls is not None:
                sock = tls.wrap_socket(sock, server_side=True)
            script(Caller(sock, server))
        sock.close()

    def accept() -> None:
        while not server.over.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            script = scripts[min(server.connections, len(scripts) - 1)]
            server.connections += 1
            threading.Thread(target=serve, args=(sock, script), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        server.over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts, which closing alone does not
        listener.close()


def head(status: str = "200 OK", **headers: str) -> bytes:
    """The head of an answer; names of headers with _ for -."""
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def says(body: bytes | str, status: str = "200 OK", **headers: str) -> Script:
    """Read the request, and answer with a body of a true length."""
    content = body.encode() if isinstance(body, str) else body

    def script(caller: Caller) -> None:
        caller.request()
        caller.send(
            head(
                status, **{"Content_Type": "application/json", "Content_Length": str(len(content)), **headers}
            )
            + content
        )

    return script


def says_json(found: Any, status: str = "200 OK", **headers: str) -> Script:
    return says(json.dumps(found), status, **headers)


def sends(raw: bytes, *, then: str = "close") -> Script:
    """Read the request, and send these very bytes; then: close, reset, or wait."""

    def script(caller: Caller) -> None:
        caller.request()
        caller.send(raw)
        if then == "reset":
            caller.reset()
        elif then == "wait":
            wait(caller)

    return script


def silent(caller: Caller) -> None:
    """Take the request, and say nothing until the client goes away."""
    caller.request()
    wait(caller)


def wait(caller: Caller) -> None:
    with contextlib.suppress(OSError):
        while caller.sock.recv(1 << 16):
            pass


def trickles(raw: bytes, pause: float, *, at_once: int = 0) -> Script:
    """Answer one byte after the other; at_once: but these first ones together."""

    def script(caller: Caller) -> None:
        caller.request()
        caller.send(raw[:at_once])
        for byte in raw[at_once:]:
            caller.send(bytes([byte]))
            time.sleep(pause)

    return script


def hangs_up(caller: Caller) -> None:
    """Close without a word."""
    caller.request()


def hangs_up_during_upload(caller: Caller) -> None:
    caller.request(most=100_000)
    caller.reset()


def health(version: str = "0.1.0") -> dict[str, Any]:
    """What `GET /wordmask/health` answers."""
    queue, models = (
        {"waiting": 0, "limit": 16, "running": 0, "known": 0},
        [{"name": "simple_vilmedsam", "version": "bundled"}],
    )
    return {"status": "ok", "wordmask": version, "uptime": 1.0, "queue": queue, "models": models}


def job_status(state: str = "queued", **more: Any) -> dict[str, Any]:
    """What `GET /wordmask/jobs/{id}` answers."""
    return {
        "id": "0123",
        "state": state,
        "words": ["liver"],
        "done": 0,
        "total": 10,
        "seconds": 0.0,
        "message": "Waiting.",
        **more,
    }


def result_body(
    file: bytes, *, boundary: str = "b0", name: str = "x.nii.gz", params: dict[str, Any] | None = None
) -> bytes:
    """The multipart body of a result."""
    fields = (
        {"label_names": {"liver": 1}, "statistics": {}, "not_found": [], "warnings": []}
        if params is None
        else params
    )
    return (
        (
            f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: '
            f"application/json\r\n\r\n{json.dumps(fields)}\r\n"
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        ).encode()
        + file
        + f"\r\n--{boundary}--\r\n".encode()
    )


WHOLE = result_body(b"voxels" * 1000)  # a result with its file, and the head that belongs to it
SENT = head(Content_Type=MULTIPART, Content_Length=str(len(WHOLE)))


def certificate(folder: Path, *, host: str = "127.0.0.1") -> tuple[ssl.SSLContext, Path]:
    """A server's context, and the file of the authority that signed its certificate (itself)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fault server")])
    now = datetime.datetime.now(datetime.UTC)
    try:
        subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority, private = folder / "ca.pem", folder / "server.key"
    authority.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, private)
    return context, authority
