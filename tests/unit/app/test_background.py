"""Background tasks in the moment between their acceptance and their process, in MONAI Label's own tables."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from monailabel.utils.async_tasks import utils

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
