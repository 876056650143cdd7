"""``wordmask train --model medclip_samv2``, on a list of captions and on labelled cases."""

from __future__ import annotations

from tests.support.captioned_pictures import write_pairs
from tests.support.labelled_pictures import write_case

from wordmask.cli import main
from wordmask.weights.checkpoint import read_card

MODEL = "medclip_samv2"


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
