"""``wordmask evaluate``: how well a model, or the label maps of another tool, do on labelled cases."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from wordmask.cli.consoles import answers, messages, progress_bar
from wordmask.cli.versions import AnApp, AVersion, chosen_version
from wordmask.environment.packages import require_sound_environment
from wordmask.errors import RequestError

if TYPE_CHECKING:
    from wordmask.learning.cases import Case
    from wordmask.learning.evaluation.answers import Answers
    from wordmask.learning.evaluation.run import Evaluation

Data, Judged, Computation = "What to evaluate on", "What to evaluate", "How to compute"
SHOWN_FAILED = 5
STOPPED = 130  # exit status after Ctrl-C
OPTIONAL = ("contact_sheet.png", "reliability.csv", "reliability.png")  # reports


def evaluate(
    cases: Annotated[
        Path,
        typer.Argument(
            metavar="CASES",
            help='a JSON list of {"image", "label", "names"}, or a folder with images/ and labels/',
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="folder to write cases.csv, summary.md and contact_sheet.png to",
            show_default=False,
        ),
    ],
    word: Annotated[
        str | None,
        typer.Option(help="word that the label maps of a folder show, such as polyp", rich_help_panel=Data),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            help="tolerance of the surface distance (NSD): millimetres for volumes, pixels for pictures",
            min=0,
            rich_help_panel=Data,
        ),
    ] = 2.0,
    seed: Annotated[
        int, typer.Option(help="seed of the bootstrap intervals", min=0, rich_help_panel=Data)
    ] = 1,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="evaluate these label maps, named like the cases, instead of a model",
            rich_help_panel=Judged,
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="model to evaluate", rich_help_panel=Judged)
    ] = "simple_vilmedsam",
    preset: Annotated[
        str, typer.Option(help="preset of the model: its size and weights", rich_help_panel=Judged)
    ] = "tiny",
    app: AnApp = None,
    version: AVersion = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="mark pixels with at least this probability, 0..1; default: the preset's",
            rich_help_panel=Computation,
        ),
    ] = None,
    reliability: Annotated[
        bool,
        typer.Option(
            "--reliability",
            help="also measure how far probability and uncertainty can be trusted",
            rich_help_panel=Computation,
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:0", rich_help_panel=Computation)] = "auto",
) -> None:
    """Compare masks with labelled cases: Dice, IoU, surface distance, sensitivity and specificity.

    Cases have the same form as for `wordmask train`. Whole volumes go through the whole pipeline. Do not
    evaluate a model on cases that it was trained on. You can stop the command at any time: it keeps the
    results so far.

    [bold]Examples[/]

      wordmask evaluate cases.json -o report
      wordmask evaluate kvasir/ --word polyp --version 0 -o before
      wordmask evaluate cases.json --predictions other_tool/ -o other
      wordmask evaluate cases.json --model medclipseg --reliability -o trust
    """
    require_sound_environment()
    from wordmask.learning.cases import read_cases

    found = read_cases(cases, word)
    with messages().status("Loading"):
        from wordmask.learning.evaluation.run import evaluate as judge

        if predictions is None:
            judged, how, notes = _model(found, model, preset, app, version, device, threshold, reliability)
        else:
            if threshold is not None or version is not None or app is not None or reliability:
                raise RequestError(
                    "--predictions evaluates existing label maps; leave out --app, --version, --threshold "
                    "and --reliability."
                )
            judged, how, notes = _label_maps(predictions)
    with progress_bar() as progress:
        evaluation = judge(
            found,
            judged,
            output,
            how={"cases": cases.name, **how},
            notes=notes,
            tolerance=tolerance,
            seed=seed,
            progress=progress,
        )
    _answer(evaluation, notes, output)


def _model(
    cases: list[Case],
    model: str,
    preset: str,
    app: Path | None,
    version: int | None,
    device: str,
    threshold: float | None,
    reliability: bool,
) -> tuple[Answers, dict[str, str], list[str]]:
    """The source of the masks, its description for the summary, and notes for the reader."""
    from wordmask.inference.pipeline import VolumeSegmenter
    from wordmask.inference.request import check_threshold
    from wordmask.learning.evaluation.answers import ask
    from wordmask.models.loading import load_segmenter
    from wordmask.words.prompts import parse_prompts

    number, folder = chosen_version(app, model, version, preset)
    segmenter = load_segmenter(model, preset=preset, device=device, weights=folder)
    limit = check_threshold(threshold, segmenter.preset)
    how = {
        "model": model,
        "preset": preset,
        "version": f"{number}, trained" if number else "0, the preset's own weights",
        "threshold": f"{limit:g}",
        "device": str(segmenter.device),
    }
    words = sorted({word for case in cases for word in case.words})
    unknown = [word for word in words if not segmenter.encode_prompts(parse_prompts([word])).known.all()]
    notes = [f"These weights were not trained on: {', '.join(unknown)}."] if unknown else []
    notes += _learned_from(cases, folder)
    pipeline = VolumeSegmenter(segmenter, version=str(number))
    return partial(ask, pipeline, threshold=threshold, maps=reliability), how, notes


def _learned_from(cases: list[Case], folder: Path | None) -> list[str]:
    """A warning if the version was trained or validated on some of the cases."""
    from wordmask.weights.card import Card
    from wordmask.weights.checkpoint import read_card

    card = Card() if folder is None else read_card(folder)
    known = {*card.training_cases, *card.validation_cases}
    if not (seen := sorted({case.name for case in cases} & known)):
        return []
    used = f"Used to train or validate this version: {len(seen)} of these cases, first {seen[0]!r}"
    return [f"{used}; the results are too optimistic."]


def _label_maps(folder: Path) -> tuple[Answers, dict[str, str], list[str]]:
    from wordmask.learning.evaluation.answers import LabelMaps

    return LabelMaps(folder), {"judged": f"label maps in {folder.name}"}, []


def _answer(evaluation: Evaluation, notes: list[str], output: Path) -> None:
    from wordmask.learning.evaluation.tables import summary_table, trust_table

    for note in notes:
        messages().print(f"[yellow]Note:[/] {escape(note)}", soft_wrap=True, highlight=False)
    for problem in evaluation.failed[:SHOWN_FAILED]:
        messages().print(f"[yellow]Left out:[/] {escape(problem)}", soft_wrap=True, highlight=False)
    if len(evaluation.failed) > SHOWN_FAILED:
        messages().print(f"and {len(evaluation.failed) - SHOWN_FAILED} more, listed in summary.md.")
    if evaluation.words:
        answers().print(summary_table(evaluation.words, f"{evaluation.judged} of {evaluation.total} cases"))
    if evaluation.trust:
        answers().print(trust_table(evaluation.trust))
    if evaluation.stopped:
        messages().print(
            f"wordmask: stopped. The results so far are in {escape(str(output))}.", soft_wrap=True
        )
        raise typer.Exit(STOPPED)
    typer.echo(
        f"Written to {output}: cases.csv, summary.md"
        + "".join(f", {name}" for name in OPTIONAL if (output / name).exists())
    )
