"""A whole training at tiny size: a word that nobody trained is learned, published, served bit for bit,
refused, rolled back.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support.labelled_pictures import WORD, write_case

from wordmask.errors import CancelledError, RequestError
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.cases import Case
from wordmask.learning.finetuning import run as finetune
from wordmask.learning.recipes import Recipe
from wordmask.learning.schedules import warm_up_share
from wordmask.learning.training import TrainingReport, TrainingRequest, find_training
from wordmask.models.loading import load_segmenter
from wordmask.progress import CancelToken
from wordmask.weights.checkpoint import checkpoint_folder, load_checkpoint, read_card
from wordmask.weights.versions import ModelStore, weights_digest

pytestmark = pytest.mark.usefixtures("few_phantoms")

MODEL = "simple_vilmedsam"
QUICK = {
    "epochs": 6,
    "views": 2,
    "steps_per_epoch": 8,
    "validate_every": 2,
    "validation": 0.3,
    "decoder_rate": 1e-3,
    "replay": 0.25,
}


def ask(**changes) -> TrainingRequest:
    force = changes.pop("force", False)
    return TrainingRequest(
        model=MODEL,
        preset="tiny",
        recipe=Recipe.load("decoder", **{**QUICK, **changes}),
        device="cpu",
        force=force,
    )


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("cases")
    return [write_case(folder, seed) for seed in range(8)] + [write_case(folder, 50, empty=True)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cases: list[Case]) -> tuple[ModelStore, TrainingReport]:
    folder = tmp_path_factory.mktemp("store")
    store = ModelStore(folder / MODEL)
    return store, find_training(MODEL, "decoder").run(cases, ask(), store, run_folder=folder / "run")


def test_a_word_that_no_weights_have_met_is_learned_and_published(trained, cases):
    store, report = trained
    assert report.version == store.served() == 1
    assert report.mean_before is not None
    assert report.mean is not None
    assert report.mean > max(0.4, report.mean_before)
    card = read_card(store.folder(1))
    assert WORD in card.words
    assert "liver" in card.words
    assert sorted(card.training_cases + card.validation_cases) == sorted(case.name for case in cases)
    assert card.parent is None
    assert card.validation_dice == report.dice


def test_the_file_holds_only_what_was_trained(trained):
    names = load_checkpoint(trained[0].folder(1)).tensors
    assert not [name for name in names if "visual" in name or name.startswith("sam.")]
    assert [name for name in names if name.startswith("decoder.")]


def test_what_is_served_gives_the_masks_that_were_measured(trained, cases):
    store, report = trained
    served = VolumeSegmenter(load_segmenter(MODEL, device="cpu", weights=store.folder(1)))
    for case in (case for case in cases if case.name in report.validation_cases):
        read = case.read()
        result = served.segment(read.volume, [WORD])
        score = finetune.validate(served.segmenter, [read]).mean
        assert score == pytest.approx(report.dice[WORD]) or len(report.validation_cases) > 1
        assert WORD not in result.not_found or not read.masks[WORD].any() or score < 0.05


def test_an_old_word_is_found_as_before_by_its_presence(trained, tmp_path):
    old, new = (
        load_segmenter(MODEL, device="cpu"),
        load_segmenter(MODEL, device="cpu", weights=trained[0].folder(1)),
    )
    words = sorted(old.trained_words)
    with torch.no_grad():
        moved = (old.clip.encode_text(words) * new.clip.encode_text(words)).sum(1)
    assert moved.min() > 0.97  # cosine: held in place while a new word was learned


def test_a_run_that_does_not_help_is_refused_and_every_run_starts_from_what_serves(
    trained, cases, tmp_path, monkeypatch
):
    store, _ = trained
    started: list[dict[str, torch.Tensor]] = []
    training = find_training(MODEL, "decoder")
    real = training.start_trainee

    def spy(*arguments):
        trainee = real(*arguments)
        started.append(trainee.state())
        return trainee

    monkeypatch.setattr(training, "start_trainee", spy)
    hopeless = ask(
        decoder_rate=1e-12, text_rate=1e-12, epochs=1, views=1, replay=0, steps_per_epoch=1, weight_decay=0
    )
    report = find_training(MODEL, "decoder").run(cases, hopeless, store, run_folder=tmp_path / "run")
    assert report.version is None
    assert "did not help" in report.message
    assert store.served() == 1
    assert report.start_sha256 == store.versions()[0].card.weights_sha256
    served = load_checkpoint(store.folder(1)).tensors
    assert served.keys() == started[-1].keys()
    assert all(torch.equal(served[name], started[-1][name]) for name in served)
    store.rollback()
    try:
        report = find_training(MODEL, "decoder").run(cases, hopeless, store, run_folder=tmp_path / "again")
        assert (
            report.start_sha256
            == weights_digest(checkpoint_folder("bundled/simple_vilmedsam_tiny"))
            is not None
        )
        own = load_checkpoint("bundled/simple_vilmedsam_tiny").tensors
        assert all(
            torch.equal(own[name], tensor)
            for name, tensor in started[-1].items()
            if name.startswith("decoder.")
        )
    finally:
        store.rollback(1)


def test_the_same_seed_gives_the_same_weights(cases, tmp_path):
    small = {"epochs": 1, "steps_per_epoch": 2, "force": True}
    states = []
    for name in ("one", "two"):
        store = ModelStore(tmp_path / name)
        find_training(MODEL, "decoder").run(
            cases[:3], ask(**small), store, run_folder=tmp_path / f"run_{name}"
        )
        states.append(load_checkpoint(store.folder(1)).tensors)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_low_rank_parts_are_trained_kept_apart_and_merged_when_they_serve(cases, tmp_path):
    store = ModelStore(tmp_path / "store")
    find_training(MODEL, "decoder").run(
        cases[:3],
        ask(epochs=1, steps_per_epoch=2, lora_rank=2, lora_rate=1e-2, force=True),
        store,
        run_folder=tmp_path / "run",
    )
    tensors = load_checkpoint(store.folder(1)).tensors
    assert tensors["lora.blocks.0.q.B"].abs().max() > 0
    model = load_segmenter(MODEL, device="cpu", weights=store.folder(1))
    assert model.fingerprint != load_segmenter(MODEL, device="cpu").fingerprint
    assert isinstance(model.sam.image_encoder.blocks[0].attn.qkv, torch.nn.Linear)
    report = find_training(MODEL, "decoder").run(
        cases[:3], ask(epochs=1, steps_per_epoch=1, force=True), store, run_folder=tmp_path / "run2"
    )
    assert report.parent == 1
    assert torch.equal(
        load_checkpoint(store.folder(2)).tensors["lora.blocks.0.q.B"], tensors["lora.blocks.0.q.B"]
    )


def test_too_few_cases_and_nothing_to_learn_are_said(cases, tmp_path):
    store = ModelStore(tmp_path / "store")
    with pytest.raises(RequestError, match="no labelled case"):
        find_training(MODEL, "decoder").run([], ask(), store, run_folder=tmp_path / "run")
    with pytest.raises(RequestError, match="label another one"):
        find_training(MODEL, "decoder").run(cases[:1], ask(), store, run_folder=tmp_path / "run")
    with pytest.raises(RequestError, match="nothing to learn"):
        find_training(MODEL, "decoder").run([cases[-1]], ask(force=True), store, run_folder=tmp_path / "run")
    assert store.versions() == []


def test_a_case_that_cannot_be_read_is_left_out_and_named(cases, tmp_path):
    broken = replace(cases[0], name="broken", label=tmp_path / "missing.png")
    report = find_training(MODEL, "decoder").run(
        [*cases[:3], broken],
        ask(epochs=1, steps_per_epoch=1, force=True),
        ModelStore(tmp_path / "store"),
        run_folder=tmp_path / "run",
    )
    assert [sentence.split(":")[0] for sentence in report.skipped] == ["broken"]


def test_a_cancelled_training_publishes_nothing(cases, tmp_path):
    cancel, store = CancelToken(), ModelStore(tmp_path / "store")
    with pytest.raises(CancelledError):
        find_training(MODEL, "decoder").run(
            cases,
            ask(force=True),
            store,
            run_folder=tmp_path / "run",
            cancel=cancel,
            report=lambda progress: cancel.cancel() if progress.stage == "training" else None,
        )
    assert store.versions() == []


def test_a_wrong_recipe_says_what_is_wrong():
    for changes, message in (
        ({"epoch": 3}, "epochs"),
        ({"epochs": 0}, "epochs"),
        ({"batch": "many"}, "batch"),
    ):
        with pytest.raises(RequestError, match=message):
            Recipe.load("decoder", **changes)
    with pytest.raises(RequestError, match="Did you mean 'decoder'"):
        Recipe.load("decodr")


@pytest.mark.parametrize(("slices", "views"), [(1, 24), (20, 24), (48, 10), (240, 2), (5000, 2)])
def test_few_slices_are_seen_many_ways_and_many_slices_at_least_two(slices, views):
    assert Recipe.load("decoder").views_of_each(slices) == views
    assert Recipe.load("decoder", views=1).views_of_each(slices) == 1


@pytest.mark.parametrize(
    ("words", "fresh", "rate"),
    [
        (["liver"], False, 1e-5),
        (["liver", WORD], False, 1e-2),
        ([WORD], False, 1e-2),
        (["liver"], True, 1e-2),
    ],
)
def test_the_decoder_learns_slowly_where_the_weights_know_every_word(words, fresh, rate):
    recipe = Recipe.load("decoder", decoder_rate=1e-2, known_decoder_rate=1e-5, fresh_decoder=fresh)
    decoder, *_ = (
        find_training(MODEL, "decoder").start_trainee(MODEL, "tiny", None, recipe, words).parameter_groups()
    )
    assert decoder["lr"] == rate


def test_the_learning_rate_rises_and_falls_to_a_hundredth():
    rates = [warm_up_share(step, steps=100, warm_up=0.05) for step in range(101)]
    assert rates[0] < rates[3] < rates[5] == pytest.approx(1, abs=0.01)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[100] == pytest.approx(0.01)


def test_the_store_is_a_path_that_training_alone_writes(trained):
    assert {path.name for path in Path(trained[0].path).iterdir()} <= {"versions", "current.json", ".lock"}


def test_a_fresh_decoder_of_another_form_is_served_in_that_form(tmp_path, cases):
    store = ModelStore(tmp_path / MODEL)
    short = {"epochs": 1, "steps_per_epoch": 1, "force": True}
    asked = ask(fresh_decoder=True, ipp=False, bid=False, **short)
    report = find_training(MODEL, "decoder").run(cases[:3], asked, store, run_folder=tmp_path / "run")
    assert report.version == 1
    served = load_segmenter(MODEL, device="cpu", weights=store.folder(1))
    assert (served.decoder.preset.ipp, served.decoder.preset.bid) == (False, "none")
    again = find_training(MODEL, "decoder").run(cases[:3], ask(**short), store, run_folder=tmp_path / "run")
    assert (again.version, again.parent) == (2, 1)
    assert not load_segmenter(MODEL, device="cpu", weights=store.folder(2)).decoder.preset.ipp


def test_a_decoder_that_lacks_a_part_has_to_be_a_fresh_one():
    with pytest.raises(RequestError, match="fresh_decoder=true"):
        Recipe.load("decoder", ipp=False)
