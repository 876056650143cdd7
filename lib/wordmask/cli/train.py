"""``wordmask train`` and ``wordmask models``: learn from labelled cases, and say which version serves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from wordmask.cli.consoles import answers, messages, progress_bar
from wordmask.cli.versions import APP_HELP, store_of
from wordmask.environment.packages import require_sound_environment
from wordmask.errors import RequestError

if TYPE_CHECKING:
    from wordmask.learning.cases import Case
    from wordmask.learning.training import TrainingProgress, TrainingReport

Data, Computation = "What to learn from", "How to compute"


def train(
    cases: Annotated[
        Path,
        typer.Argument(
            metavar="CASES",
            help='a JSON list of {"image", "label", "names"}, or a folder with images/ and labels/',
            show_default=False,
        ),
    ],
    word: Annotated[
        str | None,
        typer.Option(help="what the label maps of a folder show, such as polyp", rich_help_panel=Data),
    ] = None,
    app: Annotated[Path | None, typer.Option(help=APP_HELP, rich_help_panel=Data)] = None,
    recipe: Annotated[
        str, typer.Option(help="few_shot, quick or zero_shot", rich_help_panel=Computation)
    ] = "few_shot",
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="a number of the recipe, such as epochs=20",
            rich_help_panel=Computation,
        ),
    ] = None,
    start: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="version to go on from, 0: the preset's own; else the one that serves",
            rich_help_panel=Data,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="publish also when the check shows no gain, or without one")
    ] = False,
    model: Annotated[str, typer.Option(help="which model", rich_help_panel=Computation)] = "simple_vilmedsam",
    preset: Annotated[
        str, typer.Option(help="which size and weights of it", rich_help_panel=Computation)
    ] = "tiny",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:0", rich_help_panel=Computation)] = "auto",
) -> None:
    """Learn from labelled cases; a better model is published and serves at once, also in a server that runs.

    Cases are divided into those that are learned from and those that check the result, and a case keeps its
    side for good. Nothing is
    published before the end: stop it when you like.

    [bold]Examples[/]

      wordmask train cases.json
      wordmask train kvasir/ --word polyp --set epochs=20
      wordmask models list
    """
    require_sound_environment()
    from wordmask.learning.finetuning.run import TrainingRequest, train_model
    from wordmask.learning.recipes import load_recipe

    chosen = load_recipe(recipe, **dict(setting(text) for text in change or []))
    found = read_cases(cases, word)
    with run_folder() as folder, progress_bar() as show:
        request = TrainingRequest(model, preset, chosen, device, start, force)
        report = train_model(
            found, request, store_of(app, model), run_folder=folder,
            report=lambda progress: show(described(progress), progress.done, progress.total),
        )  # fmt: skip
    print_report(report)


@contextmanager
def run_folder() -> Iterator[Path]:
    """An empty folder for what a training keeps; gone when it ends, however it ends."""
    with tempfile.TemporaryDirectory(prefix="wordmask-train-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def print_report(report: TrainingReport) -> None:
    """What was left out, the Dice of every word, and what became of it."""
    for problem in report.skipped:
        messages().print(f"[yellow]Left out:[/] {escape(problem)}", soft_wrap=True, highlight=False)
    table = Table(title=f"Mean Dice on {len(report.validation_cases)} validation cases", title_justify="left")
    for heading in ("word", "before", "after"):
        table.add_column(heading, justify="left" if heading == "word" else "right")
    for name, score in report.dice.items():
        table.add_row(escape(name), f"{report.dice_before[name]:.3f}", f"{score:.3f}")
    if report.dice:
        answers().print(table)
    typer.echo(report.message)


def read_cases(path: Path, word: str | None) -> list[Case]:
    """A JSON list, or a folder in the papers' layout; VolumeError, LabelError, RequestError."""
    from wordmask.learning.cases import cases_from_folder, cases_from_json

    if not path.is_dir():
        return cases_from_json(path)
    if word is None:
        raise RequestError(f"{path.name} is a folder; say what its label maps show, such as --word polyp.")
    return cases_from_folder(path, word)


def setting(text: str) -> tuple[str, str]:
    """``"epochs=20"`` -> ("epochs", "20"); RequestError for anything else."""
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise RequestError(f"--set takes NAME=VALUE, such as epochs=20, got {text!r}.")
    return name.strip(), value.strip()


def described(progress: TrainingProgress) -> str:
    """How far a training is, in a few words."""
    dice = "" if progress.dice is None else f", Dice {progress.dice:.3f}"
    return f"{progress.stage}{dice}"
