"""Models are found by name: WordMask's own without torch, others by the entry points of their packages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.labelled_pictures import WORD, write_case

from wordmask.errors import RequestError, UnknownModelError
from wordmask.learning.training import find_training
from wordmask.models.loading import segmenter_class
from wordmask.models.registry import OWN, find_model, load_preset, model_names, preset_names

FOREIGN = Path(__file__).parents[2] / "support" / "foreign_model"


@pytest.fixture
def a_package(tmp_path: Path) -> Path:
    """A folder outside the repository with the package of the bright model, installed as pip would."""
    folder = tmp_path / "site-packages"
    shutil.copytree(FOREIGN, folder, ignore=shutil.ignore_patterns("__pycache__"))
    add_entry_point(folder, "bright = bright_model:MODEL")
    return folder


def add_entry_point(folder: Path, line: str) -> None:
    described = folder / "bright_model-1.0.dist-info"
    described.mkdir(exist_ok=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: bright-model\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(f"[wordmask.models]\n{line}\n")


def wordmask(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a Python that finds ``folder`` beside its own packages."""
    return subprocess.run(
        [sys.executable, "-m", "wordmask.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_names_and_presets_are_read_without_torch():
    code = (
        "import sys; from wordmask.models.registry import *; "
        "[load_preset(m, p) for m in model_names() for p in preset_names(m)]; "
        "assert not {'torch', 'open_clip', 'timm', 'monai'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("model", OWN)
def test_an_own_model_has_all_its_parts(model):
    entry = find_model(model)
    assert segmenter_class(model).name == model
    for name in preset_names(model):
        assert type(load_preset(model, name)) is entry.preset
    training = find_training(model)
    for name in preset_names(model):
        assert training.recipe.load(training.recipe_names(name)[0])


def test_a_preset_has_the_fields_of_its_own_model_and_no_other():
    fields = {model: set(find_model(model).preset.model_fields) for model in OWN}
    assert "decoder" not in fields["medclip_samv2"] | fields["medclip_samv2_weak"]
    assert "zero_shot" not in fields["simple_vilmedsam"] | fields["medclip_samv2_weak"]
    assert not {"clip", "sam", "bottleneck"} & fields["medclip_samv2_weak"]


def test_the_weak_presets_cut_slices_with_the_windows_of_their_teacher():
    for name in preset_names("medclip_samv2_weak"):
        weak = load_preset("medclip_samv2_weak", name)
        assert weak.windows == load_preset(weak.teacher, name).windows


def test_a_model_of_another_package_segments_and_learns(a_package, tmp_path):
    cases = [write_case(tmp_path / "cases", seed) for seed in range(5)]
    image, bright = cases[0].image, ("--model", "bright")
    found = wordmask(
        a_package, "segment", str(image), WORD, "--model", "bright", "-o", str(tmp_path / "m.png")
    )
    assert found.returncode == 0, found.stderr
    listed = tmp_path / "cases.json"
    listed.write_text(
        json.dumps([{"image": str(c.image), "label": str(c.label), "names": {WORD: 1}} for c in cases])
    )
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").touch()
    trained = wordmask(
        a_package, "train", str(listed), *bright, "--app", str(tmp_path / "app"), "--device", "cpu",
        *("--set", "epochs=3", "--set", "steps_per_epoch=10", "--set", "views=2"),
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "Version 1 is published" in trained.stdout
    served = wordmask(
        a_package, "segment", str(image), WORD, *bright, "--app", str(tmp_path / "app"),
        *("-o", str(tmp_path / "learned.png")),
    )  # fmt: skip
    assert served.returncode == 0, served.stderr
    assert (tmp_path / "learned.png").read_bytes() != (tmp_path / "m.png").read_bytes()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("bright = bright_modell:MODEL", "The model 'bright' of the package bright-model cannot be loaded"),
        ("bright = bright_model.preset:BrightPreset", "of the package bright-model is not a ModelEntry"),
        ("medclip_samv2 = bright_model:MODEL", "There is no model 'bright'"),
        ("bright = broken_parts:MODEL", "The model 'bright' of the package bright-model cannot be loaded"),
    ],
)
def test_a_package_that_is_wrong_is_named(line, sentence, a_package):
    add_entry_point(a_package, line)
    (a_package / "broken_parts.py").write_text(
        "from bright_model import MODEL\nfrom dataclasses import replace\n"
        "MODEL = replace(MODEL, trainings=(\"bright_model:MISSING\",), segmenter='bright_model:MISSING')\n"
    )
    found = wordmask(a_package, "train", "cases.json", "--model", "bright")
    assert found.returncode == 2
    assert sentence in found.stderr


def test_an_unknown_model_or_preset_is_one_sentence():
    assert model_names()[0] == "simple_vilmedsam"
    with pytest.raises(UnknownModelError, match="Did you mean 'medclip_samv2'"):
        find_model("medclip_sam2")
    with pytest.raises(UnknownModelError, match="Did you mean 'tiny'"):
        load_preset("medclip_samv2", "tinny")


def test_a_model_without_a_training_is_one_sentence(monkeypatch):
    from dataclasses import replace

    from wordmask.learning import training

    monkeypatch.setattr(training, "find_model", lambda name: replace(find_model(name), trainings=()))
    with pytest.raises(RequestError, match="The model 'medclip_samv2' cannot be trained"):
        find_training("medclip_samv2")
