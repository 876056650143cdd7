"""Real servers on copies of the app and of sample studies, and what tests ask of them again and again."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from wordmask.demo.client import AppClient, Server, running_server

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLES = REPOSITORY / "sample_data"
MODEL = "simple_vilmedsam"
MADE_BY_SERVERS = ("logs", "model", "spool", "bin", "lib", "__pycache__")
IGNORE_INTERRUPTS = (
    *(sys.executable, "-c"),
    (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], "
        "sys.argv[1:])"
    ),
)
PATIENCE = 240.0  # seconds, after which something hangs and is not only slow


@dataclass(frozen=True)
class RunningServer:
    """A real server process and its folder, which holds ``app``, ``studies`` and ``log``, what the server
    printed so far.
    """

    process: Server
    client: AppClient
    folder: Path

    @property
    def url(self) -> str:
        return self.client.url

    @property
    def app(self) -> Path:
        return self.folder / "app"

    @property
    def studies(self) -> Path:
        return self.folder / "studies"

    @property
    def log(self) -> Path:
        return self.folder / "log"


def copy_app(folder: Path) -> Path:
    """The app as it is in the repository, without what servers wrote there."""
    return Path(
        shutil.copytree(
            REPOSITORY / "monailabel_app", folder / "app", ignore=shutil.ignore_patterns(*MADE_BY_SERVERS)
        )
    )


def copy_studies(folder: Path, *names: str) -> Path:
    """Sample studies of these file names, all when none is named."""
    studies = folder / "studies"
    studies.mkdir()
    for path in (SAMPLES / "studies").iterdir():
        if path.is_file() and (not names or path.name in names):
            shutil.copy(path, studies)
    return studies


@contextlib.contextmanager
def server_on(
    folder: Path, *, environment: Mapping[str, str] | None = None, **conf: str
) -> Iterator[RunningServer]:
    """A server with the bundled model on the CPU, on the ``app`` and the ``studies`` that are in the folder
    already.
    """
    conf = {"device": "cpu", **conf}
    with running_server(
        folder / "app", folder / "studies", log=folder / "log", conf=conf, environment=environment
    ) as process:
        yield RunningServer(process, AppClient(process.url, timeout=PATIENCE), folder)


def eventually(condition: Callable[[], bool], *, every: float = 0.05) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it was not so within {PATIENCE:.0f} s"
        time.sleep(every)


def training_process(server: int) -> psutil.Process:
    """The process that trains, a child of the server's, once there is one.

    A training is "running" from the moment it is accepted, which is before it has a process.
    """
    found: list[psutil.Process] = []

    def look() -> bool:
        for child in psutil.Process(server).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "train" in child.cmdline():
                    found.append(child)
        return bool(found)

    eventually(look)
    return found[0]


@contextlib.contextmanager
def serving(
    folder: Path, *arguments: str, python: Path = Path(sys.executable), ignored: bool = False
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A `wordmask serve` that said that it is ready, or ended, and what it prints on standard output.

    folder: becomes its current one; ignored: SIGINT is ignored when it starts, as in the background of a
    script.
    """
    nowhere = folder / "no python here"
    nowhere.mkdir()
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MONAI_LABEL")}
    if python != Path(sys.executable):
        variables.pop("PYTHONPATH", None)  # another environment has its own packages
    server = subprocess.Popen(
        [*(IGNORE_INTERRUPTS if ignored else ()), str(python), "-m", "wordmask.cli", "serve", *arguments],
        cwd=folder,
        env={**variables, "PATH": str(nowhere)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=(folder / "log").open("w"),
        text=True,
        start_new_session=True,
    )
    assert server.stdout is not None
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        for line in server.stdout or ():
            lines.append(line)
            if line.startswith("WordMask is ready"):
                ready.set()
        ready.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        assert ready.wait(PATIENCE), (folder / "log").read_text()
        yield server, lines
    finally:
        for process in (
            [*psutil.Process(server.pid).children(recursive=True), server] if server.poll() is None else []
        ):
            process.kill()
