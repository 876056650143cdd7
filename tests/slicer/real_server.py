"""One real `wordmask serve` with the bundled model for all tests of a run, started as the module starts it.

It asks for tokens, takes uploads of 8 MB, and lets two jobs wait. Tests leave its queue empty, and give what
they upload new names.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.support.servers import REPOSITORY, copy_app, copy_studies
from WordMaskLib.client import calls
from WordMaskLib.client.client import WordMaskClient
from WordMaskLib.client.errors import ClientError, ServerStartError
from WordMaskLib.client.job_answers import JobStatus
from WordMaskLib.client.retry import RetryPolicy
from WordMaskLib.server.environments import find_environment
from WordMaskLib.server.server_process import (
    HOST,
    free_port,
    judge_start,
    server_command,
    server_variables,
)

MODEL, CT, PICTURE = "simple_vilmedsam", "ct_trunk", "dermoscopy_1"
PATIENCE = 180.0  # the machine may be busy
ROLES = ("monailabel-user", "monailabel-annotator", "monailabel-admin")

T = TypeVar("T")


@dataclass(frozen=True)
class Running:
    """token: of its administrator; client: with that token; realm: makes tokens with other roles; app,
    studies: its folders; log: what it printed.
    """

    token: str
    client: WordMaskClient
    realm: Any
    app: Path
    studies: Path
    log: Path

    @property
    def url(self) -> str:
        return str(self.client.address)

    def ask(self, call: calls.Call[T]) -> T:
        """Send a request, and wait for the answer."""
        return self.client.run(call)

    def finish(self, job: JobStatus) -> JobStatus:
        """Wait for a job's final status."""
        deadline = time.monotonic() + PATIENCE
        while not job.final:
            assert time.monotonic() < deadline, f"the job is still {job.state}"
            time.sleep(0.1)
            job = self.ask(calls.job(job.id))
        return job


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[Running]:
    """The server, which works in ``folder``; it ends with the block. ServerStartError."""
    with auth_realm().running_realm() as keys:
        app, studies = copy_of_app(folder)
        variables = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": keys.url}
        port, conf = free_port(0), {"device": "cpu", "upload_mb": "8", "queue": "2"}
        command = server_command(find_environment(sys.prefix), app, studies, port, conf=conf)
        with server_process(command, port, folder / "log", variables):
            token = keys.token(*ROLES, seconds=3600)
            client = WordMaskClient(f"{HOST}:{port}", token, timeout=PATIENCE)
            yield Running(token, client, keys, app, studies, folder / "log")


@contextlib.contextmanager
def server_process(
    command: Sequence[str], port: int, log: Path, variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A server that ends with the block, with all that it started; its address. ServerStartError.

    command: of `server_command`; log: the file into which it prints; variables: beside those of this process.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=server_variables({**os.environ, **(variables or {})}),
            start_new_session=True,
        )
    client, began = (
        WordMaskClient(f"{HOST}:{port}", timeout=5.0, retry=RetryPolicy(attempts=1)),
        time.monotonic(),
    )
    try:
        phase = "starting"
        while phase != "up":
            answer: Any = None
            try:
                answer = client.run(calls.health())
            except ClientError as error:
                answer = error
            code = process.poll()
            state = judge_start(
                is_running=code is None,
                answer=answer,
                seconds=time.monotonic() - began,
                log=log.read_text(encoding="utf-8", errors="replace"),
                exit_code=code,
            )
            phase = state.phase
            if phase == "failed":
                raise ServerStartError(state.sentence)
            time.sleep(0.1)
        yield str(client.address)
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):  # the second for what is left in its group
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10.0)


def copy_of_app(folder: Path) -> tuple[Path, Path]:
    """A copy of the app, and studies."""
    return copy_app(folder), copy_studies(
        folder, f"{CT}.nii.gz", f"{PICTURE}.png", "dermoscopy_2.png", "dermoscopy_3.png"
    )


def auth_realm() -> Any:
    """tests/integration/auth_realm.py, by its place: MONAI Label installs a package tests.integration, which
    would be found instead.
    """
    spec = importlib.util.spec_from_file_location(
        "auth_realm", REPOSITORY / "tests" / "integration" / "auth_realm.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
