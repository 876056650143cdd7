"""``wordmask train`` and ``wordmask models``: learn from labelled cases, and say which version serves."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from wordmask.cli.consoles import answers, messages
from wordmask.errors import RequestError
from wordmask.self_check import require_sound_environment

if TYPE_CHECKING:
    from wordmask.cases import Case
    from wordmask.training.finetune import TrainingProgress
    from wordmask.versions import ModelStore

Data, Computation = "What to learn from", "How to compute"
APP = Path("monailabel_app")

models = typer.Typer(name="models", no_args_is_help=True, help="Versions of trained models: list them, go back.")


def train(
    cases: Annotated[
        Path,
        typer.Argument(
            metavar="CASES", help='a JSON list of {"image", "label", "names"}, or a folder with images/ and labels/', show_default=False
        ),
    ],
    word: Annotated[
        str | None, typer.Option(help="what the label maps of a folder show, such as polyp", rich_help_panel=Data)
    ] = None,
    app: Annotated[Path, typer.Option(help="the app whose model learns: its versions lie in APP/model", rich_help_panel=Data)] = APP,
    recipe: Annotated[str, typer.Option(help="few_shot or zero_shot", rich_help_panel=Computation)] = "few_shot",
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="a number of the recipe, such as epochs=20", rich_help_panel=Computation),
    ] = None,
    start: Annotated[
        int | None, typer.Option(min=0, help="version to go on from, 0: the preset's own; else the one that serves", rich_help_panel=Data)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="publish also when the check shows no gain, or without one")] = False,
    model: Annotated[str, typer.Option(help="which model", rich_help_panel=Computation)] = "simple_vilmedsam",
    preset: Annotated[str, typer.Option(help="which size and weights of it", rich_help_panel=Computation)] = "tiny",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:0", rich_help_panel=Computation)] = "auto",
) -> None:
    """Learn from labelled cases; a better model is published and serves at once, also in a server that runs.

    Cases are divided into those that are learned from and those that check the result, and a case keeps its side for good. Nothing is
    published before the end: stop it when you like.

    [bold]Examples[/]

      wordmask train cases.json
      wordmask train kvasir/ --word polyp --set epochs=20
      wordmask models list
    """
    require_sound_environment()
    from wordmask.training.finetune import TrainingRequest, train_model
    from wordmask.training.recipes import load_recipe

    chosen = load_recipe(recipe, **dict(setting(text) for text in change or []))
    found = read_cases(cases, word)
    run_folder = Path(tempfile.mkdtemp(prefix="wordmask-train-"))
    try:
        with ProgressBar(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=messages(), transient=True, disable=not messages().is_terminal,
        ) as bar:  # fmt: skip
            task = bar.add_task("starting", total=None)

            def show(progress: TrainingProgress) -> None:
                bar.update(task, completed=progress.done, total=progress.total or None, description=_described(progress))

            request = TrainingRequest(model, preset, chosen, device, start, force)
            report = train_model(found, request, store_of(app, model), run_folder=run_folder, report=show)
    finally:
        shutil.rmtree(run_folder, ignore_errors=True)
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


@models.command("list")
def list_models(
    app: Annotated[Path, typer.Option(help="the app whose model it is")] = APP,
    model: Annotated[str, typer.Option(help="which model")] = "simple_vilmedsam",
) -> None:
    """The versions of a model; the one that serves is marked."""
    store = store_of(app, model)
    table = Table(title=f"{model}: versions", title_justify="left")
    for heading in ("version", "serves", "made", "from", "cases", "words", "mean Dice, before -> after"):
        table.add_column(heading)
    table.add_row("0", "yes" if store.served() is None else "", "", "", "", "those of the preset", "")
    for info in store.versions():
        card = info.card
        scores = [_mean(card.get(name)) for name in ("validation_dice_before", "validation_dice")]
        table.add_row(
            str(info.number), "yes" if info.served else "", str(card.get("date", "")), str(card.get("parent") or 0),
            str(len(card.get("training_cases", []))), str(len(card.get("words", []))), " -> ".join(scores),
        )  # fmt: skip
    answers().print(table)


@models.command("rollback")
def rollback(
    to: Annotated[int | None, typer.Argument(min=0, help="version; 0: the preset's own; else the one before")] = None,
    app: Annotated[Path, typer.Option(help="the app whose model it is")] = APP,
    model: Annotated[str, typer.Option(help="which model")] = "simple_vilmedsam",
) -> None:
    """Let an earlier version serve; a server that runs answers its next request with it."""
    now = store_of(app, model).rollback(to)
    typer.echo(f"{model} serves {'the weights of its preset' if now is None else f'version {now}'} now.")


def read_cases(path: Path, word: str | None) -> list[Case]:
    """A JSON list, or a folder in the papers' layout; VolumeError, LabelError, RequestError."""
    from wordmask.cases import cases_from_folder, cases_from_json

    if not path.is_dir():
        return cases_from_json(path)
    if word is None:
        raise RequestError(f"{path.name} is a folder; say what its label maps show, such as --word polyp.")
    return cases_from_folder(path, word)


def store_of(app: Path, model: str) -> ModelStore:
    """The versions of a model in an app's folder; RequestError when it is none, UnknownModelError."""
    from wordmask.segmenters.base import segmenter_class
    from wordmask.versions import ModelStore

    segmenter_class(model)
    if not (app / "main.py").is_file():
        raise RequestError(f"{app} is no folder of a MONAI Label app (it has no main.py); name it with --app.")
    return ModelStore(app / "model" / model)


def setting(text: str) -> tuple[str, str]:
    """``"epochs=20"`` -> ("epochs", "20"); RequestError for anything else."""
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise RequestError(f"--set takes NAME=VALUE, such as epochs=20, got {text!r}.")
    return name.strip(), value.strip()


def _described(progress: TrainingProgress) -> str:
    dice = "" if progress.dice is None else f", Dice {progress.dice:.3f}"
    return f"{progress.stage}{dice}"


def _mean(scores: dict[str, float] | None) -> str:
    return f"{sum(scores.values()) / len(scores):.3f}" if scores else "none"
