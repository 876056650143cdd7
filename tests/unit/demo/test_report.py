"""The numbers and the picture that the demo shows, and which words it asks for together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tests.support.servers import SAMPLES

from wordmask.demo import learn, run, samples
from wordmask.demo.report import Findings, Timing, print_report, too_easy
from wordmask.demo.samples import SampleCase, load_samples, true_mask
from wordmask.errors import VolumeError
from wordmask.learning.evaluation.contact_sheet import write_contact_sheet


def a_case(**words: tuple[int, ...]) -> SampleCase:
    return SampleCase(Path("ct.nii.gz"), Path("ct.nii.gz"), "CT", words, ())


def test_words_that_share_a_voxel_are_never_asked_for_together() -> None:
    case = a_case(liver=(1, 12), left=(3,), right=(4,), kidneys=(3, 4), tumor=(12,))
    assert case.groups() == [["liver", "left", "right"], ["kidneys", "tumor"]]
    assert case.name == "ct"


def test_a_word_is_true_wherever_one_of_its_values_is() -> None:
    labels = np.array([[0, 1, 12], [3, 4, 1]])
    np.testing.assert_array_equal(true_mask(labels, (1, 12)), [[0, 1, 1], [0, 0, 1]])


def test_the_samples_that_ship_have_truth_of_the_shape_of_their_image() -> None:
    cases = load_samples(SAMPLES)
    assert len({case.name for case in cases}) == len(cases) > 10
    for case in cases:
        labels = case.true_labels()
        assert labels.ndim == 3
        assert all(true_mask(labels, values).any() for values in case.words.values()), case.name
        assert not set(case.words) & set(case.absent)


@pytest.mark.parametrize("demo", [run, learn])
def test_a_demo_without_the_source_tree_says_what_is_missing(demo, tmp_path, monkeypatch, capsys):
    assert samples.source_folder("sample_data") == SAMPLES
    monkeypatch.setattr(samples, "REPOSITORY", tmp_path)
    monkeypatch.setattr(run.signal, "signal", lambda *_: None)  # this process keeps its own answer to SIGTERM
    assert demo.main(["--output", str(tmp_path / "out")]) == 1
    assert "clone the repository and type `make demo` there" in " ".join(capsys.readouterr().out.split())


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"index\.json"):
        load_samples(tmp_path)


def test_the_report_shows_means_counts_and_false_alarms() -> None:
    findings = Findings(
        dice={("a", "liver"): 0.9, ("b", "liver"): 0.7, ("a", "spleen"): 0.5},
        false_voxels={("a", "polyp"): 0, ("b", "polyp"): 12},
        timing=Timing("a", ("liver", "spleen"), (3.0, 0.5)),
    )
    assert findings.mean_dice() == pytest.approx(0.7)
    assert findings.stayed_empty() == 0.5
    console = Console(record=True, width=160)
    print_report(findings, {"liver": {"threshold": 0.31, "atlas": 0.42}}, console)
    text = console.export_text()
    liver = next(line for line in text.splitlines() if "liver" in line)
    assert all(cell in liver for cell in ("2", "0.800", "0.700", "0.310", "0.420"))
    assert "3 (case, word) pairs: 0.700" in text
    assert "50.0%" in text
    assert "polyp in b, 12 voxels" in text
    assert "6.0 times as fast" in text


@pytest.mark.parametrize("count", [1, 4, 7])
def test_the_contact_sheet_shows_every_picture(tmp_path: Path, count: int) -> None:
    colors = [(40 * i + 10, 200 - 20 * i, 90) for i in range(count)]
    pictures = [tmp_path / f"{i}.png" for i in range(count)]
    for i, (picture, color) in enumerate(zip(pictures, colors, strict=True)):
        Image.new("RGB", (300 if i % 2 else 500, 250), color).save(picture)
    write_contact_sheet(pictures, tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png")
    shown = {color: number for number, color in sheet.getcolors(maxcolors=100_000) or []}
    assert all(shown.get(color, 0) > 10_000 for color in colors)


def test_words_that_a_simple_rule_nearly_solves_are_named():
    ours = {"polyp": 0.85, "liver": 0.95}
    baselines = {"polyp": {"threshold": 0.72, "atlas": 0.5}, "liver": {"threshold": 0.4, "atlas": 0.6}}
    assert too_easy(ours, baselines) == [("polyp", "threshold")]
