"""Where the command line writes: answers to stdout, everything else to stderr."""

from __future__ import annotations

import sys

from rich.console import Console


def answers() -> Console:
    """For what was asked for. Tables keep their width in a pipe, so that a script sees whole lines."""
    return Console(width=None if sys.stdout.isatty() else 200)


def messages() -> Console:
    """For progress, warnings and errors."""
    return Console(stderr=True)
