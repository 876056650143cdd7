"""How a WordMask server on this computer is started, and whether it is up yet.

`local_server` runs the process, `environments` finds WordMask, `server_log` reads the log. Knows commands and
ports; runs nothing.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..client.addresses import DEFAULT_PORT, ServerAddress
from ..client.answers import Health
from ..client.errors import AccessDeniedError, ClientError, ServerStartError
from ..client.handshake import may_be_another
from .environments import ServerEnvironment
from .server_log import why_it_stopped

HOST = "127.0.0.1"
# The first start of a fresh environment compiles torch and monai: minutes on a slow disk.
START_SECONDS = 300.0
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
    """Return program and arguments of a server on 127.0.0.1.

    The environment's own Python runs `wordmask serve`, so that neither a shell nor the PATH matters.

    Args:
        environment: where WordMask is installed
        app: where models, requests and logs are stored, made if it is missing; None: where `wordmask serve`
            stores them
        studies: folder with the images that the server offers
        port: to listen on
        conf: settings such as {"preset": "tiny"}

    Raises:
        ServerStartError: the folder ``studies`` does not exist
    """
    if not studies.is_dir():
        raise ServerStartError(
            f"There is no folder {studies.name!r}; choose the folder with the images that the server should "
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
    """Return environment variables for the server, without those that Slicer sets for its own Python.

    ``own`` are those of this process (in Slicer: slicer.util.startupEnvironment()). MONAI_LABEL_CORS_ORIGINS
    is not set: MONAI Label 0.8.5 does not start with it.
    """
    found = {name: value for name, value in own.items() if name.upper() not in _OF_SLICER}
    found["PYTHONUNBUFFERED"] = "1"  # so that the log is there when it is looked at
    found["PYTHONIOENCODING"] = "utf-8"
    return found


def free_port(preferred: int = DEFAULT_PORT) -> int:
    """Return a free port of 127.0.0.1, the preferred one if possible; ServerStartError: there is none."""
    for port in (preferred, 0):
        if port and _is_taken(port):
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise ServerStartError(
        f"There is no free port on {HOST}; close programs that offer services on this machine."
    )


def likely_addresses(remembered: Iterable[ServerAddress] = ()) -> list[ServerAddress]:
    """Return where a server may already be running on this computer: local addresses used before, then MONAI
    Label's own port.
    """
    local = [address for address in remembered if address.is_local]
    return list(dict.fromkeys([*local, ServerAddress("http", HOST, DEFAULT_PORT)]))


@dataclass(frozen=True)
class StartState:
    """How far the start of a server is.

    Attributes:
        phase: starting, up or failed
        sentence: to show
    """

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
    """Decide whether a server is up, by what is known at this moment. A server that asks for a token is up.

    Args:
        is_running: whether the process is alive
        answer: what `calls.health` returned, or its error; None before the first answer
        seconds: since the start
        log: what the server printed
        exit_code: of the process, None if it is not known
        limit: seconds after which the start has failed
    """
    if not is_running:
        return StartState("failed", why_it_stopped(log, exit_code))
    if isinstance(answer, (Health, AccessDeniedError)):
        return StartState("up", "The server is ready.")
    if answer is not None and may_be_another(answer):
        return StartState(
            "failed", "Another program answers at the port of the server; start it again, with another port."
        )
    if seconds > limit:
        return StartState(
            "failed", f"The server was not ready after {limit:.0f} s; its log, shown below, has the details."
        )
    patience = " (the first start of a new installation takes minutes)" if seconds > 30 else ""
    return StartState("starting", f"The server is starting: {seconds:.0f} s{patience}.")


def _is_taken(port: int) -> bool:
    """Check by connecting whether something listens on a port, because Windows lets two programs have one
    port.
    """
    try:
        with socket.create_connection((HOST, port), timeout=0.3):
            return True
    except OSError:
        return False
