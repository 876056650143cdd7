"""CLIP-Guided SAM learns from labelled pictures: how it is prompted, what is published, what stays frozen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.labelled_pictures import WORD, write_case
from tests.support.stub_segmenters import random_clip_guided_sam

from wordmask.errors import RequestError
from wordmask.inference.batching import store_slice
from wordmask.learning import guided_prompts
from wordmask.learning.finetuning import run
from wordmask.learning.finetuning.clip_guided_sam import CLIPGuidedSAMTrainee
from wordmask.learning.finetuning.pairs import PairRow
from wordmask.learning.guided_prompts import KnownTexts, PromptShares, draw_clicked, draw_prompted
from wordmask.learning.losses import mask_and_iou_loss
from wordmask.learning.recipes import GuidedRecipe
from wordmask.learning.training import TrainingRequest, find_training, recipe_names
from wordmask.models.base import SliceKey
from wordmask.models.loading import load_segmenter
from wordmask.weights.checkpoint import load_checkpoint, read_card
from wordmask.weights.versions import ModelStore
from wordmask.words.prompts import parse_prompts

MODEL = "clip_guided_sam"
SMALL = {"epochs": 1, "steps_per_epoch": 2, "batch": 3, "views": 1, "all_views": 4, "replay": 0.0}


def teach(folder: Path, store: ModelStore, **changes):
    cases = [write_case(folder, seed) for seed in range(4)]
    recipe = GuidedRecipe.load("small", **{**SMALL, **changes})
    request = TrainingRequest(model=MODEL, preset="tiny", recipe=recipe, device="cpu", force=True)
    return find_training(MODEL, "small").run(cases, request, store, run_folder=folder / "run")


@pytest.fixture(scope="module", autouse=True)
def no_phantoms() -> Iterator[None]:
    """Whether old words are kept is not asked here, and would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "phantom_cases", lambda *_, **__: [])
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, no_phantoms):
    folder = tmp_path_factory.mktemp(MODEL)
    store = ModelStore(folder / MODEL)
    return store, teach(folder, store)


def test_a_version_has_what_learned_and_knows_the_word(trained):
    store, report = trained
    card = read_card(store.folder(1))
    assert report.version == 1
    assert WORD in card.words
    assert card.learned == (WORD,)
    names = set(load_checkpoint(store.folder(1)).tensors)
    parts = {".".join(name.split(".")[1:3]) for name in names if name.startswith("network.")}
    assert {part for part in parts if not part.startswith(("regular", "semantic"))} == {
        "clip.model", "sam.mask_decoder", "sam.prompt_encoder",
    }  # fmt: skip
    assert [name for name in names if ".clip." in name] == ["network.clip.model.token_embedding.weight"]
    model = load_segmenter(MODEL, device="cpu", weights=store.folder(1))
    (prompt,) = parse_prompts(WORD)
    assert bool(model.encode_prompts([prompt]).known.all())
    assert not model.judges_presence(prompt)


def test_frozen_parts_of_a_version_are_those_of_the_bundled_weights(trained):
    store, _ = trained
    taught = load_segmenter(MODEL, device="cpu", weights=store.folder(1)).state_dict()
    bundled = load_segmenter(MODEL, device="cpu").state_dict()
    changed = {
        name
        for name in bundled
        if taught[name].shape != bundled[name].shape or (taught[name] != bundled[name]).any()
    }
    assert changed
    learning = (*CLIPGuidedSAMTrainee.learned_parts, "network.clip.model.token_embedding")
    assert all(name.startswith(learning) for name in changed)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(trained, tmp_path):
    store, _ = trained
    first = load_checkpoint(store.folder(1)).tensors
    for number, seed in ((1, 1), (2, 2)):
        again = ModelStore(tmp_path / str(seed) / MODEL)
        teach(tmp_path / str(number), again, seed=seed)
        tensors = load_checkpoint(again.folder(1)).tensors
        same = all(torch.equal(first[name], tensors[name]) for name in first)
        assert same is (seed == 1)


def test_the_small_recipe_is_the_usual_one_of_tiny_only():
    assert recipe_names(MODEL, "tiny")[:2] == ["small", "paper"]
    assert recipe_names(MODEL, "vit_b")[0] == "paper"


def test_shares_above_all_pairs_are_refused():
    with pytest.raises(RequestError, match="together at most 1"):
        GuidedRecipe.load("small", word_only=0.7, clicks_only=0.4)


def rows(model, count: int = 4) -> list[PairRow]:
    """Slices of two sizes that show a square of "liver" or nothing."""
    found = []
    for number in range(count):
        pixels = torch.rand(1, 3, 60, 50 if number < count // 2 else 60)
        key = SliceKey("b" * 64, "axial", number)
        features = store_slice(model.encode_slices(pixels, [key]), 0)
        target = torch.zeros(80, 80)
        target[20:60, 30:50] = number % 2
        found.append(PairRow(key, features, pixels[0], "liver", target))
    return found


def test_only_adapters_prompts_and_decoder_learn_and_the_loss_falls():
    model = random_clip_guided_sam()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = GuidedRecipe.load("small", rate=3e-3, presence_weight=0.1)
    trainee = CLIPGuidedSAMTrainee(model, recipe, ["liver"])
    optimizer = torch.optim.AdamW(trainee.parameter_groups())
    batch, losses = rows(model), []
    for step in range(10):
        found = trainee(batch, seed=step)
        assert set(found) == {"loss", "mask", "presence"}
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(float(found["mask"].detach()))
    assert np.mean(losses[-3:]) < 0.9 * losses[0]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    for part in CLIPGuidedSAMTrainee.learned_parts:
        assert any(name.startswith(part) for name in changed)
    assert all(name.startswith(CLIPGuidedSAMTrainee.learned_parts) for name in changed)


def test_every_step_draws_by_its_seed():
    model = random_clip_guided_sam()
    trainee = CLIPGuidedSAMTrainee(model, GuidedRecipe.load("small"), ["liver"])
    batch = rows(model)
    losses = [float(trainee(batch, seed=seed)["loss"].detach()) for seed in (5, 5, 6)]
    assert losses[0] == losses[1] != losses[2]
    assert set(trainee(batch, seed=5)) == {"loss", "mask"}  # the scores of presence stay as they are


def test_a_training_sees_what_a_request_sees():
    """Features from the cache, pixels anew: the mask of the word alone is the same as at inference."""
    model = random_clip_guided_sam()
    batch = rows(model)[:2]
    trainee = CLIPGuidedSAMTrainee(
        model, GuidedRecipe.load("small", word_only=1.0, clicks_only=0.0), ["liver"]
    )
    (prompt,) = parse_prompts("liver")
    slices = model.encode_slices(torch.stack([row.pixels for row in batch]), [row.key for row in batch])
    expected = model(slices, model.encode_prompts([prompt])).logits
    texts = trainee.texts(["liver"])
    logits, _, presence = trainee._draw(batch, {"liver": 0}, texts, torch.Generator().manual_seed(1))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert presence.shape == (2,)


def guided_pairs(model, count: int):
    keys = [SliceKey("c" * 64, "axial", number) for number in range(count)]
    torch.manual_seed(4)
    slices = model.encode_slices(torch.rand(count, 3, 60, 60), keys)
    return model.guide(slices, KnownTexts(model)(["liver"]), torch.tensor([[n, 0] for n in range(count)]))


def test_pairs_are_prompted_in_the_stated_shares(monkeypatch):
    model = random_clip_guided_sam()
    guided, truth = guided_pairs(model, 1).only(torch.zeros(40, dtype=torch.long)), torch.zeros(40, 80, 80)
    truth[:, 20:60, 30:50] = 1
    asked = {}

    def remember(draw, masks, targets, counts):
        asked.update(masks=masks, counts=counts)
        return torch.zeros(len(masks), 0, 2), torch.zeros(len(masks), 0)

    monkeypatch.setattr(guided_prompts, "corrective_clicks", remember)
    shares, generator = PromptShares(word=0.4, clicks=0.3, most=3), torch.Generator().manual_seed(2)
    draw_prompted(model, guided, truth, shares, generator)
    empty = ~asked["masks"].flatten(1).any(1)
    clicked = asked["counts"] > 0
    assert int((~clicked).sum()) == pytest.approx(16, abs=6)
    assert int((clicked & empty).sum()) == pytest.approx(12, abs=6)
    assert set(asked["counts"].tolist()) == {0, 1, 2, 3}


def test_a_pair_is_drawn_with_its_own_clicks_whatever_others_get():
    model = random_clip_guided_sam()
    guided = guided_pairs(model, 3)
    places = torch.tensor([[[10, 12], [40, 41]], [[0, 0], [0, 0]], [[33, 20], [0, 0]]]).float()
    labels = torch.tensor([[1, 0], [-1, -1], [0, -1]])
    together = draw_clicked(model, guided, places, labels)
    for row, count in enumerate((2, 0, 1)):
        part = guided.only(torch.tensor([row]))
        alone = draw_clicked(model, part, places[row : row + 1, :count], labels[row : row + 1, :count])
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_papers_sum_smoothed_for_empty_masks():
    logits, masks = torch.full((2, 4, 4), -30.0), torch.zeros(2, 4, 4)
    masks[0, :2, :2] = 1
    logits[0, :2, :3] = 30.0  # 6 marked, 4 true, 4 of both
    dice, iou = 1 - (2 * 4 + 1) / (6 + 4 + 1), 1 - (2 * 4 + 1) / (2 * 6 + 1)
    wrong = 2 * 30 / 32  # two of 32 pixels
    assert float(mask_and_iou_loss(logits, masks)) == pytest.approx(wrong + (dice + iou) / 2, rel=1e-4)
    assert float(mask_and_iou_loss(logits[1:], masks[1:])) == pytest.approx(0, abs=1e-6)
