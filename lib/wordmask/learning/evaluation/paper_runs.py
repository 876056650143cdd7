"""Run a protocol: train, test, and a table of our numbers beside the published ones, written after every run.

Knows protocols, trainings and evaluations; not HTTP. A run that is finished is kept, so that the same command
continues where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import isnan, nan
from pathlib import Path
from typing import Any

from wordmask.errors import VolumeError
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.evaluation.answers import ask
from wordmask.learning.evaluation.papers import Protocol, Run, require_folders
from wordmask.learning.evaluation.run import Evaluation, evaluate
from wordmask.learning.evaluation.statistics import METRICS, Metric, overall
from wordmask.learning.evaluation.tables import NAMES
from wordmask.learning.recipes import Recipe
from wordmask.learning.training import TrainingProgress, TrainingRequest, find_training
from wordmask.models.loading import load_segmenter
from wordmask.weights.versions import ModelStore

TABLE, RESULT = "table.md", "result.json"

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RunResult:
    """The result of one run.

    Attributes:
        scores: metric -> mean over words in percent, NaN where there is none.
        published: the same as the paper gives it; None where it is not known.
    """

    label: str
    trained_on: int
    tested_on: int
    left_out: int
    scores: dict[Metric, float]
    published: dict[Metric, float | None]


@dataclass(frozen=True)
class ProtocolRequest:
    """Which runs of a protocol to do, and on what.

    Attributes:
        data: folder with the data sets.
        only: labels of runs; empty: all.
        cases: training cases, in place of the protocol's number.
        changes: to every recipe, above those of the run.
    """

    protocol: Protocol
    data: Path
    model: str
    preset: str
    device: str = "auto"
    only: tuple[str, ...] = ()
    cases: int | None = None
    changes: Mapping[str, Any] | None = None


def run_protocol(
    request: ProtocolRequest, folder: Path, tell: Tell = lambda stage, done, total: None
) -> list[RunResult]:
    """Do all runs in turn; writes table.md into ``folder``, and each run's files into a folder below it.

    Everything is checked before the first run. KeyboardInterrupt goes through; finished runs are kept.

    Args:
        request: which runs, and on what.
        folder: for the results.
        tell: called with the stage, the steps that are done and their number.

    Raises:
        RequestError: a data set, a run or a setting is missing or wrong.
        VolumeError: the folder cannot be written.
        WordMaskError: a training or an evaluation failed.
    """
    runs = request.protocol.choose_runs(request.only)
    require_folders(runs, request.data)
    recipes = [
        Recipe.load(request.protocol.recipe, **{**run.recipe_changes, **(request.changes or {})})
        for run in runs
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VolumeError(
            f"The folder {folder.name} cannot be written ({error.strerror or error}); choose another one."
        ) from error
    results = []
    for run, recipe in zip(runs, recipes, strict=True):
        results.append(
            _run(
                request,
                run,
                recipe,
                folder / run.folder,
                lambda stage, *count, run=run: tell(f"{run.label}: {stage}", *count),
            )
        )
        (folder / TABLE).write_text(table_text(request, results), encoding="utf-8")
    return results


def table_text(request: ProtocolRequest, results: Sequence[RunResult]) -> str:
    """table.md: our numbers and the published ones, in percent."""
    protocol = request.protocol
    lines = [f"# {protocol.title}", "", f"{protocol.source}. {protocol.description}", ""]
    lines += [
        (
            f"Model {request.model}, preset {request.preset}, recipe "
            f"{protocol.recipe}{_describe_changes(request)}. All numbers in percent."
        ),
        "",
    ]
    lines += ["| " + " | ".join(headings()) + " |", "|---|" + "---:|" * (len(headings()) - 1)]
    lines += ["| " + " | ".join(cells(result)) + " |" for result in results]
    left_out = sum(result.left_out for result in results)
    lines += (
        ["", f"{left_out} test cases could not be judged; see summary.md of each run."] if left_out else []
    )
    return "\n".join(lines) + "\n"


def headings() -> list[str]:
    """Headings of the table."""
    return [
        "run",
        "trained on",
        "tested on",
        *(text for metric in METRICS for text in (NAMES[metric], "published")),
    ]


def cells(result: RunResult) -> list[str]:
    """One row of the table."""
    scores = (
        text
        for metric in METRICS
        for text in (_percent(result.scores[metric]), _percent(result.published[metric]))
    )
    return [result.label, str(result.trained_on), str(result.tested_on), *scores]


def _run(request: ProtocolRequest, run: Run, recipe: Recipe, folder: Path, tell: Tell) -> RunResult:
    settings = json.loads(
        json.dumps(
            [request.model, request.preset, request.cases, run.model_dump(), recipe.model_dump(mode="json")]
        )
    )
    published: dict[Metric, float | None] = {metric: getattr(run.published, metric) for metric in METRICS}
    if (kept := _read_kept(folder / RESULT, settings)) is not None:
        return RunResult(
            **{**kept, "published": published, "scores": {m: _number(kept["scores"][m]) for m in METRICS}}
        )
    training = request.protocol.cases(run, "train", request.data, most=request.cases)
    testing = request.protocol.cases(run, "test", request.data)
    store, scratch = ModelStore(folder / "model"), folder / "scratch"
    try:
        report = find_training(request.model, recipe.name).run(
            training,
            TrainingRequest(
                model=request.model,
                preset=request.preset,
                recipe=recipe,
                device=request.device,
                start=0,
                force=True,
            ),
            store,
            run_folder=scratch,
            report=lambda progress: tell(_describe(progress), progress.done, progress.total),
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    assert report.version is not None  # it was forced
    segmenter = load_segmenter(
        request.model, preset=request.preset, device=request.device, weights=store.folder(report.version)
    )
    how = {
        "run": run.label,
        "model": request.model,
        "preset": request.preset,
        "trained on": f"{len(training)} cases of {', '.join(run.train)}",
        "recipe": f"{recipe.name}, {report.epochs} epochs",
        "threshold": f"{segmenter.preset.threshold:g}",
    }
    evaluation = evaluate(testing, partial(ask, VolumeSegmenter(segmenter)), folder, how=how, progress=tell)
    if evaluation.stopped:
        raise KeyboardInterrupt
    result = _result(run, len(training), evaluation, published)
    kept = {**asdict(result), "scores": {m: None if isnan(v) else v for m, v in result.scores.items()}}
    (folder / RESULT).write_text(
        json.dumps({"settings": settings, "result": kept}, indent=1) + "\n", encoding="utf-8"
    )
    return result


def _result(
    run: Run, trained_on: int, evaluation: Evaluation, published: dict[Metric, float | None]
) -> RunResult:
    scores: dict[Metric, float] = {metric: 100 * overall(evaluation.words, metric) for metric in METRICS}
    return RunResult(run.label, trained_on, evaluation.judged, len(evaluation.failed), scores, published)


def _read_kept(path: Path, settings: Any) -> dict[str, Any] | None:
    """The result of a run that was finished with the same settings."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["result"]) if content["settings"] == settings else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _describe_changes(request: ProtocolRequest) -> str:
    changes = dict(request.changes or {}) | ({"cases": request.cases} if request.cases else {})
    return "" if not changes else " with " + ", ".join(f"{name}={value}" for name, value in changes.items())


def _describe(progress: TrainingProgress) -> str:
    return progress.stage if progress.dice is None else f"{progress.stage}, Dice {progress.dice:.3f}"


def _number(value: float | None) -> float:
    return nan if value is None else value


def _percent(value: float | None) -> str:
    return "" if value is None or isnan(value) else f"{value:.2f}"
