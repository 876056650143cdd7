"""A MONAI Label server with the WordMask app, seen from outside: start one, ask it over HTTP, stop it.

For the demo and the tests. Knows URLs, processes and multipart answers; not models, not images.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import requests

from wordmask.errors import WordMaskError
from wordmask.words.labels import LabelTable

# the first start of a fresh environment compiles every module of torch and monai: minutes on a slow disk
START_SECONDS = 300.0
LOG_LINES = 25


class ServerError(WordMaskError):
    """The server did not come up, or it answered with an error.

    Attributes:
        status: of HTTP; None without an answer.
        retry_after: seconds after which a full queue should have room.
    """

    def __init__(self, message: str, *, status: int | None = None, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = None if retry_after is None else float(retry_after)


@dataclass(frozen=True)
class ServerAnswer:
    """The answer to a segmentation.

    Attributes:
        fields: its JSON.
        file: the result; None when only JSON was asked for.
        file_name: likewise.
        seconds: from question to answer.
    """

    fields: dict[str, Any]
    file: bytes | None
    file_name: str | None
    seconds: float


@dataclass(frozen=True)
class Server:
    """A server process that runs; its id leads a group of its own."""

    url: str
    process_id: int

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        os.killpg(self.process_id, signal.SIGKILL)


class AppClient:
    """Asks one server; every method raises `ServerError` with the sentence that the server gave.

    Args:
        url: of the server.
        timeout: seconds without an answer after which a request is given up.
    """

    def __init__(self, url: str, *, timeout: float = 600.0) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._http = requests.Session()
        self._http.trust_env = False  # a proxy of the environment must not see requests to this machine

    def info(self) -> dict[str, Any]:
        """What the server is and which models it has."""
        return self._json("GET", "/info/")

    def infer(
        self,
        model: str,
        image: str,
        params: Mapping[str, Any] | None = None,
        *,
        output: str | None = None,
        upload: tuple[str, bytes] | None = None,
    ) -> ServerAnswer:
        """Segment an image and wait for the result.

        Args:
            model: its name.
            image: id on the server; empty with ``upload``.
            params: see docs/server.md.
            output: ``json`` or ``image``; None: both.
            upload: (file name, bytes), in place of an image on the server.
        """
        started = time.perf_counter()
        query = {"image": image} | ({"output": output} if output else {})
        response = self._send(
            "POST",
            f"/infer/{model}",
            params=query,
            data={"params": json.dumps(params or {})},
            files={"file": upload} if upload else None,
        )
        fields, file, name = parse_answer(response.headers, response.content)
        return ServerAnswer(fields, file, name, time.perf_counter() - started)

    def start_job(
        self,
        model: str,
        image: str = "",
        params: Mapping[str, Any] | None = None,
        *,
        upload: tuple[str, bytes] | None = None,
    ) -> dict[str, Any]:
        """Queue a segmentation; returns the job's status with its ``id``. Arguments as for `infer`."""
        return self._json(
            "POST",
            "/wordmask/jobs",
            params={"model": model, "image": image},
            data={"params": json.dumps(params or {})},
            files={"file": upload} if upload else None,
        )

    def job(self, job_id: str) -> dict[str, Any]:
        """The status of a job: ``state``, ``done`` of ``total``, ``message``."""
        return self._json("GET", f"/wordmask/jobs/{job_id}")

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Ask a job to stop; its status."""
        return self._json("DELETE", f"/wordmask/jobs/{job_id}")

    def wait(self, job_id: str, *, timeout: float = 600.0) -> dict[str, Any]:
        """Wait until a job is final, and return its status.

        Raises:
            ServerError: it is not final after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while (status := self.job(job_id))["state"] in ("queued", "running"):
            if time.monotonic() > deadline:
                raise ServerError(f"The job is still {status['state']} after {timeout:.0f} s.")
            time.sleep(0.05)
        return status

    def result(self, job_id: str) -> ServerAnswer:
        """The result of a job."""
        started = time.perf_counter()
        response = self._send("GET", f"/wordmask/jobs/{job_id}/result")
        fields, file, name = parse_answer(response.headers, response.content)
        return ServerAnswer(fields, file, name, time.perf_counter() - started)

    def submit_label(self, image: str, label: Path, names: Mapping[str, int]) -> None:
        """Keep a corrected label map as the final one of its image.

        Args:
            image: id on the server.
            label: the file.
            names: word -> value.
        """
        info = {"label_info": LabelTable.from_names(names).to_label_info()}
        with label.open("rb") as file:
            self._send(
                "PUT",
                "/datastore/label",
                params={"image": image, "tag": "final"},
                data={"params": json.dumps(info)},
                files={"label": (label.name, file)},
            )

    def start_training(self, model: str, params: Mapping[str, Any] | None = None) -> None:
        """Learn from all final labels, in the background.

        Args:
            model: its name.
            params: ``recipe`` and its numbers, ``force``, ``start``.
        """
        self._send("POST", f"/train/{model}", json=dict(params or {}))

    def training(self, model: str) -> dict[str, Any]:
        """How far a training is, or how the last one ended: ``state``, ``message``, ``version``."""
        return self._json("GET", "/wordmask/training", params={"model": model})

    def stop_training(self) -> None:
        """Stop the training; the model in use stays as it is."""
        self._send("DELETE", "/train/")

    def start_scoring(self, model: str, words: str | Sequence[str] = ()) -> None:
        """Score, in the background, how sure the model is of every case without a final label.

        Args:
            model: its name.
            words: to score with; empty: those of the labels.
        """
        self._send("POST", "/scoring/active_learning", json={"model": model, "words": words})

    def next_case(
        self, strategy: str = "hybrid", *, model: str = "", words: str = "", skip: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The case to label next.

        Returns:
            ``case`` (None when all are labelled), ``reason``, ``score``, ``skipped``, and ``preview``, a job.
        """
        return self._json(
            "POST",
            "/wordmask/next",
            params={"strategy": strategy, "model": model, "words": words, "skip": list(skip)},
        )

    def rollback(self, model: str, to: int | None = None) -> dict[str, Any]:
        """Use an earlier version again."""
        return self._json(
            "POST", f"/wordmask/models/{model}/rollback", params={} if to is None else {"to": to}
        )

    def health(self) -> dict[str, Any]:
        """Figures of queue, cache and versions."""
        return self._json("GET", "/wordmask/health")

    def _json(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._send(method, path, **content).json()
        return found

    def _send(self, method: str, path: str, **content: Any) -> requests.Response:
        try:
            response = self._http.request(method, self.url + path, timeout=self._timeout, **content)
        except requests.RequestException as error:
            raise ServerError(
                f"There is no answer from {self.url} ({type(error).__name__}); is the server running?"
            ) from error
        if response.ok:
            return response
        try:
            sentence = str(response.json()["detail"])
        except (ValueError, KeyError, TypeError):
            sentence = f"The server answered {response.status_code} {response.reason}; its log says why."
        raise ServerError(
            sentence, status=response.status_code, retry_after=response.headers.get("Retry-After")
        )


def parse_answer(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, Any], bytes | None, str | None]:
    """JSON, file and file name of an infer answer: ``multipart/form-data``, JSON alone, or a file alone."""
    head = Message()
    head["Content-Type"] = headers.get("content-type", "application/octet-stream")
    head["Content-Disposition"] = headers.get("content-disposition", "attachment")
    if head.get_content_type() == "application/json":
        return json.loads(body), None, None
    if head.get_content_maintype() != "multipart":
        return {}, body, head.get_filename()
    fields: dict[str, Any] = {}
    file, name = None, None
    boundary = b"\r\n--" + str(head.get_boundary()).encode("ascii")
    # Cut as bytes, because a file may hold anything, line ends included.
    for part in (b"\r\n" + body).split(boundary)[1:-1]:
        raw, _, content = part.partition(b"\r\n\r\n")
        part_head = BytesParser().parsebytes(raw.lstrip(b"\r\n"), headersonly=True)
        if part_head.get_filename():
            file, name = content, part_head.get_filename()
        else:
            fields = json.loads(content)
    return fields, file, name


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_server(
    app: Path,
    studies: Path,
    *,
    log: Path,
    conf: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = START_SECONDS,
) -> Iterator[Server]:
    """A real server on a free port of 127.0.0.1, stopped at the end whatever happens.

    Args:
        app: folder of the app.
        studies: folder of the images; the server writes there, so give it a copy.
        log: file for what the server prints.
        conf: settings of the app.
        environment: variables beside those of this process.
        timeout: seconds to come up.

    Raises:
        ServerError: the server did not come up; the message has the end of the log.
    """
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "wordmask.cli",
        "serve",
        "--app",
        str(app),
        "--studies",
        str(studies),
        "--port",
        str(port),
    ]
    for name, value in (conf or {}).items():
        command += ["--conf", f"{name}={value}"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        try:
            _wait_until_up(server, f"http://127.0.0.1:{port}", log, timeout)
            yield Server(f"http://127.0.0.1:{port}", server.pid)
        finally:
            _stop(server)


def _wait_until_up(server: subprocess.Popen[bytes], url: str, log: Path, timeout: float) -> None:
    client = AppClient(url, timeout=10.0)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServerError(f"The server stopped before it was ready. {_reason(log)}")
        try:
            client.info()
            return
        except ServerError as error:
            if error.status == 401:  # it is up, and wants a token
                return
        time.sleep(0.2)
    raise ServerError(f"The server was not ready after {timeout:.0f} s. {_reason(log)}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Ask the server and what it started to end, and end them if they do not."""
    for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=patience)
            return


def _reason(log: Path) -> str:
    """The last error sentence in a log, if there is one, and the end of the log."""
    text = log.read_text(encoding="utf-8", errors="replace")
    sentences = re.findall(r"^(?:wordmask|[\w.]+(?:Error|Exception)): (.+)$", text, flags=re.MULTILINE)
    end = "\n".join(text.splitlines()[-LOG_LINES:])
    return f"{sentences[-1] if sentences else ''}\nThe end of its log:\n{end}".lstrip()
