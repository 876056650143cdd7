"""Metrics of two masks, means with their intervals, and evaluations that lose nothing."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from tests.support.labelled_pictures import WORD, write_case

from wordmask.cli import main
from wordmask.data.geometry import Geometry
from wordmask.data.volumes import Volume
from wordmask.errors import RequestError, VolumeError
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.cases import Case, LabelledVolume, cases_from_json
from wordmask.learning.evaluation.answers import Answer, LabelMaps, ask
from wordmask.learning.evaluation.contact_sheet import MARKED, TRUTH, draw_case, pick
from wordmask.learning.evaluation.metrics import Agreement, agreement, dice
from wordmask.learning.evaluation.run import Evaluation, evaluate
from wordmask.learning.evaluation.statistics import CaseResult, bootstrap, overall, summarise
from wordmask.learning.evaluation.tables import summary_text
from wordmask.learning.evaluation.validation import validate
from wordmask.models.loading import load_segmenter
from wordmask.weights.checkpoint import load_checkpoint, read_card, save_checkpoint
from wordmask.weights.versions import ModelStore
from wordmask.words.prompts import parse_prompts

SAMPLES = Path(__file__).resolve().parents[3] / "sample_data"
UNIT = (1.0, 1.0, 1.0)


def box(shape: tuple[int, ...], *ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*pair) for pair in ranges)] = True
    return mask


def test_dice_and_iou_of_half_overlapping_masks():
    prediction, truth = box((8, 8, 8), (2, 6), (2, 6), (1, 5)), box((8, 8, 8), (2, 6), (2, 6), (3, 7))
    found = agreement(prediction, truth, spacing=UNIT, tolerance=0)
    assert found.dice == dice(prediction, truth) == pytest.approx(1 / 2)
    assert found.iou == pytest.approx(1 / 3)
    assert (found.predicted_voxels, found.true_voxels) == (64, 64)


def test_equal_masks_score_one_and_disjoint_ones_zero():
    mask, other = box((9, 9), (1, 4), (1, 4)), box((9, 9), (6, 9), (6, 9))
    same, apart = (agreement(mask, truth, spacing=(1, 1), tolerance=1) for truth in (mask, other))
    assert (same.dice, same.iou, same.nsd) == (1, 1, 1)
    assert (apart.dice, apart.iou, apart.nsd) == (0, 0, 0)


def test_two_empty_masks_have_no_score_and_one_empty_mask_scores_zero():
    empty, mask = np.zeros((4, 4), dtype=bool), box((4, 4), (1, 3), (1, 3))
    neither = agreement(empty, empty, spacing=(1, 1), tolerance=2)
    assert all(math.isnan(value) for value in (neither.dice, neither.iou, neither.nsd, dice(empty, empty)))
    assert not neither.shown
    alarm, missed = (
        agreement(mask, empty, spacing=(1, 1), tolerance=2),
        agreement(empty, mask, spacing=(1, 1), tolerance=2),
    )
    assert (alarm.dice, alarm.nsd, alarm.shown, alarm.found, alarm.predicted_voxels) == (0, 0, False, True, 4)
    assert (missed.dice, missed.nsd, missed.shown, missed.found) == (0, 0, True, False)


def test_masks_of_different_shapes_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        dice(np.zeros(2, dtype=bool), np.zeros(3, dtype=bool))


def test_the_surface_is_measured_in_millimetres_along_each_axis():
    truth = box((12, 12, 12), (4, 8), (4, 8), (4, 8))
    moved = np.roll(truth, 1, axis=0)
    for spacing, tolerance, whole in (
        ((3, 1, 1), 2, False),
        ((3, 1, 1), 3, True),
        ((1, 3, 3), 1, True),
        ((1, 1, 1), 0.5, False),
    ):
        found = agreement(moved, truth, spacing=spacing, tolerance=tolerance).nsd
        assert (found == 1) == whole, (spacing, tolerance)
        assert found > 0.2


def test_a_single_slice_has_an_outline_and_not_two_faces():
    truth, small = box((1, 24, 24), (0, 1), (2, 22), (2, 22)), box((1, 24, 24), (0, 1), (7, 17), (7, 17))
    assert agreement(small, truth, spacing=UNIT, tolerance=2).nsd == 0


def test_air_around_changes_no_metric():
    truth, prediction = box((6, 7, 8), (0, 4), (1, 6), (2, 8)), box((6, 7, 8), (0, 3), (2, 7), (2, 7))
    tight = agreement(prediction, truth, spacing=(2, 1, 1), tolerance=1)
    wide = agreement(*(np.pad(mask, 9) for mask in (prediction, truth)), spacing=(2, 1, 1), tolerance=1)
    assert wide == tight


def test_the_interval_holds_the_mean_and_grows_when_cases_hang_together():
    values = [0.9, 0.9, 0.9, 0.5, 0.5, 0.5, 0.7, 0.7, 0.7]
    alone = bootstrap(values, [str(i) for i in range(9)], seed=1)
    grouped = bootstrap(values, [str(i // 3) for i in range(9)], seed=1)
    assert alone.mean == grouped.mean == pytest.approx(0.7)
    assert grouped.low < alone.low < 0.7 < alone.high < grouped.high
    uneven = np.random.default_rng(0).random(9).tolist()
    one, again, other = (bootstrap(uneven, [str(i) for i in range(9)], seed=seed) for seed in (1, 1, 2))
    assert one == again != other


def test_one_group_has_a_mean_and_no_interval():
    estimate = bootstrap([0.2, 0.4], ["a", "a"], seed=1)
    assert estimate.mean == pytest.approx(0.3)
    assert math.isnan(estimate.low)
    assert math.isnan(bootstrap([], [], seed=1).mean)


def score(case: str, word: str, value: float, *, predicted: int = 5, true: int = 5) -> CaseResult:
    return CaseResult(case, case, word, Agreement(value, value / 2, value, predicted, true), None, "mm")


def test_a_word_is_averaged_over_the_cases_that_show_it_and_counted_in_the_others():
    scores = [
        score("a", "liver", 0.8),
        score("b", "liver", 0.0, predicted=0),
        score("c", "liver", 0.0, true=0),
        score("d", "liver", math.nan, predicted=0, true=0),
        score("e", "liver", math.nan, predicted=0, true=0),
        score("a", "aorta", math.nan, predicted=0, true=0),
        score("a", "spleen", 0.6),
    ]
    liver, aorta, spleen = summarise(scores, seed=1)
    assert (liver.word, liver.shown, liver.not_shown) == ("liver", 2, 3)
    assert liver.scores["dice"].mean == pytest.approx(0.4)
    assert liver.sensitivity == 0.5
    assert liver.specificity == pytest.approx(2 / 3)
    assert (aorta.shown, aorta.specificity) == (0, 1.0)
    assert math.isnan(aorta.sensitivity)
    assert overall([liver, aorta, spleen], "dice") == pytest.approx(0.5), "over words that some case shows"
    assert "nan" not in summary_text([liver, aorta, spleen], how={}, failed=[])


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return [write_case(tmp_path / "cases", seed) for seed in range(1, 5)] + [
        write_case(tmp_path / "cases", 50, empty=True)
    ]


def made_by_another_tool(folder: Path, cases: list[Case], *, value: int = 1, shift: int = 0) -> Path:
    """The truth, moved to the right."""
    folder.mkdir()
    for case in cases:
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(case.label)))
        sitk.WriteImage(
            sitk.GetImageFromArray(np.roll((labels > 0).astype(np.uint8) * value, shift, axis=1)),
            f"{folder}/{case.name}.png",
        )
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "cases.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def judge(cases: list[Case], answers, folder: Path) -> Evaluation:
    return evaluate(cases, answers, folder, how={"judged": "a test"})


def test_label_maps_of_another_tool_are_judged_like_a_model(cases, tmp_path):
    perfect = judge(cases, LabelMaps(made_by_another_tool(tmp_path / "same", cases)), tmp_path / "one")
    assert perfect.words[0].scores["nsd"].mean == 1
    assert (perfect.words[0].sensitivity, perfect.words[0].specificity) == (1, 1)
    moved = judge(
        cases, LabelMaps(made_by_another_tool(tmp_path / "moved", cases, shift=4)), tmp_path / "two"
    )
    assert 0.5 < moved.words[0].scores["dice"].mean < 0.9
    kept = rows(tmp_path / "two")
    assert [row["case"] for row in kept] == [case.name for case in cases]
    assert [float(row["dice"]) for row in kept[:4]] == pytest.approx(
        [s.agreement.dice for s in moved.scores[:4]], abs=1e-6
    )
    assert (kept[4]["dice"], kept[4]["shown"], kept[4]["found"], kept[4]["presence"]) == ("", "no", "no", "")
    assert {row["tolerance_unit"] for row in kept} == {"pixels"}
    assert "2 pixels" in (tmp_path / "two" / "summary.md").read_text()
    assert Image.open(tmp_path / "two" / "contact_sheet.png").width == 1800


def test_other_values_are_told_in_names_json(cases, tmp_path):
    folder = made_by_another_tool(tmp_path / "made", cases, value=7)
    unnamed = judge(cases[:1] + cases[-1:], LabelMaps(folder), tmp_path / "out")
    assert "contains the value 7 without a name" in unnamed.failed[0]
    (folder / "names.json").write_text(json.dumps({WORD: 7, "liver": 8}))
    assert judge(cases, LabelMaps(folder), tmp_path / "out").words[0].scores["dice"].mean == 1
    (folder / "names.json").write_text(json.dumps({"liver": 7}))
    with pytest.raises(RequestError, match=r"names.json does not give a value for blob"):
        judge(cases, LabelMaps(folder), tmp_path / "out")


def test_a_case_that_cannot_be_judged_is_reported_counted_and_skipped(cases, tmp_path):
    folder = made_by_another_tool(tmp_path / "made", cases[1:])
    broken = [cases[0], cases[1], replace(cases[2], label=tmp_path / "missing.png"), *cases[3:]]
    found = judge(broken, LabelMaps(folder), tmp_path / "out")
    assert [sentence.split(":")[0] for sentence in found.failed] == [cases[0].name, cases[2].name]
    assert (found.judged, found.total) == (3, 5)
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "| cases judged | 3 of 5 |" in summary
    assert "has no label map named picture_1" in summary


def test_what_was_judged_before_it_was_stopped_is_kept(cases, tmp_path):
    maps = LabelMaps(made_by_another_tool(tmp_path / "made", cases))

    def interrupted(case: LabelledVolume) -> Iterator[Answer]:
        if case.case.name == cases[2].name:
            raise KeyboardInterrupt
        return maps(case)

    found = judge(cases, interrupted, tmp_path / "out")
    assert found.stopped
    assert [row["case"] for row in rows(tmp_path / "out")] == [case.name for case in cases[:2]]
    assert "2 of 5, stopped early" in (tmp_path / "out" / "summary.md").read_text()


def test_impossible_evaluations_are_refused_with_a_reason(cases, tmp_path):
    maps = LabelMaps(made_by_another_tool(tmp_path / "made", cases))
    with pytest.raises(RequestError, match="Two cases are called 'picture_1'"):
        judge([cases[0], cases[0]], maps, tmp_path / "out")
    with pytest.raises(RequestError, match="0 or more"):
        evaluate(cases, maps, tmp_path / "out", how={}, tolerance=math.nan)
    with pytest.raises(RequestError, match=r"None of the 1 cases.*missing.png"):
        judge([replace(cases[0], image=tmp_path / "missing.png")], maps, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(VolumeError, match="choose another one"):
        judge(cases, maps, tmp_path / "file")
    with pytest.raises(RequestError, match="no folder nowhere"):
        LabelMaps(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="does not contain a label map"):
        LabelMaps(tmp_path / "empty")


def test_the_picture_shows_the_slice_with_most_of_the_truth_and_both_outlines():
    truth = box((5, 40, 60), (1, 2), (5, 10), (5, 10)) | box((5, 40, 60), (3, 4), (5, 35), (10, 50))
    marked = box((5, 40, 60), (3, 4), (12, 28), (20, 40))
    volume = Volume(
        np.zeros((5, 40, 60), dtype=np.int16),
        Geometry.from_affine_ras(np.diag([1.0, 1.0, 4.0, 1.0]), (60, 40, 5)),
        "MR",
    )
    drawn = np.asarray(draw_case(volume, parse_prompts("liver")[0], truth, marked))
    assert drawn.shape[1] / drawn.shape[0] == pytest.approx(60 / 40, rel=0.02)
    share = [np.mean(np.all(drawn == color, axis=2)) for color in (TRUTH, MARKED)]
    assert 0.003 < share[1] < share[0] < 0.1


def test_best_median_and_worst_are_picked_and_fewer_cases_are_shown_once():
    assert pick([0.2, 0.9, 0.5, 0.7, 0.1]) == [("best", 1), ("median", 2), ("worst", 4)]
    assert pick([0.2, 0.9]) == [("best", 1), ("worst", 0)]
    assert pick([0.4]) == [("only", 0)]


@pytest.fixture
def a_list(tmp_path: Path) -> Path:
    """Two of the sample studies, with a word that one of them lacks."""
    index = json.loads((SAMPLES / "index.json").read_text())["cases"]
    chosen = [case for case in index if Path(case["image"]).stem in ("ultrasound_1", "dermoscopy_1")]
    entries = [
        {
            **{to: str(SAMPLES / case[key]) for to, key in (("image", "image"), ("label", "truth"))},
            "names": {**case["words"], "polyp": 99},
        }
        for case in chosen
    ]
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(entries))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, " ".join(captured.err.split())


def test_the_command_measures_what_validation_measures(a_list, tmp_path, capsys):
    status, out, _ = run(
        capsys, "evaluate", a_list, "-o", tmp_path / "out", "--device", "cpu", "--version", 0
    )
    assert status == 0
    assert "breast tumor" in out
    written = {(row["case"], row["word"]): row for row in rows(tmp_path / "out")}
    segmenter = load_segmenter("simple_vilmedsam", device="cpu")
    read = [case.read() for case in cases_from_json(a_list)]
    expected = validate(segmenter, read).dice
    assert expected.keys() == written.keys()
    for key, row in written.items():
        if row["shown"] == "yes":
            assert float(row["dice"]) == pytest.approx(expected[key], abs=1e-6)
        assert 0 <= float(row["presence"]) <= 1
    assert [answer.word for answer in ask(VolumeSegmenter(segmenter), read[0])] == list(read[0].masks)
    assert "the preset's own weights" in (tmp_path / "out" / "summary.md").read_text()


@pytest.fixture
def an_app(tmp_path: Path) -> Path:
    """With one version, whose weights are tiny's."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "main.py").write_text("")
    bundle = load_checkpoint("bundled/simple_vilmedsam_tiny")
    card = bundle.card.model_copy(update={"preset": "tiny", "training_cases": ("dermoscopy_1",)})
    ModelStore(app / "model" / "simple_vilmedsam").publish(
        lambda folder: save_checkpoint(folder, bundle.tensors, card)
    )
    return app


def test_the_version_that_serves_is_judged_and_cases_that_it_learned_from_are_told(
    a_list, an_app, tmp_path, capsys
):
    status, _, err = run(
        capsys, "evaluate", a_list, "-o", tmp_path / "out", "--app", an_app, "--device", "cpu"
    )
    assert status == 0
    assert "Used to train or validate this version: 1 of these cases, first 'dermoscopy_1'" in err
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "| version | 1, trained |" in summary
    assert "train or validate this version" in summary
    assert read_card(ModelStore(an_app / "model" / "simple_vilmedsam").folder(1)).preset == "tiny"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--version", "9"], "no version 9 of simple_vilmedsam; versions: 1"),
        (["--preset", "openai_vit_b"], "add --preset tiny, or --version 0"),
        (["--threshold", "7"], "between 0 and 1"),
        (["--predictions", ".", "--threshold", "0.4"], "leave out --app, --version, --threshold and"),
        (["--predictions", ".", "--reliability"], "--threshold and --reliability"),
        (["--model", "nnunet"], "no model 'nnunet'"),
    ],
)
def test_wrong_requests_are_one_sentence_and_write_nothing(
    options, sentence, a_list, an_app, tmp_path, capsys
):
    status, _, err = run(capsys, "evaluate", a_list, "-o", tmp_path / "out", "--app", an_app, *options)
    assert status == 2
    assert sentence in err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_ends_the_command_with_what_is_known(a_list, tmp_path, capsys, monkeypatch):
    asked: list[str] = []

    def interrupt(self, volume, *arguments, **options):
        asked.append(volume.name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(self, volume, *arguments, **options)

    real = VolumeSegmenter.segment
    monkeypatch.setattr(VolumeSegmenter, "segment", interrupt)
    status, out, err = run(
        capsys, "evaluate", a_list, "-o", tmp_path / "out", "--version", 0, "--device", "cpu"
    )
    assert status == 130
    assert "stopped. The results so far are in" in err
    assert "1 of 2 cases" in out
    assert len({row["case"] for row in rows(tmp_path / "out")}) == 1
