"""The consoles of the command line: results go to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


def answers() -> Console:
    """The console for results. Tables keep their width in a pipe, so that a script sees whole lines."""
    return Console(width=None if sys.stdout.isatty() else 200)


def messages() -> Console:
    """The console for progress, warnings and errors."""
    return Console(stderr=True)


@contextmanager
def progress_bar(unit: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """Show (stage, done, total) on stderr if it is a terminal, and clear the bar at the end.

    Args:
        unit: name of what is counted, such as slices.
    """
    console = messages()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None, description=escape(stage))

        yield show
