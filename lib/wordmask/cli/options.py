"""Options that several commands share, and the functions that parse them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from wordmask.errors import RequestError

Data, Computation = "What to learn from", "How to compute"  # headings of --help

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="change a number of the recipe, such as steps=600; may be repeated",
        rich_help_panel=Computation,
    ),
]


def read_settings(texts: Sequence[str] | None) -> dict[str, str]:
    """``["steps=600"]`` -> {"steps": "600"}; RequestError for anything else."""
    settings = {}
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator or not name or not value:
            raise RequestError(f"--set takes NAME=VALUE, such as steps=600, not {text!r}.")
        settings[name.strip()] = value.strip()
    return settings
