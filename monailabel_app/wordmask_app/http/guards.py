"""Between the wire and every route: the policy of the route, bounds on the body, errors as sentences.

Knows ASGI; policies.py decides what may pass, faults.py what an error is answered with.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from starlette.datastructures import QueryParams
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wordmask.errors import TooLargeError
from wordmask_app.hardening.policies import LONGEST_BODY, POLICIES, Incoming, Policy
from wordmask_app.http.faults import Fault, fault_of

logger = logging.getLogger(__name__)


def install(app: FastAPI, *, upload_bytes: int) -> None:
    """Put the guard in front of all routes, in place of one that is there.

    It comes after CORS, so that browsers can read refusals.
    """
    app.user_middleware = [
        middleware
        for middleware in app.user_middleware
        if getattr(middleware.cls, "__name__", "") != Guard.__name__
    ]
    app.user_middleware.append(Middleware(Guard, upload_bytes=upload_bytes))
    app.middleware_stack = None  # Starlette builds it at the next request


class Guard:
    """ASGI middleware that applies the policies.

    Args:
        app: what it guards.
        upload_bytes: largest body of a request.
    """

    def __init__(self, app: ASGIApp, *, upload_bytes: int) -> None:
        self._app, self._upload_bytes = app, upload_bytes
        prefix = settings.MONAI_LABEL_API_STR
        # Literal paths before those with parameters, as routers try them: /infer/wsi/{model} must not pass as
        # /infer/{model}.
        ordered = sorted(
            POLICIES.items(),
            key=lambda item: (item[0][1].count("{"), ":path" in item[0][1], -len(item[0][1])),
        )
        self._policies = [
            (method, compile_path(prefix + path)[0], policy) for (method, path), policy in ordered
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            bounded = self._limit_body(scope, receive)
            policy, path = self._policy(
                scope["method"], scope["path"].removeprefix(scope.get("root_path", ""))
            )
            body, bounded = await _body(bounded) if policy.reads_body else (b"", bounded)
            if policy.kind == "refused":
                raise HTTPException(403, f"WordMask does not offer this route: {policy.why}.")
            if policy.check is not None:
                policy.check(Incoming(path, QueryParams(scope["query_string"]), body, _names()))
            await self._app(scope, bounded, answer)
        except Exception as error:
            fault = fault_of(error)
            if answer.begun:
                logger.error(
                    "The answer to %s %s broke off: %s", scope["method"], scope["path"], fault.sentence
                )
                raise
            logger.info(
                "refused %s %s status=%d %s",
                scope["method"],
                scope["path"][:200],
                fault.status,
                fault.sentence,
            )
            await _refusal(fault)(scope, receive, send)

    def _policy(self, method: str, path: str) -> tuple[Policy, Mapping[str, str]]:
        """The policy of a request, and the parameters of its path.

        Raises:
            HTTPException: 404 or 405 for a route that is not in the table.
        """
        known = False
        for candidate in (path, f"{path}/", path.rstrip("/")):  # routers redirect from the one to the other
            for allowed, pattern, policy in self._policies:
                if (match := pattern.match(candidate)) is None:
                    continue
                known = True
                if allowed == method:
                    return policy, match.groupdict()
        if known:
            raise HTTPException(405, f"{method} is not offered here.")
        raise HTTPException(404, "There is no such route on this server; its root page lists them.")

    def _limit_body(self, scope: Scope, receive: Receive) -> Receive:
        """Receive no more than the largest body, whatever the request says of its length."""
        message = (
            f"The request is larger than the {self._upload_bytes // 2**20} "
            "MB that this server takes; crop or compress the image."
        )
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._upload_bytes:
            raise TooLargeError(message)
        received = 0

        async def bounded() -> Message:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            if received > self._upload_bytes:
                raise HTTPException(413, message)  # FastAPI lets this through, and nothing else
            return part

        return bounded


class _Answer:
    """Sends, and takes the server's paths out of the errors that MONAI Label words itself."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun = send, False
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._start = message  # its length may change with its body
            return
        if self._start is not None and message["type"] == "http.response.body":
            body = _without_paths(message.get("body", b""))
            if not message.get("more_body"):
                self._start["headers"] = [
                    (name, value)
                    for name, value in self._start["headers"]
                    if name.lower() != b"content-length"
                ]
                self._start["headers"].append((b"content-length", str(len(body)).encode()))
            start, self._start, self.begun = self._start, None, True
            await self._send(start)
            message = {**message, "body": body}
        self.begun = True
        await self._send(message)


def _refusal(fault: Fault) -> JSONResponse:
    sentence = _without_paths(fault.sentence.encode()).decode()
    return JSONResponse({"detail": sentence}, status_code=fault.status, headers=fault.headers)


def _without_paths(body: bytes) -> bytes:
    """Replace the server's own folders, longest first."""
    folders = (
        settings.MONAI_LABEL_STUDIES,
        settings.MONAI_LABEL_APP_DIR,
        tempfile.gettempdir(),
        str(Path.home()),
    )
    for folder in sorted(
        {folder.rstrip("/") for folder in folders if len(folder) > 1}, key=len, reverse=True
    ):
        body = re.sub(re.escape(folder.encode()) + rb"[^\s\"']*", b"(a file of the server)", body)
    return body


async def _body(receive: Receive) -> tuple[bytes, Receive]:
    """A short body, and a way to receive it once more."""
    body, more = b"", True
    while more:
        part = await receive()
        body += part.get("body", b"")
        more = part.get("more_body", False)
        if len(body) > LONGEST_BODY:
            raise TooLargeError(f"The body of this request may have {LONGEST_BODY:,} bytes.")
    parts: Iterable[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> Message:
        for part in parts:
            return part
        return await receive()

    return body, again


def _names() -> dict[str, frozenset[str]]:
    """What this server has, by kind."""
    app = app_instance()
    found: dict[str, Any] = {
        "model": app._infers,
        "trainer": app._trainers,
        "scoring method": app._scoring_methods,
    }
    return {kind: frozenset(tasks) for kind, tasks in (found | {"strategy": app._strategies}).items()}
