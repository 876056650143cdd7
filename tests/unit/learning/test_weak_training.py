"""A whole weak training at smoke size.

published, served bit for bit, repeated by the server's task, and the same again.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monailabel.datastore.local import LocalDatastore
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from safetensors.torch import load_file
from tests.support.weak_images import WORD, draw_image

from wordmask.cli import main
from wordmask.errors import CancelledError, RequestError, TrainingError
from wordmask.learning.cases import Study
from wordmask.learning.training import TrainingProgress, TrainingReport, TrainingRequest, find_training
from wordmask.learning.weak.nnunet_run import MEMBERS, Order, environment, run_nnunet
from wordmask.learning.weak.recipe import WeakRecipe
from wordmask.models.base import SliceKey
from wordmask.models.loading import load_segmenter
from wordmask.progress import CancelToken
from wordmask.weights.card import Card, PresenceCheck
from wordmask.weights.checkpoint import checkpoint_folder, load_checkpoint, read_card, save_checkpoint
from wordmask.weights.versions import ModelStore
from wordmask.words.prompts import parse_prompts
from wordmask_app.tasks.trainers import WordMaskTrain

MODEL = "medclip_samv2_weak"

SMOKE = {"save_last": 1, "epochs": 4, "cycles": 2}  # of two epochs each: the rate differs between them
MINE = {"nnUNet_raw": "/mine/raw", "nnUNet_results": "/mine/results", "nnunet_wandb_enabled": "1"}


def ask(words: str | list[str] = WORD, **changes) -> TrainingRequest:
    force = changes.pop("force", False)
    return TrainingRequest(
        model=MODEL,
        preset="tiny",
        recipe=WeakRecipe.load("smoke", **{**SMOKE, **changes}),
        words=tuple(parse_prompts(words)),
        device="cpu",
        force=force,
    )


@dataclass
class Trained:
    store: ModelStore
    run: Path
    report: TrainingReport
    told: list[TrainingProgress]
    environment: tuple[dict[str, str], dict[str, str]]  # before and after


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    """Two patients with two pictures each, one of them labelled; two pictures of patients of their own."""
    folder = tmp_path_factory.mktemp("studies") / "images"
    of_patients = [
        draw_image(folder, seed, group="AB"[seed // 2], labelled=seed % 2 == 0) for seed in range(4)
    ]
    return [*of_patients, draw_image(folder, 4), draw_image(folder, 5)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, images: list[Study]) -> Trained:
    folder, told = tmp_path_factory.mktemp("store"), []
    store = ModelStore(folder / MODEL)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in MINE.items():
            patch.setenv(name, value)
        importlib.import_module("open_clip")  # which sets a variable
        before = dict(os.environ)
        report = find_training(MODEL).run(
            images, ask(force=True), store, run_folder=folder / "run", report=told.append
        )
        after = dict(os.environ)
    return Trained(store, folder / "run", report, told, (before, after))


def test_it_is_published_with_what_it_learned_and_from_what(trained):
    report, card = trained.report, read_card(trained.store.folder(1))
    assert report.version == trained.store.served() == 1
    assert card.words == (WORD,)
    assert (card.members, card.side, card.threshold, card.forced) == (2, 32, 0.5, True)
    assert card.as_json()["recipe"]["epochs"] == 4
    assert list(card.training_cases) == report.training_cases
    assert card.validation_dice == report.dice
    assert card.validation_dice_before == report.dice_before
    assert report.message.startswith("Version 1 is published and in use: mean Dice ")
    assert report.message.endswith("of the zero-shot masks on 1 labelled cases.")
    json.dumps(report.summary())


def test_no_patient_is_divided_between_learning_and_judging(trained, images):
    patient = {image.name: image.patient for image in images}
    learned, judged = (
        {patient[name] for name in names}
        for names in (trained.report.training_cases, trained.report.validation_cases)
    )
    assert learned
    assert judged
    assert not learned & judged
    # The unlabelled picture of the judge's patient is not learned from either.
    assert len(trained.report.training_cases) == 4


def test_progress_is_told_step_by_step(trained):
    stages = list(dict.fromkeys(progress.stage for progress in trained.told))
    assert stages == [
        "drawing zero-shot masks",
        "writing slices",
        "preparing slices",
        "training",
        "measuring the result",
    ]
    steps = [progress for progress in trained.told if progress.stage == "training"]
    assert [(step.done, step.total) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(step.loss is not None and np.isfinite(step.loss) for step in steps)


def test_the_users_settings_for_nnunet_are_neither_used_nor_changed(trained, tmp_path, monkeypatch):
    before, after = trained.environment
    assert after == before
    assert MINE.items() <= after.items()
    for name, value in MINE.items():
        monkeypatch.setenv(name, value)
    given = environment(tmp_path)
    assert not any(value.startswith("/mine") for value in given.values())
    assert "nnunet_wandb_enabled" not in given
    assert given["nnUNet_results"] == str(tmp_path / "results")
    assert not Path("/mine").exists()


def test_the_rates_that_nnunet_used_are_the_recipes(trained):
    log = (trained.run / "nnunet.log").read_text()
    used = [float(line.split()[-1]) for line in log.splitlines() if "Current learning rate" in line]
    assert used == [round(ask().recipe.rate_in(epoch), 5) for epoch in range(4)]
    assert used[0] == used[2] > used[1] == used[3]


def test_what_is_served_has_the_probabilities_of_nnunets_own_networks(trained):
    served = load_segmenter(MODEL, device="cpu", weights=trained.store.folder(1))
    slices = torch.rand(2, 3, 40, 28)
    features = served.encode_slices(slices, [SliceKey("0" * 64, "axial", number) for number in range(2)])
    plan, votes = read_card(trained.store.folder(1)).network, []
    for file in sorted((trained.run / MEMBERS).iterdir()):
        network = get_network_from_plans(
            plan["network_class"], plan["arguments"], plan["imported"], 3, 2, deep_supervision=True
        ).eval()
        network.load_state_dict(load_file(file), strict=False)
        with torch.no_grad():
            votes.append(network(features.frames["square"].to_model(slices))[0].softmax(1)[:, 1:])
    assert len(votes) == 2
    assert not torch.equal(votes[0], votes[1])
    torch.testing.assert_close(
        features.tensors["foreground"], torch.stack(votes).mean(0), rtol=1e-5, atol=1e-6
    )


def test_no_pickle_is_left_in_the_run_folder(trained):
    assert not [path for path in trained.run.rglob("*") if path.suffix in (".pth", ".pt")]


@pytest.fixture
def a_datastore(tmp_path: Path, images: list[Study]) -> LocalDatastore:
    """The same images and labels, as MONAI Label keeps them."""
    (tmp_path / "studies").mkdir()
    datastore = LocalDatastore(str(tmp_path / "studies"), extensions=["*.png"], auto_reload=False)
    for image in images:
        datastore.add_image(image.name, str(image.path), {"group": image.group} if image.group else {})
        if image.case:
            datastore.save_label(
                image.name, str(image.case.label), "final", {"label_info": [{"name": WORD, "idx": 1}]}
            )
    return datastore


def test_the_servers_task_learns_the_words_of_the_labels_and_gives_the_same_weights(
    trained, a_datastore, tmp_path
):
    store = ModelStore(tmp_path / "model" / MODEL)
    summary = WordMaskTrain(MODEL, "tiny", "cpu", store)(
        {"model": MODEL, "recipe": "smoke", **SMOKE, "force": True}, a_datastore
    )
    assert json.loads((store.path / "training.json").read_text())["state"] == "done"
    assert summary["version"] == 1
    assert not any((store.path / "runs").iterdir())
    here, there = (load_checkpoint(place.folder(1)).tensors for place in (trained.store, store))
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_the_servers_task_says_what_is_missing_or_cannot_be(tmp_path):
    (tmp_path / "studies").mkdir()
    datastore = LocalDatastore(str(tmp_path / "studies"), extensions=["*.png"], auto_reload=False)
    image = draw_image(tmp_path / "images", 1)
    datastore.add_image(image.name, str(image.path), {})
    task = WordMaskTrain(MODEL, "tiny", "cpu", ModelStore(tmp_path / MODEL))
    for request, sentence in (
        ({}, "name some, such as"),
        ({"words": WORD, "recipe": "tiny"}, "Recipes: paper, small, smoke"),
        ({"words": WORD, "epochs": 0}, "'epochs'"),
        ({"prompt": "flurbinator"}, "cannot draw masks of 'flurbinator'"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            task({"model": MODEL, **request}, datastore)
    assert "multi_gpu" not in task.config()


def test_a_word_that_is_nowhere_is_said(tmp_path):
    image = draw_image(tmp_path / "images", 1)
    with pytest.raises(RequestError, match="There is no image to learn from"):
        find_training(MODEL).run([], ask(), ModelStore(tmp_path / MODEL), run_folder=tmp_path / "run")
    with pytest.raises(RequestError, match="has a mask of 'bladder'"):
        find_training(MODEL).run(
            [image], ask("bladder"), ModelStore(tmp_path / MODEL), run_folder=tmp_path / "run"
        )


def test_the_teacher_is_the_version_that_serves(images, tmp_path):
    """One whose presence is never above its limit draws no mask; a version of another preset is not asked."""
    base = read_card(checkpoint_folder("bundled/simple_vilmedsam_tiny"))
    card = Card(words=base.words, token_ids=base.token_ids, presence=PresenceCheck(holds=True))
    teacher, unlabelled = (
        ModelStore(tmp_path / "medclip_samv2"),
        [replace(image, case=None) for image in images],
    )
    never = {"scores.presence_bias": torch.tensor(-1000.0)}
    teacher.publish(lambda folder: save_checkpoint(folder, never, card.model_copy(update={"preset": "tiny"})))
    with pytest.raises(RequestError, match="None of these images has a mask"):
        find_training(MODEL).run(unlabelled, ask(), ModelStore(tmp_path / MODEL), run_folder=tmp_path / "run")
    teacher.publish(
        lambda folder: save_checkpoint(folder, never, card.model_copy(update={"preset": "biomedclip_vit_b"}))
    )

    def stop(progress: TrainingProgress) -> None:
        if progress.stage == "writing slices":  # there are masks to write
            raise CancelledError("stopped")

    with pytest.raises(CancelledError, match="stopped"):
        find_training(MODEL).run(
            unlabelled, ask(), ModelStore(tmp_path / MODEL), run_folder=tmp_path / "again", report=stop
        )


def test_an_image_that_cannot_be_read_is_left_out_and_a_cancelled_training_publishes_nothing(
    images, tmp_path
):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    cancel, told, store = CancelToken(), [], ModelStore(tmp_path / MODEL)

    def report(progress: TrainingProgress) -> None:
        told.append(progress.stage)
        if progress.stage == "preparing slices":
            cancel.cancel()

    with pytest.raises(CancelledError):
        find_training(MODEL).run(
            [images[4], Study("broken", broken)],
            ask(),
            store,
            run_folder=tmp_path / "run",
            report=report,
            cancel=cancel,
        )
    assert "training" not in told
    assert store.versions() == []


def test_a_failure_of_nnunet_is_a_sentence_and_its_log_is_kept_in_ours(tmp_path, caplog):
    order = Order(recipe=ask().recipe, device="cpu", mirror=False)
    with pytest.raises(TrainingError, match="nnU-Net failed"):  # there is no data set
        run_nnunet(tmp_path, order, lambda *told: None, CancelToken())
    assert "dataset.json" in caplog.text


def test_the_command_says_what_is_wrong_and_leaves_no_run_folder(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").touch()
    folder, app = str(images[0].path.parent), str(tmp_path / "app")
    elsewhere = tmp_path / "cases.json"
    elsewhere.write_text(
        json.dumps(
            [{"image": str(images[0].case.label), "label": str(images[0].case.label), "names": {WORD: 1}}]
        )
    )
    for arguments, sentence in (
        (["--words", "flurbinator"], "cannot draw masks of 'flurbinator'"),
        (["--words", WORD, "--set", "cycles=3"], "cannot be divided"),
        (["--words", WORD, "--labels", str(elsewhere)], "not in the folder images"),
    ):
        assert (
            main(
                [
                    "train",
                    folder,
                    "--model",
                    MODEL,
                    "--app",
                    app,
                    "--recipe",
                    "smoke",
                    "--device",
                    "cpu",
                    *arguments,
                ]
            )
            == 2
        )
        assert sentence in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("wordmask-train-*"))


def test_volumes_and_sided_words_are_never_mirrored(images):
    from wordmask.learning.weak.pseudo_labels import SliceLabels
    from wordmask.learning.weak.run import _WeakTraining

    one = SliceLabels(images[0], Path(), {}, is_picture=True)
    for words, stack, mirror, may in (
        (["polyp"], one, "pictures", True),
        (["polyp"], one, "never", False),
        (["polyp", "left lung"], one, "pictures", False),
        (["polyp"], replace(one, is_picture=False), "pictures", False),
    ):
        training = _WeakTraining(
            ask(mirror=mirror), ModelStore(Path()), Path(), lambda _: None, CancelToken(), 0.0
        )
        training.words = words
        assert training._may_mirror([one, stack]) is may
