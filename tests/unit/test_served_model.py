"""A model of the server uses the version that is published, and tries one that cannot be built once."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from torch import nn

from wordmask.weights.checkpoint import checkpoint_folder, read_card, save_checkpoint
from wordmask.weights.versions import ModelStore
from wordmask_app.jobs import served_model
from wordmask_app.jobs.served_model import ServedModel
from wordmask_app.settings import AppSettings

MODEL = "simple_vilmedsam"


def write_good(folder: Path) -> None:
    shutil.copytree(checkpoint_folder("bundled/simple_vilmedsam_tiny"), folder, dirs_exist_ok=True)


def write_misfit(folder: Path) -> None:
    """Whole and readable, but of another network."""
    save_checkpoint(
        folder, nn.Linear(2, 2).state_dict(), read_card(checkpoint_folder("bundled/simple_vilmedsam_tiny"))
    )


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / MODEL)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was tried to build, in order: numbers of versions, or "preset"."""
    tried = []
    build = served_model.load_segmenter

    def count(*arguments, weights: Path | None, **options):
        tried.append("preset" if weights is None else weights.name)
        return build(*arguments, weights=weights, **options)

    monkeypatch.setattr(served_model, "load_segmenter", count)
    return tried


def a_model(store: ModelStore) -> ServedModel:
    return ServedModel(MODEL, AppSettings.from_conf({"device": "cpu"}), store)


def test_a_version_that_cannot_be_built_is_tried_once(store, built, caplog):
    store.publish(write_good)
    model = a_model(store)
    model.load()
    store.publish(write_misfit)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            model.load()
    assert (model.version, built) == ("1", ["1", "2"])
    assert len([record for record in caplog.records if "Version 2" in record.getMessage()]) == 1
    assert [version.number for version in store.versions() if version.served] == [1]


def test_a_server_that_starts_with_such_a_version_uses_the_one_before(store, built):
    store.publish(write_good)
    store.publish(write_misfit)
    model = a_model(store)
    model.load()
    model.load()
    assert (model.version, built) == ("1", ["2", "1"])


def test_the_presets_own_weights_are_used_when_no_version_can_be_built(store, built):
    store.publish(write_misfit)
    model = a_model(store)
    model.load()
    model.load()
    assert (model.version, built) == ("bundled", ["1", "preset"])


def test_a_version_that_comes_after_is_tried(store, built):
    store.publish(write_misfit)
    model = a_model(store)
    model.load()
    store.publish(write_good)
    model.load()
    assert (model.version, built) == ("2", ["1", "preset", "2"])
