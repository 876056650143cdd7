"""MedCLIPSeg learns from labelled pictures: its losses, what is published, and what stays frozen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.labelled_pictures import WORD, write_case
from tests.support.stub_segmenters import random_medclipseg

from wordmask.inference.batching import store_slice
from wordmask.learning import presence_limits
from wordmask.learning.finetuning.medclipseg import MedCLIPSegTrainee, _mask_loss, contrast_loss
from wordmask.learning.finetuning.pairs import PairRow
from wordmask.learning.recipes import AdapterRecipe
from wordmask.learning.training import TrainingRequest, find_training
from wordmask.models.base import SliceKey
from wordmask.models.loading import load_segmenter
from wordmask.models.medclipseg.model import MedCLIPSeg
from wordmask.models.medclipseg.preset import MedCLIPSegPreset
from wordmask.models.registry import load_preset
from wordmask.weights.checkpoint import load_checkpoint, read_card
from wordmask.weights.versions import ModelStore
from wordmask.words.prompts import parse_prompts

MODEL = "medclipseg"
SMALL = {"epochs": 1, "steps_per_epoch": 2, "batch": 3, "views": 1, "all_views": 4, "replay": 0.0}


@pytest.fixture(scope="module", autouse=True)
def one_sample() -> Iterator[None]:
    """Eight samples take most of the time of a small training."""
    original = MedCLIPSeg.__init__

    def build(self: MedCLIPSeg, preset: MedCLIPSegPreset, *arguments: Any, **settings: Any) -> None:
        original(self, preset.model_copy(update={"samples": 1}), *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MedCLIPSeg, "__init__", build)
        yield


def teach(folder: Path, store: ModelStore, **changes):
    cases = [write_case(folder, seed) for seed in range(4)]
    recipe = AdapterRecipe.load("small", **{**SMALL, **changes})
    request = TrainingRequest(model=MODEL, preset="tiny", recipe=recipe, device="cpu", force=True)
    return find_training(MODEL, "small").run(cases, request, store, run_folder=folder / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, few_phantoms):
    folder = tmp_path_factory.mktemp("medclipseg")
    store = ModelStore(folder / MODEL)
    return store, teach(folder, store)


def test_a_version_has_adapters_and_head_and_knows_the_word(trained):
    store, report = trained
    card = read_card(store.folder(1))
    assert report.version == 1
    assert WORD in card.words
    assert card.learned == (WORD,)
    names = set(load_checkpoint(store.folder(1)).tensors)
    assert {name.split(".")[1] for name in names if name.startswith("network.")} == {
        "adapters", "clip", "mask_head", "upscale",
    }  # fmt: skip
    assert [name for name in names if ".clip." in name] == ["network.clip.model.token_embedding.weight"]
    model = load_segmenter(MODEL, device="cpu", weights=store.folder(1))
    (prompt,) = parse_prompts(WORD)
    assert bool(model.encode_prompts([prompt]).known.all())
    assert not model.judges_presence(prompt)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(trained, tmp_path, few_phantoms):
    store, _ = trained
    first = load_checkpoint(store.folder(1)).tensors
    for number, seed in ((1, 1), (2, 2)):
        again = ModelStore(tmp_path / str(seed) / MODEL)
        teach(tmp_path / str(number), again, seed=seed)
        tensors = load_checkpoint(again.folder(1)).tensors
        same = all(torch.equal(first[name], tensors[name]) for name in first)
        assert same is (seed == 1)


def test_held_out_cases_without_the_structure_say_when_it_is_absent(tmp_path, few_phantoms, monkeypatch):
    for name, value in (("FEWEST_ABSENT", 2), ("FEWEST_PRESENT", 2), ("LEAST_FOUND", 0.0)):
        monkeypatch.setattr(presence_limits, name, value)  # so that a training of seconds is enough
    cases = [write_case(tmp_path, seed) for seed in range(6)]
    cases += [write_case(tmp_path, seed, empty=True) for seed in range(100, 106)]
    recipe = AdapterRecipe.load("small", **{**SMALL, "validation": 0.5})
    request = TrainingRequest(model=MODEL, preset="tiny", recipe=recipe, device="cpu", force=True)
    store = ModelStore(tmp_path / MODEL)
    report = find_training(MODEL, "small").run(cases, request, store, run_folder=tmp_path / "run")
    (prompt,) = parse_prompts(WORD)
    limit = read_card(store.folder(1)).limits[WORD]
    assert limit.absent_cases >= 2
    assert limit.kept_empty >= presence_limits.KEPT_EMPTY
    assert f"Of {limit.absent_cases} held-out cases without '{WORD}'" in report.message
    model = load_segmenter(MODEL, device="cpu", weights=store.folder(1))
    assert model.judges_presence(prompt)
    assert model.preset.presence.words[WORD] == pytest.approx(limit.limit)
    own = load_preset(MODEL, "tiny").presence
    assert (model.preset.presence.slice_logit, model.preset.presence.volume_logit) == (
        own.slice_logit,
        own.volume_logit,
    )


def test_too_few_cases_without_the_structure_are_said(trained):
    _, report = trained
    assert f"Whether '{WORD}' is in an image cannot be judged" in report.message


def test_limits_of_a_preset_without_any_leave_its_other_words_alone():
    model = random_medclipseg()
    model.preset = model.preset.model_copy(update={"presence": None})
    model._own_presence = None
    one, other = parse_prompts("liver, spleen")
    model.limit_presence({"liver": 0.5})
    assert (model.judges_presence(one), model.judges_presence(other)) == (True, False)
    model.limit_presence({})
    assert model.preset.presence is None
    assert not model.judges_presence(one)


def rows(model, count: int = 4) -> list[PairRow]:
    """Slices that show a square of "liver" or nothing."""
    found = []
    for number in range(count):
        pixels, key = torch.rand(1, 3, 60, 60), SliceKey("b" * 64, "axial", number)
        features = store_slice(model.encode_slices(pixels, [key]), 0)
        target = torch.zeros(112, 112)
        target[20:60, 30:50] = number % 2
        found.append(PairRow(key, features, pixels[0], "liver", target))
    return found


def test_only_adapters_head_and_scores_learn_and_the_loss_falls():
    model = random_medclipseg()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainee = MedCLIPSegTrainee(model, AdapterRecipe.load("small", rate=3e-3), ["liver"])
    optimizer = torch.optim.AdamW(trainee.parameter_groups())
    batch, losses = rows(model), []
    for step in range(12):
        found = trainee(batch, seed=step)
        assert set(found) == {"loss", "mask", "contrast", "presence"}
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(float(found["mask"].detach()))
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert not any(".clip." in name for name in changed)


def test_every_step_draws_by_its_seed():
    model = random_medclipseg()
    trainee = MedCLIPSegTrainee(model, AdapterRecipe.load("small"), ["liver"])
    batch = rows(model)
    losses = [float(trainee(batch, seed=seed)["loss"].detach()) for seed in (5, 5, 6)]
    assert losses[0] == losses[1] != losses[2]


def test_texts_are_bare_words_in_the_given_share_and_sentences_otherwise():
    model = random_medclipseg()
    batch = rows(model, 2)
    shown = {}
    for bare in (0.0, 0.5, 1.0):
        trainee = MedCLIPSegTrainee(model, AdapterRecipe.load("small", bare=bare, synonyms=0.0), ["liver"])
        generator = torch.Generator().manual_seed(1)
        shown[bare] = [trainee._text(batch[1], generator) for _ in range(200)]
        assert trainee._text(batch[0], generator) == "liver"  # nothing to describe
    assert set(shown[1.0]) == {"liver"}
    assert "liver" not in shown[0.0]
    assert any(text.endswith("of the image") for text in shown[0.0])
    assert shown[0.5].count("liver") == pytest.approx(100, abs=25)


def test_the_contrast_is_the_papers_code_number_by_number():
    torch.manual_seed(1)
    patches, text = torch.randn(3, 5).double(), torch.randn(3, 5).double()
    p, t = patches.numpy(), text.numpy()

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(1, keepdims=True)

    alike = t @ t.T / 0.2
    goal = softmax(alike / np.sqrt((alike**2).sum(1, keepdims=True)))
    image, words = softmax(p @ t.T / 0.2), softmax(t @ p.T / 0.2)
    expected = -((goal * np.log(image)).sum(1).mean() + (goal.T * np.log(words)).sum(1).mean()) / 2
    assert float(contrast_loss(patches, text)) == pytest.approx(expected)


def test_the_dice_of_rows_drops_the_first_and_counts_empty_rows():
    logits = torch.full((1, 4, 4), -20.0)
    targets = torch.zeros(1, 4, 4)
    logits[0, 0], targets[0, 0] = 20.0, 1.0  # the first row is right
    logits[0, 1], targets[0, 2] = 20.0, 1.0  # two rows are wrong
    half = 0.5 * torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert float(_mask_loss(logits, targets, "rows") - half) == pytest.approx(0.5 * 2 / 3, abs=1e-3)
    assert float(_mask_loss(logits, targets, "image") - half) == pytest.approx(0.5 * 0.5, abs=1e-3)
