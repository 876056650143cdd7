"""Correct, submit, train, be served: over HTTP against a real server, also when there is too little to learn from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wordmask.app_client import AppClient, ServerError, running_server
from wordmask.samples import SampleCase, load_samples

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = "simple_vilmedsam"
QUICK = {"recipe": "quick", "epochs": 1, "steps_per_epoch": 2, "views": 1, "force": True}

pytestmark = pytest.mark.server


@pytest.fixture
def a_learning_server(tmp_path: Path) -> Iterator[AppClient]:
    """A server of its own."""
    studies = tmp_path / "studies"
    studies.mkdir()
    for case in pictures():
        shutil.copy(case.image, studies)
    ignored = shutil.ignore_patterns("logs", "model", "bin", "lib")
    app = Path(shutil.copytree(REPOSITORY / "monailabel_app", tmp_path / "app", ignore=ignored))
    with running_server(app, studies, log=tmp_path / "server.log", conf={"device": "cpu"}) as server:
        yield AppClient(server.url)


def pictures() -> list[SampleCase]:
    return [case for case in load_samples(REPOSITORY / "sample_data") if case.modality != "CT"][:3]


def submit(client: AppClient, count: int) -> None:
    for case in pictures()[:count]:
        word, values = next((word, values) for word, values in case.words.items() if len(values) == 1)
        client.submit_label(case.name, case.truth, {word: values[0]})


def start_when_free(client: AppClient, params: dict[str, object]) -> None:
    """A training that has written its end may need a moment until its process is gone; until then another one is refused."""
    for _ in range(100):
        try:
            client.start_training(MODEL, params)
            return
        except ServerError as error:
            if error.status != 429:
                raise
            time.sleep(0.2)
    raise AssertionError("the training before never ended")


def wait_for(client: AppClient, done: Callable[[dict[str, object]], bool], seconds: float = 240.0) -> dict[str, object]:
    deadline = time.monotonic() + seconds
    while not done(state := client.training(MODEL)):
        assert time.monotonic() < deadline, state
        time.sleep(0.2)
    return state


def test_labels_are_learned_published_served_and_undone(a_learning_server):
    client = a_learning_server
    assert client.training(MODEL) == {"state": "none"}
    submit(client, 3)
    client.start_training(MODEL, QUICK)
    state = wait_for(client, lambda state: state["state"] in ("done", "failed"))
    assert (state["state"], state["version"]) == ("done", 1), state
    image = pictures()[0].name
    assert client.infer(MODEL, image, {"prompt": "polyp"}).fields["version"] == "1"
    assert client.rollback(MODEL)["version"] == "bundled"
    assert client.infer(MODEL, image, {"prompt": "polyp"}).fields["version"] == "bundled"


def test_too_few_labels_is_a_sentence_that_reaches_the_client(a_learning_server):
    client = a_learning_server
    client.start_training(MODEL, {})
    state = wait_for(client, lambda state: state["state"] == "failed")
    assert "no labelled case" in str(state["message"])
    start_when_free(client, {"epochs": -1})
    state = wait_for(client, lambda state: state["state"] == "failed")
    assert "'epochs'" in str(state["message"])
