"""A whole tuning at tiny size: learned, judged, published, served, killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.public_files import biomed_config, make_biomed_folder
from tests.support.captioned_pictures import write_pairs
from transformers import BertConfig

from wordmask.encoders.configs import ClipConfig
from wordmask.errors import CancelledError, RequestError
from wordmask.learning.captions import CaptionList, ImageCaption, read_caption_list
from wordmask.learning.clip_tuning import run as module
from wordmask.learning.clip_tuning.embedding import start_clip
from wordmask.learning.clip_tuning.epochs import CHECKPOINT
from wordmask.learning.clip_tuning.recipe import TuneRecipe
from wordmask.learning.clip_tuning.run import TuneReport
from wordmask.learning.training import TrainingRequest, find_training
from wordmask.models.loading import load_segmenter
from wordmask.models.medclip_samv2.model import MedCLIPSAMv2
from wordmask.models.registry import load_preset
from wordmask.progress import CancelToken
from wordmask.weights.checkpoint import load_checkpoint, read_card
from wordmask.weights.versions import ModelStore

MODEL = "medclip_samv2"

QUICK = {"epochs": 3, "batch": 12, "learning_rate": 1e-3, "held_out": 0.3}
HOPELESS = {"epochs": 1, "learning_rate": 1e-12}


def ask(*, force: bool = False, start: int | None = None, **changes) -> TrainingRequest:
    return TrainingRequest(
        model=MODEL,
        preset="tiny",
        recipe=TuneRecipe.load("tiny", **{**QUICK, **changes}),
        device="cpu",
        start=start,
        force=force,
    )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> CaptionList:
    return read_caption_list(write_pairs(tmp_path_factory.mktemp("pairs"), 48), least_characters=20)


@pytest.fixture(scope="module")
def tuned(
    tmp_path_factory: pytest.TempPathFactory, pairs: CaptionList
) -> tuple[ModelStore, TuneReport, Path]:
    folder = tmp_path_factory.mktemp("store")
    store = ModelStore(folder / MODEL)
    return store, find_training(MODEL).run(pairs, ask(), store, run_folder=folder / "run"), folder / "run"


# --- the whole


def test_retrieval_rises_and_a_version_of_clip_alone_is_published(tuned, pairs):
    store, report, run = tuned
    assert report.version == store.served() == 1
    assert report.after.top1 > report.before.top1
    assert report.training_pairs + report.after.pairs == len(pairs.pairs)
    bundle = load_checkpoint(store.folder(1))
    assert {name.split(".")[0] for name in bundle.tensors} == {"clip", "scores"}
    assert "clip.model.logit_scale" not in bundle.tensors  # the temperature is fixed, so this did not change
    assert bundle.card.retrieval.after.model_dump() == report.after.summary()
    assert bundle.card.as_json()["recipe"]["loss"] == "dhn_nce"
    assert list(run.iterdir()) == []


def test_a_version_is_laid_over_the_weights_of_the_preset(tuned):
    store, report, _ = tuned
    own, served = (
        load_segmenter(MODEL, device="cpu"),
        load_segmenter(MODEL, device="cpu", weights=store.folder(1)),
    )
    tensors = load_checkpoint(store.folder(1)).tensors
    now = served.state_dict()
    assert all(torch.equal(now[name], value) for name, value in tensors.items())
    assert all(
        torch.equal(now[name], value) for name, value in own.state_dict().items() if name.startswith("sam.")
    )
    assert served.trained_words == own.trained_words
    assert served.fingerprint != own.fingerprint
    assert "disc" not in own.trained_words
    assert own.preset.presence is not None
    assert (
        (served.preset.presence is not None)
        == report.presence.holds
        == read_card(store.folder(1)).presence.holds
    )


def test_what_is_served_is_what_was_measured(tuned, pairs):
    store, report, _ = tuned
    served = load_segmenter(MODEL, device="cpu", weights=store.folder(1))
    model = start_clip(load_preset(MODEL, "tiny"), store.folder(1), ())
    assert model.clip.fingerprint() == served.clip.fingerprint()
    again = find_training(MODEL).run(pairs, ask(**HOPELESS), store, run_folder=store.path.parent / "again")
    assert again.parent == 1
    assert again.before == report.after


def test_a_tuning_that_does_not_help_is_refused_unless_forced_and_can_be_taken_back(tuned, pairs, tmp_path):
    store = ModelStore(shutil.copytree(tuned[0].path, tmp_path / "store"))
    report = find_training(MODEL).run(pairs, ask(**HOPELESS), store, run_folder=tmp_path / "run")
    assert report.version is None
    assert "did not help" in report.message
    assert len(store.versions()) == 1
    epochs: list[int] = []
    tell = lambda progress: epochs.append(progress.done) if progress.loss is not None else None  # noqa: E731
    forced = find_training(MODEL).run(
        pairs, ask(**HOPELESS, force=True), store, run_folder=tmp_path / "run", report=tell
    )
    assert (forced.version, forced.parent, epochs) == (2, 1, [])  # nothing is trained again to be published
    inherited = load_checkpoint(store.folder(2)).tensors  # what differs from the preset, not from version 1
    assert inherited.keys() == load_checkpoint(store.folder(1)).tensors.keys()
    assert (store.rollback(), store.rollback()) == (1, None)
    with pytest.raises(RequestError, match="no version 7"):
        find_training(MODEL).run(pairs, ask(start=7), store, run_folder=tmp_path / "run")


def test_long_captions_are_mentioned_and_not_called_left_out(pairs, tmp_path):
    long = [replace(pair, caption=" ".join([pair.caption] * 30)) for pair in pairs.pairs]
    report = find_training(MODEL).run(
        CaptionList(tuple(long)), ask(**HOPELESS), ModelStore(tmp_path / MODEL), run_folder=tmp_path / "run"
    )
    assert report.cut == len(long)
    assert f"{len(long)} captions reach the limit of the text tower" in report.message
    assert report.skipped == []


def test_the_recipe_chooses_the_loss(pairs, tmp_path):
    learned = []
    for loss in ("dhn_nce", "info_nce"):
        store = ModelStore(tmp_path / loss)
        find_training(MODEL).run(
            pairs, ask(epochs=1, loss=loss, force=True), store, run_folder=tmp_path / "run"
        )
        learned.append(load_checkpoint(store.folder(1)).tensors["clip.model.visual.proj"])
    assert not torch.equal(*learned)


def test_too_few_pairs_and_equal_captions_are_said(pairs, tmp_path):
    store = ModelStore(tmp_path / "store")
    few, alike = (
        CaptionList(pairs.pairs[:1]),
        CaptionList(tuple(pair for pair in pairs.pairs if pair.caption == pairs.pairs[0].caption)),
    )
    one_group = CaptionList(
        tuple(ImageCaption(p.image, p.caption, p.source, "anna") for p in pairs.pairs[:6])
    )
    for asked, message in ((few, "too few"), (alike, "say the same"), (one_group, "one group")):
        with pytest.raises(RequestError, match=message):
            find_training(MODEL).run(asked, ask(), store, run_folder=tmp_path / "run")
    with pytest.raises(RequestError, match="temperature"):
        TuneRecipe.load("tiny", temperatur=1)
    with pytest.raises(RequestError, match="Did you mean 'paper'"):
        TuneRecipe.load("papr")
    assert store.versions() == []


# --- killed and resumed

KILLED = """
import json, os, signal, sys
from pathlib import Path
from wordmask.learning.captions import read_caption_list
from wordmask.learning.training import TrainingRequest, find_training
from wordmask.learning.clip_tuning.recipe import TuneRecipe
from wordmask.weights.versions import ModelStore
def report(progress):
    if progress.stage == "tuning" and progress.done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
pairs, folder = read_caption_list(Path(sys.argv[1]), least_characters=20), Path(sys.argv[2])
recipe = TuneRecipe.load("tiny", **json.loads(sys.argv[3]))
asked = TrainingRequest(model="medclip_samv2", preset="tiny", recipe=recipe, device="cpu")
store = ModelStore(folder / "store")
find_training(asked.model).run(pairs, asked, store, run_folder=folder / "run", report=report)
"""


def test_a_killed_run_goes_on_and_ends_with_the_weights_of_one_that_was_not(tuned, pairs, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    listed = pairs.pairs[0].image.parent / "pairs.csv"
    arguments = [str(listed), str(tmp_path), json.dumps(QUICK)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(f"run/*/{CHECKPOINT}"))) == 1
    store, epochs = ModelStore(tmp_path / "store"), []
    find_training(MODEL).run(
        pairs,
        ask(),
        store,
        run_folder=tmp_path / "run",
        report=lambda p: epochs.append(p.done) if p.loss is not None else None,
    )
    assert epochs == [3]
    once, again = (load_checkpoint(s.folder(1)).tensors for s in (tuned[0], store))
    assert once.keys() == again.keys()
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_a_damaged_checkpoint_and_another_recipe_start_anew(pairs, tmp_path):
    def run(**changes) -> list[int]:
        cancel, epochs = CancelToken(), []

        def report(progress) -> None:
            if progress.loss is not None:
                epochs.append(progress.done)
                cancel.cancel()

        with pytest.raises(CancelledError):
            find_training(MODEL).run(
                pairs,
                ask(**changes),
                ModelStore(tmp_path / "store"),
                run_folder=tmp_path / "run",
                report=report,
                cancel=cancel,
            )
        return epochs

    assert (run(), run()) == ([1], [2])
    assert run(seed=2) == [1]
    (path,) = (
        path for path in tmp_path.glob(f"run/*/{CHECKPOINT}") if b'"epoch":"2"' in path.read_bytes()[:2000]
    )
    path.write_bytes(path.read_bytes()[:5000])
    assert run() == [1]


# --- public weights


def test_both_towers_of_a_public_clip_learn_and_a_run_that_was_cancelled_goes_on(
    pairs, tmp_path, monkeypatch
):
    # With dropout.
    bert = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    torch.manual_seed(1)
    captions = ("liver", "left kidney", "right kidney", "longer description")
    public = make_biomed_folder(tmp_path / "clip", captions, biomed_config("test_vit", 160, 24), bert)
    preset = load_preset(MODEL, "tiny").model_copy(
        update={"clip": ClipConfig(source=f"local-dir:{public.path}"), "weights": None, "presence": None}
    )
    monkeypatch.setattr(module, "load_preset", lambda *_: preset)
    few = CaptionList(
        tuple(
            ImageCaption(pair.image, caption, pair.source, pair.group)
            for pair, caption in zip(pairs.pairs, captions * 3, strict=False)
        )
    )
    tensors = []
    for name in ("once", "again"):
        store, cancel = ModelStore(tmp_path / name), CancelToken()

        def report(progress, token=cancel):
            if progress.done == 1 and progress.loss is not None:
                token.cancel()

        if name == "again":
            with pytest.raises(CancelledError):
                find_training(MODEL).run(
                    few,
                    ask(epochs=2, force=True),
                    store,
                    run_folder=tmp_path / "run",
                    report=report,
                    cancel=cancel,
                )
        find_training(MODEL).run(few, ask(epochs=2, force=True), store, run_folder=tmp_path / "run")
        tensors.append(load_checkpoint(store.folder(1)).tensors)
    assert any(name.startswith("clip.model.visual.") for name in tensors[0])
    assert any(name.startswith("clip.model.text.transformer.encoder.") for name in tensors[0])
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    served = MedCLIPSAMv2.from_preset(preset, tmp_path / "once" / "versions" / "1").state_dict()
    assert all(torch.equal(served[name], value) for name, value in tensors[0].items())
