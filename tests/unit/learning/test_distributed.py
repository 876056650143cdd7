"""Training on several devices, here two processes with gloo on the CPU, through MONAI Label's own way of
spawning them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from monailabel.datastore.local import LocalDatastore
from tests.support.labelled_pictures import WORD, write_case
from torch.utils.data import Sampler

from wordmask.demo.client import free_port
from wordmask.learning.finetuning.ranks import Ranks, Share
from wordmask.weights.checkpoint import load_checkpoint
from wordmask.weights.versions import ModelStore
from wordmask_app.tasks.trainers import WordMaskTrain

MODEL = "simple_vilmedsam"
# Three steps of which two change the weights together: the last round of every epoch leaves the second
# process without a batch.
SHORT = {
    "recipe": "decoder",
    "decoder_rate": 1e-3,
    "epochs": 2,
    "views": 2,
    "batch": 4,
    "steps_per_epoch": 3,
    "accumulate": 2,
    "replay": 0,
    "force": True,
}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> LocalDatastore:
    """Four pictures with final labels."""
    folder = tmp_path_factory.mktemp("studies")
    datastore = LocalDatastore(str(folder), extensions=["*.png"], auto_reload=False)
    for case in (write_case(folder.parent / "drawn", seed) for seed in range(4)):
        datastore.add_image(case.name, str(case.image), {})
        datastore.save_label(case.name, str(case.label), "final", {"label_info": [{"name": WORD, "idx": 1}]})
    return datastore


def train(folder: Path, datastore: LocalDatastore, **request) -> tuple[ModelStore, dict]:
    store = ModelStore(folder / MODEL)
    return store, WordMaskTrain(MODEL, "tiny", "cpu", store)({"model": MODEL, **SHORT, **request}, datastore)


@pytest.fixture
def an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the processes meet, as MONAI Label's server sets it.

    One thread each, so that two on two cores do not wait for each other.
    """
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_two_processes_learn_what_one_learns_and_publish_once(tmp_path, labelled, an_address, few_phantoms):
    # Of phantoms this process has few and the two have all, but without replay none of them is learned from.
    alone, of_one = train(tmp_path / "alone", labelled)
    together, of_two = train(tmp_path / "together", labelled, multi_gpu=True, gpus="0,1")
    assert [version.number for version in together.versions()] == [1]
    assert of_two["state"] == "done"
    assert of_two["version"] == of_one["version"] == 1
    assert of_two["dice"] == pytest.approx(of_one["dice"], abs=1e-3)
    one, two, before = (
        load_checkpoint(place).tensors
        for place in (alone.folder(1), together.folder(1), "bundled/simple_vilmedsam_tiny")
    )
    assert one.keys() == two.keys()
    learned = [
        name
        for name in one
        if name in before
        and one[name].shape == before[name].shape
        and not name.endswith(("_mean", "_var", "num_batches_tracked"))
    ]
    moved, apart = (
        torch.cat([(one[name] - other[name]).flatten() for name in learned]) for other in (before, two)
    )
    assert moved.abs().max() > 1e-3  # else the rest says nothing
    # Not number by number: Adam's first steps go by the sign of a gradient, which rounding decides where the
    # gradient is almost 0.
    assert apart.norm() < 0.02 * moved.norm()
    for name in one:
        if "running_" in name:
            torch.testing.assert_close(
                two[name], one[name], rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
    assert not any((together.path / "runs").iterdir())


def test_what_is_wrong_in_one_of_two_processes_is_said_in_a_sentence(tmp_path, labelled, an_address):
    with pytest.raises(SystemExit, match="no version 7"):
        train(tmp_path, labelled, multi_gpu=True, gpus="0,1", start=7)
    state = json.loads((tmp_path / MODEL / "training.json").read_text())
    assert (state["state"], "no version 7" in state["message"]) == ("failed", True)
    assert ModelStore(tmp_path / MODEL).versions() == []


class Batches(Sampler[list[int]]):
    """Seven of them."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[number, number + 10] for number in range(7)])


def rank(number: int, count: int) -> Ranks:
    ranks = Ranks()
    ranks.number, ranks.count = number, count
    return ranks


def test_the_ranks_together_have_every_batch_once_in_the_order_of_one():
    shares = [list(Share(Batches(), rank(number, 3))) for number in range(3)]
    assert {len(share) for share in shares} == {3}  # none waits for another for ever
    assert [share[turn] for turn in range(3) for share in shares] == [*Batches(), [], []]
