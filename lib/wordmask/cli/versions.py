"""``wordmask models``, and the choice of a version for other commands."""

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

APP_HELP = (
    "app folder with the model's versions in APP/model; default: monailabel_app here, or wordmask/app in "
    "your data folder"
)

models = typer.Typer(
    name="models",
    no_args_is_help=True,
    help="List the versions of trained models, or go back to an earlier one.",
)

AnApp = Annotated[
    Path | None,
    typer.Option(
        "--app",
        help="app folder with the trained versions; default: monailabel_app here, or wordmask/app in your "
        "data folder",
        rich_help_panel="Which weights",
    ),
]
AVersion = Annotated[
    int | None,
    typer.Option(
        "--version",
        min=0,
        help="trained version, 0 for the preset's own weights; default: the version in use",
        rich_help_panel="Which weights",
    ),
]


@models.command("list")
def list_models(
    app: Annotated[Path | None, typer.Option(help=APP_HELP)] = None,
    model: Annotated[str, typer.Option(help="model whose versions to list")] = "simple_vilmedsam",
) -> None:
    """List the versions of a model and mark the version in use."""
    store = store_of(app, model)
    table = Table(title=f"{model}: versions", title_justify="left")
    for heading in ("version", "in use", "made", "from", "cases", "words", "validation, before -> after"):
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
        int | None,
        typer.Argument(min=0, help="version, 0 for the preset's own weights; default: the previous version"),
    ] = None,
    app: Annotated[Path | None, typer.Option(help=APP_HELP)] = None,
    model: Annotated[str, typer.Option(help="model to roll back")] = "simple_vilmedsam",
) -> None:
    """Go back to an earlier version. A running server uses it from the next request on."""
    now = store_of(app, model).rollback(to)
    typer.echo(f"{model} now uses {'the weights of its preset' if now is None else f'version {now}'}.")


def store_of(app: Path | None, model: str) -> ModelStore:
    """The version store of a model in the app folder that `find_app` finds.

    Raises:
        RequestError: there is no app folder.
        UnknownModelError: there is no such model.
    """
    from wordmask.models.loading import segmenter_class
    from wordmask.weights.versions import ModelStore

    segmenter_class(model)
    return ModelStore(find_app(app) / "model" / model)


def chosen_version(app: Path | None, model: str, version: int | None, preset: str) -> tuple[int, Path | None]:
    """Number and folder of a version, (0, None) for the preset's own weights.

    Args:
        app: the app folder; None: `default_app`, if it exists.
        model: name of the model.
        version: number of the version; None: the version in use.
        preset: preset that the version must have been trained from.

    Raises:
        RequestError: there is no such version or app, or the version belongs to another preset.
        WeightsError: the card of the version cannot be read.
    """
    from wordmask.weights.checkpoint import read_card

    store = None if app is None and not is_app(default_app()) else store_of(app, model)
    number = version if version is not None else (store.served() or 0 if store else 0)
    if not number:
        return 0, None
    if store is None:
        raise RequestError(
            f"Version {number} cannot be found, because there is no app folder here; name one with --app."
        )
    if not store.folder(number).is_dir():
        there = ", ".join(str(info.number) for info in store.versions()) or "none"
        raise RequestError(
            f"There is no version {number} of {store.path.name}; versions: {there}, and 0 for the weights of "
            "the preset."
        )
    trained = read_card(store.folder(number)).preset or preset
    if trained != preset:
        raise RequestError(
            f"Version {number} was trained from the preset {trained!r}, not {preset!r}; add --preset "
            f"{trained}, or --version 0."
        )
    return number, store.folder(number)


def _check(card: Card) -> str:
    """Validation before and after: retrieval if the training tuned CLIP, mean Dice otherwise."""
    if card.retrieval:
        sides = (card.retrieval.before, card.retrieval.after)
        return f"retrieval {' -> '.join('none' if side is None else f'{side.top1:.3f}' for side in sides)}"
    return f"Dice {_mean(card.validation_dice_before)} -> {_mean(card.validation_dice)}"


def _mean(scores: Scores) -> str:
    known = [score for score in scores.values() if score is not None]
    return f"{sum(known) / len(known):.3f}" if known else "none"
