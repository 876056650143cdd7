"""`make learn-demo`, shortened: a word is taught, found where nobody labelled it, and forgotten when rolled
back; failing is said.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tests.support.servers import REPOSITORY, SAMPLES

from wordmask.demo import learn as learn_demo
from wordmask.demo.learn import WORD, VersionScores, choose_cases, judge, truth_of
from wordmask.demo.samples import load_samples
from wordmask.errors import RequestError

QUICK = {"recipe": "quick", "steps": 40, "sides": [64]}


def three_studies(folder: Path) -> Path:
    """Sample data of three studies: two to label, one untouched."""
    chosen = [
        case for case in json.loads((SAMPLES / "index.json").read_text())["cases"] if case["modality"] == "CT"
    ][:3]
    for name in ("studies", "truth"):
        (folder / name).mkdir(parents=True)
    for case in chosen:
        for name in ("image", "truth"):
            shutil.copy(SAMPLES / case[name], folder / case[name])
    (folder / "index.json").write_text(json.dumps({"cases": chosen}))
    return folder


@pytest.mark.server
def test_a_word_is_taught_with_two_labels_found_elsewhere_and_undone(tmp_path):
    model = REPOSITORY / "monailabel_app" / "model"
    own = sorted(model.rglob("*"))
    with Console(file=(tmp_path / "told.txt").open("w"), width=120) as console:
        samples = three_studies(tmp_path / "samples")
        assert learn_demo.run(samples, REPOSITORY / "monailabel_app", tmp_path / "out", QUICK, console)
    told = (tmp_path / "told.txt").read_text()
    assert "Version 1 is published" in told
    assert "every voxel is as it was before" in told
    (picture,) = (tmp_path / "out").iterdir()
    with Image.open(picture) as opened:
        assert opened.width == 3 * learn_demo.WIDTH
    assert sorted(model.rglob("*")) == own  # the user's own versions are not touched
    assert not list(samples.rglob("labels"))


def test_the_first_two_studies_by_name_are_labelled_and_all_others_are_untouched():
    label, untouched = choose_cases(list(reversed(load_samples(SAMPLES))))
    assert [case.name for case in label] == ["ct_abdomen_pelvis", "ct_chest"]
    assert [case.name for case in untouched] == ["ct_chest_abdomen", "ct_trunk"]
    assert all(truth_of(case).any() for case in (*label, *untouched))
    with pytest.raises(
        RequestError, match="3 studies that show liver, spleen, kidney are needed, and there are 2"
    ):
        choose_cases(label)


def test_a_training_that_does_not_help_or_cannot_be_undone_is_a_failure():
    empty, full = {"ct": np.zeros((1, 2, 2), bool)}, {"ct": np.ones((1, 2, 2), bool)}
    before = VersionScores("bundled", {("ct", WORD): 0.0, ("ct", "liver"): 0.9}, empty)
    after, console = VersionScores("1", {("ct", WORD): 0.8, ("ct", "liver"): 0.9}, full), Console(quiet=True)
    assert judge(before, after, before, console)
    assert not judge(before, replace(after, dice=before.dice), before, console)
    assert not judge(before, after, replace(before, marked=full), console)
    assert not judge(before, after, replace(before, version="1"), console)
