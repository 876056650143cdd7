"""Trainings on a real server: one that is killed, stopped or lacks memory leaves what serves as it was, and
the next one starts clean.
"""

from __future__ import annotations

import random
import time

import numpy as np
import psutil
import pytest
from tests.support.learning import HOURS, QUICK, LearningServer, pictures
from tests.support.servers import copy_app, copy_studies, eventually, server_on

pytestmark = pytest.mark.server


@pytest.fixture
def learning(a_learning_server: LearningServer) -> LearningServer:
    """With three labels, served by a version that was published here."""
    a_learning_server.submit(*pictures())
    if a_learning_server.served()[0] == "bundled":
        state = a_learning_server.train(QUICK)
        assert state["state"] == "done", state
        assert a_learning_server.served()[0] == str(state["version"])
    return a_learning_server


def is_running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def kill(learning: LearningServer, process: psutil.Process, before: tuple[str, np.ndarray]) -> bool:
    """SIGKILL, and check what serves. Whether the training had not published yet."""
    process.kill()
    state = learning.ended()
    if state["state"] == "done":  # it was quicker
        assert learning.served()[0] == str(state["version"]) != before[0]
        return False
    assert (state["state"], "the model in use is unchanged" in str(state["message"])) == ("stopped", True), (
        state
    )
    check_served(learning, before)
    return True


def check_served(learning: LearningServer, before: tuple[str, np.ndarray]) -> None:
    version, answer = learning.served()
    assert version == before[0]
    np.testing.assert_array_equal(answer, before[1])


def check_the_next_one_starts_clean(learning: LearningServer) -> None:
    before = int(learning.served()[0])
    state = learning.train(QUICK)
    assert (state["state"], state["parent"]) == ("done", before), state
    assert learning.served()[0] == str(state["version"]) != str(before)
    assert not list((learning.model / "runs").glob("*"))
    assert all(path.name.isdecimal() for path in (learning.model / "versions").iterdir())


def test_too_few_labels_is_a_sentence_that_reaches_the_client(a_learning_server):
    a_learning_server.forget()
    state = a_learning_server.train({})
    assert (state["state"], "no labelled case" in str(state["message"])) == ("failed", True), state


def test_killed_three_times_the_old_version_serves_and_the_next_training_starts_clean(learning):
    before = learning.served()
    learning.start(HOURS)
    assert kill(learning, learning.process(), before)  # while it starts
    learning.start(HOURS)
    learning.wait(lambda state: str(state.get("stage")).startswith("training"))
    assert kill(learning, learning.process(), before)
    learning.start(QUICK)
    process = learning.process()
    while is_running(process) and not any(learning.model.glob("versions/.staged-*")):
        time.sleep(0.001)
    kill(learning, process, before)  # while it publishes, or just after
    check_the_next_one_starts_clean(learning)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_ten_random_moments_the_old_version_serves_and_the_next_training_starts_clean(learning):
    began = time.monotonic()
    assert learning.train(QUICK)["state"] == "done"
    usual, moments, before_publication = time.monotonic() - began, random.Random(4), 0
    for number in range(10):
        before = learning.served()
        share = (number + moments.random()) / 10 * 0.95
        began = time.monotonic()
        learning.start(QUICK)
        process = learning.process()
        while is_running(process) and time.monotonic() - began < share * usual:
            time.sleep(0.02)
        before_publication += kill(learning, process, before)
    assert before_publication >= 8
    check_the_next_one_starts_clean(learning)


def test_a_stop_ends_a_training_of_hours(learning):
    before = learning.served()
    learning.start(HOURS)
    learning.wait(lambda state: str(state.get("stage")).startswith("training"))
    learning.client.stop_training()
    state = learning.wait(lambda state: state["state"] != "running")
    assert (state["state"], "stopped before its end" in str(state["message"])) == ("stopped", True)
    check_served(learning, before)


def test_a_lack_of_memory_is_a_sentence_that_reaches_the_client(learning):
    before = learning.served()
    learning.start(HOURS)
    learning.wait(lambda state: str(state.get("stage")).startswith("training"))
    process = learning.process()
    _, most = process.rlimit(psutil.RLIMIT_AS)
    process.rlimit(
        psutil.RLIMIT_AS, (process.memory_info().vms // 2, most)
    )  # from now on it gets nothing more
    state = learning.wait(lambda state: state["state"] != "running")
    assert (state["state"], "not enough memory for this training" in str(state["message"])) == (
        "failed",
        True,
    ), state
    check_served(learning, before)


def test_a_training_ends_with_a_server_that_is_killed_and_the_next_server_says_so(tmp_path):
    copy_app(tmp_path)
    copy_studies(tmp_path, *(case.image.name for case in pictures()))
    with server_on(tmp_path) as server:
        learning = LearningServer(server)
        learning.submit(*pictures())
        learning.start(HOURS)
        learning.wait(lambda state: str(state.get("stage")).startswith("training"))
        process = learning.process()
        server.process.kill()
        eventually(lambda: not is_running(process))
    with server_on(tmp_path) as server:
        state = LearningServer(server).wait(lambda state: True)
        assert (state["state"], "the model in use is unchanged" in str(state["message"])) == ("stopped", True)
