"""``wordmask serve`` as a user starts it: folders with blanks and umlauts, no ``python`` on the PATH, Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from tests.integration.conftest import REPOSITORY

from wordmask.app_client import AppClient, free_port
from wordmask.samples import load_samples

MODEL = "simple_vilmedsam"
PATIENCE = 300.0  # seconds, after which something hangs

pytestmark = pytest.mark.server


@contextmanager
def serving(folder: Path, *arguments: str, python: Path = Path(sys.executable)) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A `wordmask serve` that said that it is ready, or ended, and what it prints on standard output; folder: becomes its current one."""
    nowhere = folder / "no python here"
    nowhere.mkdir()
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MONAI_LABEL")}
    if python != Path(sys.executable):
        variables.pop("PYTHONPATH", None)  # another environment has its own packages
    server = subprocess.Popen(
        [str(python), "-m", "wordmask.cli", "serve", *arguments],
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
        for process in [*psutil.Process(server.pid).children(recursive=True), server] if server.poll() is None else []:
            process.kill()


def test_it_serves_from_folders_with_blanks_and_ctrl_c_ends_it_and_its_training(tmp_path):
    folder = tmp_path / "Lärm und Leere"
    studies = folder / "Bilder für heute"
    studies.mkdir(parents=True)
    cases = [case for case in load_samples(REPOSITORY / "sample_data") if case.name.startswith("dermoscopy")]
    for case in cases:
        shutil.copy(case.image, studies)
    port = free_port()
    arguments = ("--studies", str(studies), "--app", str(folder / "App Ü"), "--port", str(port), "--conf", "models=simple_vilmedsam")
    with serving(folder, *arguments) as (server, lines):
        assert f"WordMask is ready at http://127.0.0.1:{port} (Ctrl-C ends it).\n" in lines, (folder / "log").read_text()
        client = AppClient(f"http://127.0.0.1:{port}")
        assert set(client.info()["models"]) == {MODEL}
        assert client.infer(MODEL, cases[0].name, {"prompt": "skin lesion"}).fields["label_names"] == {"skin lesion": 1}
        for case in cases:
            client.submit_label(case.name, case.truth, {"skin lesion": case.words["skin lesion"][0]})
        client.start_training(MODEL, {"epochs": 1000})
        deadline = time.monotonic() + PATIENCE
        while client.training(MODEL)["state"] != "running":
            assert time.monotonic() < deadline, client.training(MODEL)
            time.sleep(0.1)
        children = psutil.Process(server.pid).children(recursive=True)
        assert any("train" in child.cmdline() for child in children)
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE) == 0
    assert lines[-1] == "WordMask has stopped.\n"
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert (folder / "App Ü" / "logs" / "app.log").stat().st_size
