"""A small realm on 127.0.0.1, as MONAI Label wants it of Keycloak.

Its public key, and signed tokens with roles.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


class Realm:
    """Signs tokens. key: another one than the realm's makes tokens that must not be believed."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.url = ""

    def public_key(self) -> str:
        """The key in one line of base64, as Keycloak gives it."""
        encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        lines = self.key.public_key().public_bytes(encoding, form).decode().splitlines()
        return "".join(lines[1:-1])

    def token(self, *roles: str, seconds: float = 600.0, key: Any = None) -> str:
        """A token of a person with these roles that is valid for ``seconds``."""
        claims = {
            "preferred_username": "reader",
            "email": "reader@example.org",
            "name": "A Reader",
            "realm_access": {"roles": list(roles)},
            "exp": int(time.time() + seconds),
        }
        return jwt.encode(claims, key or self.key, algorithm="RS256")


@contextlib.contextmanager
def running_realm() -> Iterator[Realm]:
    """A realm that answers over HTTP; stopped at the end."""
    realm = Realm()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked_for_routes = self.path.endswith("openid-configuration")
            found = (
                {"token_endpoint": f"{realm.url}/token"}
                if asked_for_routes
                else {"public_key": realm.public_key()}
            )
            self._send(found)

        def do_POST(self) -> None:
            self._send({"access_token": realm.token("monailabel-user"), "token_type": "bearer"})

        def _send(self, found: dict[str, str]) -> None:
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    realm.url = f"http://127.0.0.1:{server.server_port}/realms/test"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield realm
    finally:
        server.shutdown()
