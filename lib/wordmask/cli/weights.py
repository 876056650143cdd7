"""``wordmask weights``: list, fetch, import and pack public pretrained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from wordmask.cli.consoles import answers, messages
from wordmask.errors import WeightsError
from wordmask.weights.catalogue import catalogue, find_entry
from wordmask.weights.transfer import Report, fetch, import_weights, pack_weights
from wordmask.weights.verified_files import cache_folder, is_there

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=(
        "Download and verify public pretrained weights for clinical images, or bring them to a machine "
        "without internet access.\n\n"
        "[bold]With internet[/]\n\n  wordmask weights fetch sam_vit_b\n\n"
        "[bold]Without internet[/] (the first two commands on a machine with internet, the last on the one "
        "without)\n\n"
        "  wordmask weights fetch biomedclip\n"
        "  wordmask weights pack biomedclip -o biomedclip.zip\n"
        "  wordmask weights import biomedclip biomedclip.zip"
    ),
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="a name of `wordmask weights list`", show_default=False)
]
Digests = Annotated[
    list[str] | None,
    typer.Option(
        "--accept-digest", help="a sha256 that you have verified, for files without one in the catalogue"
    ),
]


@app.command("list")
def list_weights() -> None:
    """List the weights, their licences, and which of them are already on this machine."""
    table = Table("name", "size", "licence", "here", "what it is", "published at")
    for name, entry in catalogue().items():
        size = "" if entry.size is None else f"{entry.size / 1e6:,.0f} MB"
        table.add_row(
            name, size, entry.licence, "yes" if is_there(name) else "no", escape(entry.title), entry.source
        )
    answers().print(table)
    messages().print(
        f"Weights are kept in {cache_folder()}. Set WORDMASK_WEIGHTS to choose another folder.",
        soft_wrap=True,
        highlight=False,
    )


@app.command("fetch")
def fetch_weights(
    name: Name,
    accept_digest: Digests = None,
    again: Annotated[bool, typer.Option("--again", help="download again from the beginning")] = False,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="for weights whose licence restricts their use")
    ] = False,
) -> None:
    """Download weights and verify them. An interrupted download continues where it stopped."""
    entry = find_entry(name)
    if entry.restriction and not accept_licence:
        raise WeightsError(
            f"By their licence, {entry.licence}, these weights {entry.restriction} ({entry.source}). If your "
            f"use is allowed, type wordmask weights fetch {name} --accept-licence"
        )
    with _progress_bar() as report:
        path = fetch(name, accept=accept_digest or (), again=again, report=report)
    typer.echo(path)


@app.command("import")
def import_file(
    name: Name,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="a file, a folder with the files, or a packed zip file", show_default=False
        ),
    ],
    accept_digest: Digests = None,
) -> None:
    """Import weights from a file. They are verified like a download."""
    with _progress_bar() as report:
        path = import_weights(name, source, accept=accept_digest or (), report=report)
    typer.echo(path)


@app.command("pack")
def pack(
    name: Name,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="zip file to write; default: NAME.zip")
    ] = None,
) -> None:
    """Pack downloaded weights into one file, to import them on a machine without internet access."""
    path = output or Path(f"{name}.zip")
    digest = pack_weights(name, path)
    typer.echo(f"{path}  sha256 {digest}")


@contextmanager
def _progress_bar() -> Iterator[Report]:
    """Show the bytes downloaded of each file, if stderr is a terminal."""
    console = messages()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(escape(name), total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield show
