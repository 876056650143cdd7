"""A training that ends before its end, by a kill, a stop or for lack of memory: what serves is as it was, and the next one starts clean."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from tests.integration.test_training import MODEL, QUICK, pictures, start_when_free, submit, wait_for

from wordmask.app_client import AppClient, running_server

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {**QUICK, "replay": 0}
LONG = {**SMALL, "epochs": 10_000, "validate_every": 10_000}
ENDED = ("done", "failed", "stopped")

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]


@dataclass
class Learning:
    """A server that has published version 1; seconds: from the request for that training to its end."""

    client: AppClient
    process_id: int
    model: Path
    folder: Path
    seconds: float

    def train(self, params: dict[str, object]) -> dict[str, object]:
        """From beginning to end."""
        start_when_free(self.client, params)
        return wait_for(self.client, lambda state: state["state"] in ENDED)

    def training(self, seconds: float = 60.0) -> psutil.Process:
        """The process that trains, once there is one."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for child in psutil.Process(self.process_id).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "train" in child.cmdline():
                        return child
            time.sleep(0.02)
        raise AssertionError("no training began")

    def served(self) -> tuple[str, np.ndarray]:
        """The version that health names, and the answer to one request that is always the same: a probability for every pixel."""
        answer = self.client.infer(MODEL, pictures()[0].name, {"prompt": "lung", "output_volume": "probability"})
        path = self.folder / "answer.nii.gz"
        path.write_bytes(answer.file or b"")
        version = self.client.health()["models"][0]["version"]
        assert version == answer.fields["version"]
        return version, sitk.GetArrayFromImage(sitk.ReadImage(path))


@pytest.fixture(scope="module")
def learning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learning]:
    folder = tmp_path_factory.mktemp("learning")
    (folder / "studies").mkdir()
    for case in pictures():
        shutil.copy(case.image, folder / "studies")
    ignored = shutil.ignore_patterns("logs", "model", "bin", "lib")
    app = Path(shutil.copytree(REPOSITORY / "monailabel_app", folder / "app", ignore=ignored))
    with running_server(app, folder / "studies", log=folder / "server.log", conf={"device": "cpu"}) as server:
        learning = Learning(AppClient(server.url), server.process_id, app / "model" / MODEL, folder, 0.0)
        submit(learning.client, 3)
        began = time.monotonic()
        state = learning.train(SMALL)
        learning.seconds = time.monotonic() - began
        assert (state["state"], state["version"]) == ("done", 1), state
        yield learning


def kill_at(learning: Learning, share: float) -> bool:
    """SIGKILL after a share of a training's usual time, or when it publishes (1.0). Whether the kill came before it had published."""
    before = learning.served()
    began = time.monotonic()
    start_when_free(learning.client, SMALL)
    process = learning.training()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if any(learning.model.glob("versions/.staged-*")) if share == 1.0 else time.monotonic() - began > share * learning.seconds:
            break
        time.sleep(0.001 if share == 1.0 else 0.02)
    process.kill()
    state = wait_for(learning.client, lambda state: state["state"] in ENDED, 30.0)
    if state["state"] == "done":  # it was quicker than usual
        assert learning.served()[0] == str(state["version"]) != before[0]
        return False
    assert (state["state"], "what serves is as it was" in str(state["message"])) == ("stopped", True), state
    check_served(learning, before)
    return True


def check_served(learning: Learning, before: tuple[str, np.ndarray]) -> None:
    version, answer = learning.served()
    assert version == before[0]
    np.testing.assert_array_equal(answer, before[1])


def check_the_next_one_starts_clean(learning: Learning) -> None:
    before = int(learning.served()[0])
    state = learning.train(SMALL)
    assert (state["state"], state["parent"], state["version"]) == ("done", before, before + 1), state
    assert learning.served()[0] == str(before + 1)
    assert list((learning.model / "runs").iterdir()) == []
    assert all(path.name.isdecimal() for path in (learning.model / "versions").iterdir())


def test_killed_three_times_the_old_version_serves_and_the_next_training_starts_clean(learning):
    assert sum(kill_at(learning, share) for share in (0.1, 0.7, 1.0)) >= 2
    check_the_next_one_starts_clean(learning)


@pytest.mark.slow
def test_killed_at_ten_random_moments_the_old_version_serves_and_the_next_training_starts_clean(learning):
    moments = random.Random(4)
    shares = [(number + moments.random()) / 9 * 0.95 for number in range(9)] + [1.0]
    assert sum(kill_at(learning, share) for share in shares) >= 8
    check_the_next_one_starts_clean(learning)


def test_a_stop_shows_within_seconds(learning):
    before = learning.served()
    start_when_free(learning.client, LONG)
    wait_for(learning.client, lambda state: state.get("stage") == "training")
    learning.client.stop_training()
    state = wait_for(learning.client, lambda state: state["state"] != "running", 5.0)
    assert (state["state"], "stopped before its end" in str(state["message"])) == ("stopped", True)
    check_served(learning, before)


def test_a_lack_of_memory_is_a_sentence_that_reaches_the_client(learning):
    before = learning.served()
    start_when_free(learning.client, LONG)
    wait_for(learning.client, lambda state: state.get("stage") == "training")
    process = learning.training()
    _, most = process.rlimit(psutil.RLIMIT_AS)
    process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms // 2, most))  # from now on it gets nothing more
    state = wait_for(learning.client, lambda state: state["state"] != "running", 60.0)
    assert (state["state"], "not enough memory for this training" in str(state["message"])) == ("failed", True), state
    check_served(learning, before)
