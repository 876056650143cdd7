"""How far probability and uncertainty can be trusted: the numbers against plain ways to compute them."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tests.support.labelled_pictures import write_case

from wordmask.errors import VolumeError
from wordmask.learning.evaluation import run as evaluation
from wordmask.learning.evaluation.answers import Answer
from wordmask.learning.evaluation.reliability import LEVELS, MOST, Reliability
from wordmask.learning.evaluation.run import evaluate


def entropy(p):
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return -(p * np.log(p) + (1 - p) * np.log(1 - p))


@pytest.fixture
def pixels():
    """Probabilities, entropies on the histogram's levels, marks and truth of a volume without a border."""
    random = np.random.default_rng(1)
    claimed = random.random((4, 20, 30))
    truth = random.random(claimed.shape) < claimed**2  # too sure of itself
    unsure = (np.floor(entropy(claimed) / MOST * LEVELS) + 0.5) / LEVELS * MOST
    return claimed, unsure, claimed > 0.5, truth


def test_the_numbers_are_those_of_plain_definitions(pixels):
    claimed, unsure, marked, truth = pixels
    counted = Reliability()
    for part in (slice(0, 2), slice(2, 4)):
        counted.add(*(array[part] for array in pixels))
    trust = counted.summary()
    wrong = (marked != truth).ravel()
    assert trust.pixels == claimed.size
    assert trust.wrong == pytest.approx(wrong.mean())
    bins = np.minimum((claimed * 15).astype(int), 14)
    gaps = [abs(claimed[bins == b].mean() - truth[bins == b].mean()) * (bins == b).mean() for b in range(15)]
    assert trust.ece == pytest.approx(sum(gaps))
    assert trust.ece > 0.1
    assert trust.auroc == pytest.approx(roc_auc_score(wrong, unsure.ravel()))
    order = np.argsort(unsure.ravel(), kind="stable")
    risks = wrong[order].cumsum() / np.arange(1, wrong.size + 1)
    assert trust.aurc == pytest.approx(risks.mean(), abs=0.01)
    assert trust.risk[-1] == pytest.approx(trust.wrong)
    assert np.all(np.diff(trust.coverage) > 0)


def test_a_calibrated_model_has_no_calibration_error():
    random = np.random.default_rng(2)
    claimed = random.random((1, 400, 400))
    counted = Reliability()
    counted.add(claimed, entropy(claimed), claimed > 0.5, random.random(claimed.shape) < claimed)
    assert counted.summary().ece < 0.01


def test_only_pixels_around_the_structure_count_and_nothing_gives_nothing():
    claimed, truth = np.zeros((1, 100, 100)), np.zeros((1, 100, 100), bool)
    counted = Reliability()
    counted.add(claimed, entropy(claimed), truth, truth)
    assert counted.summary() is None
    truth[0, 40:60, 40:60] = True
    counted.add(claimed, entropy(claimed), np.zeros_like(truth), truth)
    trust = counted.summary()
    assert trust.pixels == 32 * 32  # 20 and a quarter of it, and one, on either side
    assert trust.wrong == pytest.approx(400 / 1024)
    assert trust.auroc == 0.5  # all are equally sure


def test_without_a_wrong_pixel_there_is_nothing_to_rank():
    truth = np.zeros((1, 9, 9), bool)
    truth[0, 3:6, 3:6] = True
    counted = Reliability()
    counted.add(truth.astype(float), np.zeros((1, 9, 9)), truth, truth)
    trust = counted.summary()
    assert np.isnan(trust.auroc)
    assert (trust.ece, trust.aurc, trust.wrong) == (0, 0, 0)


def answers(case):
    for word, mask in case.masks.items():
        claimed = np.where(mask, 0.8, 0.1).astype(np.float32)
        yield Answer(word, mask, 1.0, claimed, entropy(claimed).astype(np.float32))


def test_answers_with_maps_give_a_table_and_a_picture(tmp_path):
    cases = [write_case(tmp_path / "cases", seed) for seed in (1, 2)]
    found = evaluate(cases, answers, tmp_path / "out", how={})
    with (tmp_path / "out" / "reliability.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["word"], float(row["wrong"]), row["auroc"]) == ("blob", 0, "")
    assert float(row["ece"]) == pytest.approx(found.trust["blob"].ece, abs=1e-6)
    assert (tmp_path / "out" / "reliability.png").stat().st_size > 5000
    evaluate(cases, lambda case: (Answer(w, m) for w, m in case.masks.items()), tmp_path / "out", how={})
    assert not (tmp_path / "out" / "reliability.csv").exists()  # no reports of an earlier evaluation


def test_a_report_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(path, words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluation, "write_table", full)
    with pytest.raises(VolumeError, match=r"reliability.csv cannot be written \(No space left"):
        evaluate([write_case(tmp_path, 1)], answers, tmp_path / "out", how={})
