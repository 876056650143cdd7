"""Where a training starts: at a version that there is, and that its preset made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wordmask.errors import RequestError
from wordmask.learning.publishing import find_start
from wordmask.weights.card import Card, CommitteeCard
from wordmask.weights.checkpoint import save_checkpoint
from wordmask.weights.versions import ModelStore


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "simple_vilmedsam")
    for preset in ("tiny", "biomedclip_vit_b"):
        card = Card(preset=preset)
        store.publish(lambda folder, card=card: save_checkpoint(folder, {"weight": torch.ones(1)}, card))
    return store


def test_the_start_is_the_version_in_use_or_the_one_that_is_asked_for(store):
    assert find_start(store, None, "biomedclip_vit_b") == 2
    assert find_start(store, 1, "tiny") == 1
    assert find_start(store, 0, "tiny") is None
    assert find_start(ModelStore(store.path.with_name("new")), None, "tiny") is None


def test_a_version_of_another_preset_or_none_is_refused(store):
    with pytest.raises(RequestError, match="Version 2 was trained from the preset 'biomedclip_vit_b'"):
        find_start(store, None, "tiny")
    with pytest.raises(RequestError, match=r"There is no version 7 .* `wordmask models list`"):
        find_start(store, 7, "tiny")


def test_only_teaching_continues_a_version_that_was_taught_words(store):
    card = Card(preset="tiny", committee=CommitteeCard(encoder="x", members=("lean",), sides=(32,), words={}))
    number = store.publish(lambda folder: save_checkpoint(folder, {"weight": torch.ones(1)}, card))
    with pytest.raises(RequestError, match=f"Version {number} was taught words .* use recipe few_shot"):
        find_start(store, None, "tiny")
    assert find_start(store, None, "tiny", taught=True) == number
