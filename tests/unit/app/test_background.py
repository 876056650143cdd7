"""Background tasks in the moment between their acceptance and their process, in MONAI Label's own tables."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from monailabel.utils.async_tasks import utils
from tests.support.servers import eventually

from wordmask_app.hardening import background


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The table of trainings, empty."""
    monkeypatch.setattr(utils, "background_tasks", {"train": []})
    monkeypatch.setattr(utils, "background_processes", {"train": {}})
    return utils.background_tasks["train"]


@pytest.mark.parametrize("status", ["SUBMITTED", "RUNNING"])
def test_a_second_training_is_refused_from_the_moment_the_first_is_accepted(tasks, status):
    tasks.append({"id": "1", "status": status})
    with pytest.raises(background.TaskRunningError, match="A training is already running"):
        background.require_free("train")


@pytest.mark.parametrize("status", ["DONE", "ERROR", "STOPPED"])
def test_a_training_that_is_over_is_in_nobodys_way(tasks, status):
    background.require_free("train")
    tasks.append({"id": "1", "status": status})
    background.require_free("train")


def test_a_stop_waits_for_the_process_that_is_about_to_be(tasks):
    tasks.append({"id": "1", "status": "SUBMITTED"})
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        utils.background_processes["train"]["1"] = started[0]

    threading.Timer(0.3, start).start()
    stopped = background.stop("train")
    assert stopped is not None
    assert stopped["status"] == "STOPPED"
    assert started[0].wait(timeout=120) != 0


def test_nothing_to_stop_is_no_error(tasks):
    assert background.stop("train") is None
    tasks.append({"id": "1", "status": "DONE"})
    assert background.stop("train") is None


A_SERVER = """
import subprocess, sys, time
from pathlib import Path
from wordmask_app.hardening import background
background.become_server()
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(600)
"""
A_TASK = """
import os, subprocess, sys, time
from pathlib import Path
from wordmask_app.hardening import background
background.end_with_server()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
part = Path(sys.argv[1] + ".part")
part.write_text(f"{os.getpid()} {child.pid}")
part.rename(sys.argv[1])
time.sleep(600)
"""


def test_a_task_ends_with_all_that_it_started_when_its_server_is_killed(tmp_path: Path):
    said = tmp_path / "processes"
    server = subprocess.Popen([sys.executable, "-c", A_SERVER, A_TASK, str(said)])
    try:
        eventually(said.exists)
        started = [psutil.Process(int(number)) for number in said.read_text().split()]
        assert all(process.is_running() for process in started)
    finally:
        server.kill()  # its status is not asked for, so that it stays a zombie
    eventually(lambda: not any(_lives(process) for process in started))
    server.wait()


def test_a_task_that_starts_after_its_server_ended_ends_at_once(tmp_path: Path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    task = [sys.executable, "-c", A_TASK, str(tmp_path / "processes")]
    done = subprocess.run(
        task, env={**os.environ, background.SERVER: str(gone.pid)}, timeout=120, check=False
    )
    assert done.returncode == 1
    assert not (tmp_path / "processes").exists()


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
