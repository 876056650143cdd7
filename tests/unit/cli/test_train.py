"""``wordmask train`` says which options a model's training cannot use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.labelled_pictures import WORD, write_case

from wordmask.cli import main


@pytest.fixture
def a_list(tmp_path: Path) -> Path:
    case = write_case(tmp_path, 1)
    path = tmp_path / "cases.json"
    path.write_text(json.dumps([{"image": case.image.name, "label": case.label.name, "names": {WORD: 1}}]))
    return path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--word", "liver"], "cases.json is not one; leave it out."),
        (["--model", "medclip_samv2_weak", "--words", "liver", "--word", "liver"], "or use --words"),
        (["--model", "medclip_samv2", "--word", "liver"], "cases.json is not one; leave it out."),
        (["--words", "liver"], "takes its words from the labels"),
        (["--labels", "other.json"], "leave --labels out"),
        (["--run", "folder"], "leave --run out"),
        (["--model", "medclip_samv2_weak", "--words", "liver", "--start", "1"], "leave start out"),
    ],
)
def test_an_option_that_a_training_cannot_use_is_refused(arguments, sentence, a_list, capsys):
    assert main(["train", str(a_list), *arguments]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
