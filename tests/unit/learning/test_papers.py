"""The papers' experiments: what ships is sound, and a run works on small data sets of the same layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydantic import ValidationError
from tests.support.labelled_pictures import disc

from wordmask.cli import main
from wordmask.errors import RequestError
from wordmask.learning.cases import canonical_word
from wordmask.learning.evaluation.paper_runs import ProtocolRequest, run_protocol
from wordmask.learning.evaluation.papers import (
    Protocol,
    data_set,
    data_sets,
    load_protocol,
    protocol_names,
    require_folders,
)
from wordmask.learning.recipes import Recipe
from wordmask.weights.versions import ModelStore

QUICK = {"epochs": 1, "views": 1, "steps_per_epoch": 2, "batch": 4, "lora_rank": 0, "validation": 0.3}


def write_data_set(root: Path, name: str, *, train: int = 6, test: int = 2) -> None:
    """In the papers' layout: 255 where the thing is."""
    for part, seeds in (("train", range(train)), ("test", range(100, 100 + test))):
        folder = root / data_set(name).folder / part
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True)
        for seed in seeds:
            picture, mask = disc(seed)
            sitk.WriteImage(
                sitk.GetImageFromArray(picture, isVector=True), str(folder / "images" / f"{seed}.png")
            )
            sitk.WriteImage(
                sitk.GetImageFromArray((mask * 255).astype(np.uint8)), str(folder / "labels" / f"{seed}.png")
            )


def a_protocol(**changes) -> Protocol:
    run = {"label": "x", "train": ["isic"], "test": ["isic"]} | changes
    return Protocol(name="x", title="x", source="x", description="x", recipe="decoder", runs=[run])


@pytest.mark.parametrize("name", protocol_names())
def test_a_protocol_that_ships_is_sound(name):
    protocol = load_protocol(name)
    for run in protocol.runs:
        recipe = Recipe.load(protocol.recipe, **run.recipe_changes)
        assert recipe.epochs > 1
        assert run.published.dice
    assert len({run.label for run in protocol.runs}) == len(protocol.runs)


@pytest.mark.parametrize("name", ["zero_shot", "ablation", "prompts"])
def test_a_zero_shot_target_and_its_images_are_never_learned_from(name):
    for run in load_protocol(name).runs:
        shown = [{data_set(entry).images or entry for entry in names} for names in (run.train, run.test)]
        assert not shown[0] & shown[1]


def test_the_published_numbers_are_those_of_the_paper():
    zero_shot = {
        run.label: (run.published.dice, run.published.iou) for run in load_protocol("zero_shot").runs
    }
    assert zero_shot == {
        "Kvasir-SEG": (59.83, 50.45),
        "ISIC": (79.65, 70.67),
        "chest X-ray": (82.60, 74.82),
        "chest CT": (93.62, 89.25),
    }
    assert [run.published.dice for run in load_protocol("few_shot").runs] == [75.48, 85.08, 90.34, 94.13]
    ablation = {run.label: run for run in load_protocol("ablation").runs}
    assert {label: run.published.dice for label, run in ablation.items()} == {
        "none": 46.69,
        "IPP": 52.74,
        "IPP + BID": 54.47,
        "LoRA": 55.02,
        "LoRA + BID": 56.98,
        "LoRA + IPP": 59.02,
        "LoRA + IPP + BID": 59.83,
    }
    for label, run in ablation.items():
        recipe = Recipe.load("zero_shot", **run.recipe_changes)
        assert (recipe.lora_rank > 0, recipe.ipp, recipe.bid) == tuple(
            part in label for part in ("LoRA", "IPP", "BID")
        )


def test_long_prompts_are_sentences_that_can_be_asked_for():
    for entry in data_sets().values():
        assert canonical_word(entry.word) in canonical_word(entry.prompt)
        assert len(entry.prompt.split()) > 5


def test_cases_are_taken_evenly_and_images_with_two_labels_stay_together(tmp_path):
    for name in ("isic", "ct_lung", "ct_heart"):
        write_data_set(tmp_path, name, train=6 if name == "isic" else 3)
    protocol = a_protocol(train=["isic", "ct_lung", "ct_heart"], train_cases=8)
    chosen = protocol.cases(protocol.runs[0], "train", tmp_path)
    assert (
        sorted(case.name.split("/")[0] for case in chosen)
        == ["ct_heart"] * 2 + ["ct_lung"] * 3 + ["isic"] * 3
    )
    assert {case.group for case in chosen if case.name.startswith("ct_")} == {
        "chest_ct/0",
        "chest_ct/1",
        "chest_ct/2",
    }
    assert [case.name for case in protocol.cases(protocol.runs[0], "train", tmp_path, most=8)] == [
        case.name for case in chosen
    ]
    assert next(iter(chosen[0].words)) == "skin lesion"


def test_missing_data_sets_are_named_in_one_sentence(tmp_path):
    write_data_set(tmp_path, "isic")
    protocol = load_protocol("few_shot")
    require_folders(protocol.choose_runs(["ISIC"]), tmp_path)
    with pytest.raises(
        RequestError,
        match=r"lacks Kvasir-SEG/train, Kvasir-SEG/test, each with images/ and labels/; `wordmask",
    ):
        require_folders(protocol.choose_runs(["isic", "Kvasir-SEG"]), tmp_path)


def test_wrong_names_say_which_there_are():
    with pytest.raises(RequestError, match="Did you mean 'zero_shot'"):
        load_protocol("zeroshot")
    with pytest.raises(RequestError, match="no run 'colon'; runs: Kvasir-SEG, ISIC"):
        load_protocol("few_shot").choose_runs(["colon"])
    with pytest.raises(ValidationError, match="no data set 'moon'"):
        a_protocol(train=["moon"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProtocolRequest, Path]:
    """Few-shot on ISIC with six small pictures, at tiny size."""
    root, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out")
    write_data_set(root, "isic")
    asked = ProtocolRequest(
        load_protocol("few_shot"), root, "simple_vilmedsam", "tiny", "cpu", ("ISIC",), 4, QUICK
    )
    results = run_protocol(asked, folder)
    assert [(result.label, result.trained_on, result.tested_on) for result in results] == [("ISIC", 4, 2)]
    return asked, folder


def test_a_run_trains_tests_and_writes_our_numbers_beside_the_published_ones(finished):
    _, folder = finished
    table = (folder / "table.md").read_text()
    assert "| ISIC | 4 | 2 |" in table
    assert "| 85.08 |" in table
    assert "epochs=1" in table
    assert {path.name for path in (folder / "isic").iterdir()} >= {
        "cases.csv",
        "summary.md",
        "result.json",
        "model",
    }
    assert ModelStore(folder / "isic" / "model").served() == 1
    assert "trained on | 4 cases of isic" in (folder / "isic" / "summary.md").read_text()


def test_a_finished_run_is_kept_and_other_settings_are_run_anew(finished):
    asked, folder = finished
    before = (folder / "table.md").read_text()

    def stop(stage: str, done: int, total: int) -> None:
        assert stage.startswith("ISIC: ")
        raise KeyboardInterrupt

    run_protocol(asked, folder, stop)
    assert (folder / "table.md").read_text() == before
    with pytest.raises(KeyboardInterrupt):
        run_protocol(replace(asked, changes={**QUICK, "steps_per_epoch": 1}), folder, stop)
    run_protocol(asked, folder, stop)
    assert not (folder / "isic" / "scratch").exists()


def test_the_commands_list_the_layout_and_refuse_what_is_missing(tmp_path, capsys):
    assert main(["papers", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in protocol_names())
    assert "COVID-QU-Ex" in out
    assert "images/ and labels/" in out
    status = main(
        [
            "papers",
            "run",
            "few_shot",
            "--data",
            str(tmp_path),
            "-o",
            str(tmp_path / "out"),
            "--preset",
            "tiny",
        ]
    )
    assert status == 2
    assert "lacks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
