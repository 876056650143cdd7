"""``wordmask check PATH...``: read images and cases as a server or a training would, and list the outcome."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.markup import escape
from rich.table import Table

from wordmask.cli.consoles import answers, messages, progress_bar

STYLES = {"read": "green", "warned": "yellow", "refused": "bold red", "left out": "dim"}
BAD = 2  # exit status when something is refused


def check_files(paths: Sequence[Path], word: str | None) -> None:
    """Print one row per image, case or left-out file of each path; exit status 2 when one is refused."""
    from wordmask.learning.inspection import inspect_path, summarise

    found = []
    for path in paths:
        rows = []
        with progress_bar() as show:
            for finding, number in zip(inspect_path(path, word=word), itertools.count(1), strict=False):
                rows.append(finding)
                show(f"Reading {path.name}: {finding.name}", number, 0)
        table = Table("name", "state", "why", title=escape(str(path)), title_justify="left")
        for row in rows:
            style = STYLES[row.state]
            table.add_row(escape(row.name), f"[{style}]{row.state}[/]", escape(row.reason))
        answers().print(table)
        messages().print(f"{escape(path.name)}: {summarise(rows)}.", highlight=False)
        found += rows
    if any(row.state == "refused" for row in found):
        raise typer.Exit(BAD)
