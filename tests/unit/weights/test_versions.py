"""Published versions: whole or not there, with a way back, also when the publisher is killed or the files are
damaged.
"""

from __future__ import annotations

import json
import logging
import random
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tests.support.processes import repeating
from torch import nn

from wordmask.errors import RequestError, WeightsError
from wordmask.models.loading import load_segmenter
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import CARD, WEIGHTS, checkpoint_folder, load_checkpoint, save_checkpoint
from wordmask.weights.versions import CURRENT, ModelStore


def write_small(folder: Path, value: float = 1.0) -> None:
    module = nn.Linear(2, 2)
    nn.init.constant_(module.weight, value)
    save_checkpoint(folder, module.state_dict(), Card(words=("liver",), value=value))


def damage(store: ModelStore, number: int) -> None:
    path = store.folder(number) / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "model")


def test_without_versions_the_presets_own_weights_serve(store):
    assert store.served() is None
    assert store.versions() == []
    with pytest.raises(RequestError, match="nothing to go back to"):
        store.rollback()


def test_a_published_version_serves_and_can_be_read(store):
    assert store.publish(write_small) == 1
    assert store.served() == store.current() == 1
    checkpoint = load_checkpoint(store.folder(1))
    assert checkpoint.words == ("liver",)
    assert torch.equal(checkpoint.tensors["weight"], torch.ones(2, 2))
    (version,) = store.versions()
    assert (version.number, version.served, version.card.as_json()["value"]) == (1, True, 1.0)


def test_another_process_sees_what_was_published(store):
    other = ModelStore(store.path)
    assert other.served() is None
    store.publish(write_small)
    assert other.served() == 1


def test_going_back_and_forth_never_uses_a_number_twice(store):
    store.publish(write_small)
    store.publish(write_small)
    assert store.rollback() == 1
    assert store.publish(write_small) == 3
    assert store.rollback() == 1
    assert store.rollback() is None
    assert store.rollback(to=3) == 3
    assert store.rollback(to=0) is None
    with pytest.raises(RequestError, match="no usable version 9; there are 1, 2, 3, and 0"):
        store.rollback(to=9)


def test_a_damaged_version_is_passed_over_with_one_warning(store, caplog):
    for _ in range(3):
        store.publish(write_small)
    damage(store, 3)
    (store.folder(2) / CARD).write_text("{")
    with caplog.at_level(logging.WARNING):
        assert [store.served() for _ in range(3)] == [1, 1, 1]
    assert len(caplog.records) == 2
    assert store.publish(write_small) == 4
    assert store.served() == 4


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"history": []}', '{"history": ["1"]}', '{"history": 3}']
)
def test_a_damaged_record_costs_a_warning_and_the_newest_version_serves(store, caplog, content):
    store.publish(write_small)
    store.publish(write_small)
    (store.path / CURRENT).write_text(content)
    assert store.served() == 2
    assert "is damaged" in caplog.text
    assert store.rollback() == 1
    assert json.loads((store.path / CURRENT).read_text())["history"] == [None, 1]


def test_what_cannot_be_written_changes_nothing(store):
    store.publish(write_small)

    def fail(folder: Path) -> None:
        write_small(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        store.publish(fail)
    with pytest.raises(WeightsError, match=r"have no card\.json"):
        store.publish(lambda folder: None)
    assert store.served() == 1
    assert sorted(path.name for path in (store.path / "versions").iterdir()) == ["1"]


def test_an_unchanged_version_is_not_read_again(store, monkeypatch):
    store.publish(write_small)
    assert store.served() == 1
    monkeypatch.setattr("wordmask.weights.versions.weights_digest", lambda folder: pytest.fail("read again"))
    assert store.served() == 1


@settings(max_examples=40)
@given(steps=st.lists(st.sampled_from(["publish", "rollback", "damage"]), max_size=8))
def test_what_serves_is_always_sound(tmp_path_factory, steps):
    store = ModelStore(tmp_path_factory.mktemp("store"))
    meant: list[int | None] = [None]
    broken: set[int | None] = set()
    newest = 0
    for step in steps:
        if step == "publish":
            newest += 1
            assert store.publish(write_small) == newest
            meant.append(newest)
        elif step == "rollback":
            sound = [place for place, number in enumerate(meant) if number not in broken]
            if len(sound) > 1:
                store.rollback()
                meant = meant[: sound[-2] + 1]
        elif meant[-1] is not None and meant[-1] not in broken:
            damage(store, meant[-1])
            broken.add(meant[-1])
        assert store.served() == next(number for number in reversed(meant) if number not in broken)


def test_a_publisher_killed_at_any_moment_leaves_a_sound_version(tmp_path):
    folder, moments = tmp_path / "model", random.Random(0)
    noise = np.random.default_rng(0).random(50_000, dtype=np.float32)

    def write(version: Path) -> None:
        save_file({"noise": noise}, version / WEIGHTS)
        (version / CARD).write_text(json.dumps({"words": []}))

    published = 0
    for _ in range(8):
        with repeating(lambda: partial(ModelStore(folder).publish, write)):
            time.sleep(moments.uniform(0, 0.1))
        store = ModelStore(folder)
        served = store.served()
        record = (
            json.loads((folder / CURRENT).read_text()) if (folder / CURRENT).exists() else {"version": None}
        )
        assert served == record["version"]
        assert (served or 0) >= published
        published = served or 0
    assert published > 0
    store.publish(write_small)
    assert all(path.name.isdecimal() for path in (folder / "versions").iterdir())


def test_a_version_of_the_tiny_model_is_loaded_in_place_of_its_own_weights(store):
    bundled = checkpoint_folder("bundled/simple_vilmedsam_tiny")

    def write(folder: Path) -> None:
        model = load_segmenter("simple_vilmedsam", device="cpu")
        with torch.no_grad():
            model.get_parameter("scores.presence_bias").add_(1.0)
        save_checkpoint(folder, model.state_dict(), load_checkpoint(bundled).card)

    store.publish(write)
    own, published = (
        load_segmenter("simple_vilmedsam", device="cpu", weights=weights)
        for weights in (None, store.folder(1))
    )
    difference = published.get_parameter("scores.presence_bias") - own.get_parameter("scores.presence_bias")
    assert difference.item() == pytest.approx(1.0, abs=1e-6)
    assert published.fingerprint == own.fingerprint
