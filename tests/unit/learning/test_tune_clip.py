"""A whole tuning at tiny size: learned, judged, published, served, killed and resumed.

And its parts against hand-made cases.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.public_files import biomed_config, make_biomed_folder
from tests.support.captioned_pictures import write_pairs
from tests.support.labelled_pictures import write_case
from transformers import BertConfig

from wordmask.cli import main
from wordmask.encoders.configs import ClipConfig
from wordmask.errors import CancelledError, RequestError, VolumeError
from wordmask.learning.captions import CaptionList, ImageCaption, read_caption_list
from wordmask.learning.clip_tuning import run as module
from wordmask.learning.clip_tuning.batches import epoch_batches, store_pictures
from wordmask.learning.clip_tuning.epochs import CHECKPOINT
from wordmask.learning.clip_tuning.presence_fit import fit_presence
from wordmask.learning.clip_tuning.recipe import TuneRecipe
from wordmask.learning.clip_tuning.retrieval import retrieval
from wordmask.learning.clip_tuning.run import TuneReport, start_clip
from wordmask.learning.training import TrainingRequest, find_training
from wordmask.models.loading import load_segmenter
from wordmask.models.medclip_samv2.model import MedCLIPSAMv2
from wordmask.models.registry import load_preset
from wordmask.models.word_scores import WordScores
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
    few = CaptionList(tuple(
        ImageCaption(pair.image, caption, pair.source, pair.group)
        for pair, caption in zip(pairs.pairs, captions * 3, strict=False)
    ))  # fmt: skip
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


# --- the parts


def test_retrieval_of_a_hand_computed_case():
    scores = torch.tensor(
        [[3.0, 2.0, 1.0, 0.0], [4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 5.0, 6.0], [9.0, 8.0, 7.0, 6.5]]
    )
    image, text = scores, torch.eye(4)
    found = retrieval(image, text, "abcd", "wxyz")  # every pair meets all others: fewer than fifty
    # rivals that score as high: rows 0, 1, 1, 3; columns [3 4 0 9], [2 3 0 8], [1 2 5 7], [0 1 6 6.5]: 2, 1,
    # 1, 0
    assert (found.image_to_text_top1, found.image_to_text_top2) == (0.25, 0.75)
    assert (found.text_to_image_top1, found.text_to_image_top2) == (0.25, 0.75)
    assert found.top1 == 0.25
    # The same caption twice: the second row is right with the first text.
    alike = retrieval(image, text, "aacd", "wxyz")
    assert alike.image_to_text_top1 == 0.5
    assert retrieval(image, text, "abcd", "wxyy").image_to_text_top1 == 0.5  # a picture twice
    # An encoder that says the same of everything.
    assert retrieval(torch.ones(4, 2), torch.ones(4, 2), "abcd", "wxyz").top1 == 0


def test_a_pair_that_is_left_over_is_asked_among_as_many_rivals_as_the_others():
    image, text, names = -torch.eye(11), torch.eye(11), range(11)  # each is least like its own
    found = retrieval(image, text, names, names, batch=10)
    # A single pair would always be right.
    assert (found.image_to_text_top1, found.text_to_image_top2, found.pairs) == (0, 0, 11)
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 51, 4, generator=generator)
    assert retrieval(image, text, range(51), range(51)) == retrieval(image, text, range(51), range(51))


def test_equal_captions_and_equal_pictures_never_meet_and_batches_are_as_large_as_they_can_be():
    captions = ["liver"] * 20 + ["spleen"] * 5 + [f"finding {n}" for n in range(31)]
    pictures = [*range(54), 0, 25]  # the last two pairs are second captions of pictures
    seen = set()
    for epoch in range(12):
        batches = epoch_batches(captions, pictures, batch=8, seed=1, epoch=epoch)
        for rows in batches:
            assert 2 <= len(rows) <= 8
            assert len({captions[row] for row in rows}) == len({pictures[row] for row in rows}) == len(rows)
        used = [row for rows in batches for row in rows]
        assert len(used) == len(set(used))
        seen |= set(used)
    assert seen == set(range(56))
    distinct = epoch_batches(range(64), range(64), batch=16, seed=1, epoch=0)
    assert [len(rows) for rows in distinct] == [16] * 4
    assert distinct != epoch_batches(range(64), range(64), batch=16, seed=1, epoch=1)
    assert epoch_batches(["same"] * 4, range(4), batch=2, seed=1, epoch=0) == []


def test_pictures_are_kept_as_bytes_and_an_image_that_is_broken_leaves_nothing(pairs, tmp_path):
    def store(listed, name):
        return store_pictures(tmp_path / name, listed, 32, (), lambda *_: None, CancelToken())

    kept = store(pairs.pairs[:3], "pictures.npy")
    assert isinstance(kept, np.memmap)
    assert (kept.shape, kept.dtype) == ((3, 3, 32, 32), np.uint8)
    assert kept[0, :, 0].max() == 0  # the padding of a picture that is wider than high
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(VolumeError, match=r"line 9 of list\.csv"):
        store(
            [*pairs.pairs[:3], ImageCaption(tmp_path / "broken.png", "x", "line 9 of list.csv", "x")],
            "other.npy",
        )
    assert not (tmp_path / "other.npy").exists()


def test_presence_keeps_its_meaning_where_cosines_moved_and_gives_up_where_they_are_lost():
    generator = torch.Generator().manual_seed(1)
    before, scores = torch.rand(60, 9, generator=generator) * 2 - 1, WordScores(presence=(7.0, -2.0))
    wanted = scores.presence(before).detach()
    fit = fit_presence(scores, before, 0.25 * before + 0.6, -4.0)
    torch.testing.assert_close(scores.presence(0.25 * before + 0.6), wanted, atol=1e-2, rtol=1e-3)
    assert fit.holds
    assert fit.agreement > 0.99
    lost = fit_presence(
        WordScores(presence=(7.0, -2.0)), before, torch.rand(60, 9, generator=generator), -4.0
    )
    assert not lost.holds


# --- the command


def test_the_command_tunes_on_a_list_tells_and_publishes(tmp_path, capsys):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").touch()
    listed = write_pairs(tmp_path, 24)
    with listed.open("a", encoding="utf-8") as file:
        file.write("0.png,too short\n")
    common = [
        "--app",
        str(tmp_path / "app"),
        "--run",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--set",
        "batch=8",
    ]
    assert main(["train", "--model", MODEL, str(listed), *common, "--set", "epochs=1", "--force"]) == 0
    told = capsys.readouterr()
    assert "picture of a caption, first" in told.out
    assert "Version 1 is published" in told.out
    assert "Left out: 1 captions of fewer than 20 characters" in " ".join(told.err.split())
    assert main(["models", "list", "--app", str(tmp_path / "app"), "--model", MODEL]) == 0
    assert "retrieval 0." in capsys.readouterr().out
    assert main(["models", "rollback", "--app", str(tmp_path / "app"), "--model", MODEL]) == 0
    for arguments, message in (
        ([str(tmp_path / "none.csv")], "no file none.csv"),
        ([str(listed), "--set", "epochs"], "NAME=VALUE"),
        ([str(listed), "--recipe", "tinny"], "Did you mean 'tiny'"),
        ([str(tmp_path)], "--word"),
    ):
        assert main(["train", "--model", MODEL, *arguments, *common]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_the_command_writes_captions_of_labelled_cases(tmp_path, capsys):
    (tmp_path / "main.py").touch()
    for number in range(1, 5):
        write_case(tmp_path, number)
    entries = ", ".join(
        f'{{"image": "picture_{n}.png", "label": "label_{n}.png", "names": {{"{word}": 1}}}}'
        for n, word in enumerate(("polyp", "skin lesion", "breast tumor", "liver"), start=1)
    )
    (tmp_path / "cases.json").write_text(f"[{entries}]", encoding="utf-8")
    arguments = [
        "--app",
        str(tmp_path),
        "--run",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--set",
        "epochs=1",
        "--force",
    ]
    assert main(["train", "--model", MODEL, str(tmp_path / "cases.json"), *arguments]) == 0
    card = read_card(tmp_path / "model" / MODEL / "versions" / "1")
    assert card.as_json()["training_pairs"] == 3
    capsys.readouterr()
