"""``wordmask models``, and which version of a model a command means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from wordmask.cli.consoles import answers
from wordmask.errors import RequestError
from wordmask.weights.app_folder import default_app, find_app, is_app

if TYPE_CHECKING:
    from wordmask.weights.card import Card, Scores
    from wordmask.weights.versions import ModelStore

APP_HELP = "the app folder, with the model's versions in APP/model; else monailabel_app here, or your own"

models = typer.Typer(
    name="models", no_args_is_help=True, help="Versions of trained models: list them, go back."
)

AnApp = Annotated[
    Path | None,
    typer.Option(
        "--app",
        help="the app whose trained versions are meant; else monailabel_app here, or your own",
        rich_help_panel="Which weights",
    ),
]
AVersion = Annotated[
    int | None,
    typer.Option(
        "--version",
        min=0,
        help="version of the app, 0: the preset's own; else the one that serves",
        rich_help_panel="Which weights",
    ),
]


@models.command("list")
def list_models(
    app: Annotated[Path | None, typer.Option(help=APP_HELP)] = None,
    model: Annotated[str, typer.Option(help="which model")] = "simple_vilmedsam",
) -> None:
    """The versions of a model; the one that serves is marked."""
    store = store_of(app, model)
    table = Table(title=f"{model}: versions", title_justify="left")
    for heading in ("version", "serves", "made", "from", "cases", "words", "check, before -> after"):
        table.add_column(heading)
    table.add_row("0", "yes" if store.served() is None else "", "", "", "", "those of the preset", "")
    for info in store.versions():
        card = info.card
        table.add_row(
            str(info.number), "yes" if info.served else "", card.date or "", str(card.parent or 0),
            str(card.training_groups or len(card.training_cases)), str(len(card.words)), _check(card),
        )  # fmt: skip
    answers().print(table)


@models.command("rollback")
def rollback(
    to: Annotated[
        int | None, typer.Argument(min=0, help="version; 0: the preset's own; else the one before")
    ] = None,
    app: Annotated[Path | None, typer.Option(help=APP_HELP)] = None,
    model: Annotated[str, typer.Option(help="which model")] = "simple_vilmedsam",
) -> None:
    """Let an earlier version serve; a server that runs answers its next request with it."""
    now = store_of(app, model).rollback(to)
    typer.echo(f"{model} serves {'the weights of its preset' if now is None else f'version {now}'} now.")


def store_of(app: Path | None, model: str) -> ModelStore:
    """The versions of a model in an app's folder, as `find_app` finds it.

    RequestError when there is none, UnknownModelError.
    """
    from wordmask.models.loading import segmenter_class
    from wordmask.weights.versions import ModelStore

    segmenter_class(model)
    return ModelStore(find_app(app) / "model" / model)


def chosen_version(app: Path | None, model: str, version: int | None, preset: str) -> tuple[int, Path | None]:
    """Number and folder of the version that is meant, (0, None) for the preset's own weights.

    app: None means `default_app`, where there is one; version: None means the one that serves. RequestError,
    WeightsError.
    """
    from wordmask.weights.checkpoint import read_card

    store = None if app is None and not is_app(default_app()) else store_of(app, model)
    number = version if version is not None else (store.served() or 0 if store else 0)
    if not number:
        return 0, None
    if store is None:
        raise RequestError(
            f"Version {number} is looked for in an app, and there is none here; name its folder with --app."
        )
    if not store.folder(number).is_dir():
        there = ", ".join(str(info.number) for info in store.versions()) or "none"
        raise RequestError(
            f"There is no version {number} of {store.path.name}; there are {there}, and 0 for the weights of "
            "the preset."
        )
    trained = read_card(store.folder(number)).preset or preset
    if trained != preset:
        raise RequestError(
            f"Version {number} was trained from the preset {trained!r}; add --preset {trained}, or --version "
            "0."
        )
    return number, store.folder(number)


def _check(card: Card) -> str:
    """Mean Dice of a version that was trained, retrieval of one whose CLIP was tuned."""
    if card.retrieval:
        sides = (card.retrieval.before, card.retrieval.after)
        return f"retrieval {' -> '.join('none' if side is None else f'{side.top1:.3f}' for side in sides)}"
    return f"Dice {_mean(card.validation_dice_before)} -> {_mean(card.validation_dice)}"


def _mean(scores: Scores) -> str:
    known = [score for score in scores.values() if score is not None]
    return f"{sum(known) / len(known):.3f}" if known else "none"
