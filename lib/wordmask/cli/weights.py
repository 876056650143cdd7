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
from wordmask.weights.catalogue import catalogue
from wordmask.weights.transfer import Report, fetch, import_weights, pack_weights
from wordmask.weights.verified_files import cache_folder, is_there

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=(
        "Public pretrained weights for clinical images: get them, check them, carry them to a machine "
        "without internet.\n\n"
        "[bold]With internet[/]\n\n  wordmask weights fetch sam_vit_b\n\n"
        "[bold]Without[/] (the first two lines where there is internet, the last in the hospital)\n\n"
        "  wordmask weights fetch biomedclip\n"
        "  wordmask weights pack biomedclip -o biomedclip.zip\n"
        "  wordmask weights import biomedclip biomedclip.zip"
    ),
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="as in `wordmask weights list`", show_default=False)
]
Digests = Annotated[
    list[str] | None,
    typer.Option(
        "--accept-digest", help="a sha256 that you have compared, for files that have none in the catalogue"
    ),
]


@app.command("list")
def list_weights() -> None:
    """Show what there is, under which licence, and what is on this machine already."""
    table = Table("name", "size", "licence", "here", "what it is", "published at")
    for name, entry in catalogue().items():
        size = "" if entry.size is None else f"{entry.size / 1e6:,.0f} MB"
        table.add_row(
            name, size, entry.licence, "yes" if is_there(name) else "no", escape(entry.title), entry.source
        )
    answers().print(table)
    messages().print(
        f"They are kept in {cache_folder()} (WORDMASK_WEIGHTS chooses another folder).",
        soft_wrap=True,
        highlight=False,
    )


@app.command("fetch")
def fetch_weights(
    name: Name,
    accept_digest: Digests = None,
    anew: Annotated[bool, typer.Option("--anew", help="forget what was downloaded before")] = False,
) -> None:
    """Download weights into the cache, continuing where an earlier attempt stopped, and verify them."""
    with _progress_bar() as report:
        path = fetch(name, accept=accept_digest or (), anew=anew, report=report)
    typer.echo(path)


@app.command("import")
def import_file(
    name: Name,
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="the file, a folder of the files, or a pack", show_default=False),
    ],
    accept_digest: Digests = None,
) -> None:
    """Take weights from a file that came another way; they are verified like a download."""
    with _progress_bar() as report:
        path = import_weights(name, source, accept=accept_digest or (), report=report)
    typer.echo(path)


@app.command("pack")
def pack(
    name: Name,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="zip file to write; NAME.zip when left out")
    ] = None,
) -> None:
    """Put fetched weights into one file, to be imported on a machine without internet."""
    path = output or Path(f"{name}.zip")
    digest = pack_weights(name, path)
    typer.echo(f"{path}  sha256 {digest}")


@contextmanager
def _progress_bar() -> Iterator[Report]:
    """Bytes done of all, one line per file, on stderr while it is a terminal."""
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
