"""A WordMask server on this machine: how it is started, whether it is up yet, why it died, and how it is
stopped.

The Widget starts it with Qt's process class and asks the functions here; scripts and tests use `LocalServer`.
Knows ports and processes; where WordMask is installed is told by `environments`, what a log means by
`server_log`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..client.addresses import DEFAULT_PORT, ServerAddress
from ..client.answers import Health
from ..client.client import WordMaskClient, is_another
from ..client.errors import AccessDeniedError, ClientError, ServerStartError
from ..client.transport import RetryPolicy
from .environments import ServerEnvironment, find_environment
from .server_log import plain_log, why_it_stopped

__all__ = [
    "LocalServer",
    "ServerEnvironment",
    "StartState",
    "find_environment",
    "free_port",
    "judge_start",
    "likely_addresses",
    "plain_log",
    "server_command",
    "server_variables",
    "why_it_stopped",
]

HOST = "127.0.0.1"
START_SECONDS = (
    300.0  # the first start of a fresh environment compiles torch and monai: minutes on a slow disk
)
STOP_SECONDS = 10.0
LOG_BYTES = 64 << 10  # of the end of a log that are looked at
POLL_SECONDS = 0.25
# Slicer sets these for its own Python and libraries; another Python that gets them does not start.
_OF_SLICER = frozenset(("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONSTARTUP")) | frozenset(
    ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FRAMEWORK_PATH")
)


def server_command(
    environment: ServerEnvironment,
    app: Path | None,
    studies: Path,
    port: int,
    *,
    conf: Mapping[str, str] | None = None,
) -> list[str]:
    """Program and arguments of a server on 127.0.0.1; ServerStartError: there is no folder ``studies``.

    app: where models, requests and logs are kept, made when it is missing; None: where `wordmask serve` keeps
    them by itself. conf: settings such as {"preset": "tiny"}.

    The environment's own Python runs `wordmask serve`, so that neither a shell nor the PATH has a say in it.
    """
    if not studies.is_dir():
        raise ServerStartError(
            f"There is no folder {studies.name!r}; choose the folder with the images that the server "
            "shall "
            "offer."
        )
    command = [str(environment.python), "-m", "wordmask.cli", "serve", "--studies", str(studies.absolute())]
    command += ["--host", HOST, "--port", str(port)]
    if app is not None:
        command += ["--app", str(app.absolute())]
    for name, value in (conf or {}).items():
        command += ["--conf", f"{name}={value}"]
    return command


def server_variables(own: Mapping[str, str]) -> dict[str, str]:
    """Environment variables for the server, out of those of this process (in Slicer:
    slicer.util.startupEnvironment()).

    Without what Slicer sets for its own Python. MONAI_LABEL_CORS_ORIGINS is left alone: MONAI Label 0.8.5
    does not start with it.
    """
    found = {name: value for name, value in own.items() if name.upper() not in _OF_SLICER}
    found["PYTHONUNBUFFERED"] = "1"  # so that the log is there when it is looked at
    found["PYTHONIOENCODING"] = "utf-8"
    return found


def free_port(preferred: int = DEFAULT_PORT) -> int:
    """A port of 127.0.0.1 that nothing listens on: the preferred one when it is free.

    ServerStartError: there is none.
    """
    for port in (preferred, 0):
        if port and _is_taken(port):
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise ServerStartError(
        f"No port of {HOST} is free for a server; close programs that offer services on this machine."
    )


def likely_addresses(remembered: Iterable[ServerAddress] = ()) -> list[ServerAddress]:
    """Where a server on this machine may run already: the local ones that were used before, then MONAI
    Label's own port.
    """
    local = [address for address in remembered if address.is_local]
    return list(dict.fromkeys([*local, ServerAddress("http", HOST, DEFAULT_PORT)]))


@dataclass(frozen=True)
class StartState:
    """Where a start is. phase: starting, up, failed; sentence: to show."""

    phase: str
    sentence: str


def judge_start(
    *,
    is_running: bool,
    answer: Health | ClientError | None,
    seconds: float,
    log: str,
    exit_code: int | None = None,
    limit: float = START_SECONDS,
) -> StartState:
    """Whether a server that was started is up, by what is known at this moment.

    is_running: the process; answer: what `calls.health` gave, or the error that came of it, None when it was
    not asked yet; seconds: since the start; limit: after which it is given up. A server that asks for a token
    is up.
    """
    if not is_running:
        return StartState("failed", why_it_stopped(log, exit_code))
    if isinstance(answer, (Health, AccessDeniedError)):
        return StartState("up", "The server is ready.")
    if answer is not None and is_another(answer):
        return StartState(
            "failed", "Another program answers at the port of the server; start it again, with another port."
        )
    if seconds > limit:
        return StartState(
            "failed", f"The server was not ready after {limit:.0f} s; its log, shown below, has the details."
        )
    patience = " (the first start of a new installation takes minutes)" if seconds > 30 else ""
    return StartState("starting", f"The server is starting: {seconds:.0f} s{patience}.")


class LocalServer:
    """A server process that ends with the ``with`` block, whatever happens; for scripts and tests.

    address: where it is asked; log: the file into which it prints. Every method that can fail raises
    ServerStartError with a sentence.
    """

    def __init__(
        self, command: Sequence[str], port: int, log: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        """command: of `server_command`; variables: of `server_variables`, made of this process's own when
        None.
        """
        self.address = ServerAddress("http", HOST, port)
        self.log = log
        self._command = list(command)
        self._variables = server_variables(os.environ) if variables is None else dict(variables)
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0

    def __enter__(self) -> LocalServer:
        self.start()
        try:
            self.wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process, and return at once."""
        try:
            with self.log.open("wb") as output:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._variables,
                    start_new_session=sys.platform != "win32",  # a group of its own: trainings end with it
                )
        except OSError:
            raise ServerStartError(
                f"{Path(self._command[0]).name!r} cannot be run; choose the environment of WordMask again."
            ) from None
        self._began = time.monotonic()

    def state(self) -> StartState:
        """Where the start is now; asks the server."""
        answer: Health | ClientError | None = None
        if self.is_running:
            try:
                answer = WordMaskClient(self.address, timeout=5.0, retry=RetryPolicy(attempts=1)).health()
            except ClientError as error:
                answer = error
        return judge_start(
            is_running=self.is_running,
            answer=answer,
            seconds=time.monotonic() - self._began,
            log=self.log_end(),
            exit_code=None if self._process is None else self._process.poll(),
        )

    def wait_until_up(self, limit: float = START_SECONDS) -> None:
        """Until the server answers; ServerStartError when it dies, or is not up after ``limit`` seconds."""
        while True:
            state = self.state()
            if state.phase == "up":
                return
            if state.phase == "failed" or time.monotonic() - self._began > limit:
                raise ServerStartError(state.sentence)
            time.sleep(POLL_SECONDS)

    def log_end(self) -> str:
        """The end of what it printed, without colours."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - LOG_BYTES))
                return plain_log(file.read().decode("utf-8", errors="replace"))
        except OSError:
            return ""

    def stop(self) -> None:
        """Ask the server and what it started to end, and end them if they do not; more than once does no
        harm.
        """
        process = self._process
        if process is None:
            return
        for how in ("ask", "end"):
            _signal(process, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
                break
        _signal(process, "end")  # what it left in its group
        self._process = None


def _is_taken(port: int) -> bool:
    """Whether something listens; asked by connecting, for Windows lets two programs have one port."""
    try:
        with socket.create_connection((HOST, port), timeout=0.3):
            return True
    except OSError:
        return False


def _signal(process: subprocess.Popen[bytes], how: str) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform != "win32":
            os.killpg(process.pid, signal.SIGTERM if how == "ask" else signal.SIGKILL)
        elif how == "ask":
            process.terminate()
        else:
            process.kill()
