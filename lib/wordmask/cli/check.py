"""``wordmask check``: is this installation sound, and what would it compute with?"""

from __future__ import annotations

import typer
from rich.markup import escape
from rich.table import Table

from wordmask import __version__
from wordmask.cli.consoles import answers, messages
from wordmask.self_check import find_problems, versions

REPORTED = (
    "monailabel",
    "monai",
    "torch",
    "torchvision",
    "numpy",
    "pydicom",
    "open_clip_torch",
    "segment-anything",
    "peft",
    "timm",
    "transformers",
)


def check() -> None:
    """Compare what is installed with what WordMask needs; exit status 2 and one sentence per problem when something is wrong."""
    table = Table("what", "version", title=f"WordMask {__version__}", title_justify="left")
    for name, version in versions(REPORTED).items():
        table.add_row(name, version)
    problems = find_problems()
    if not problems:
        import torch  # would fail, slowly and loudly, in an environment that is not sound

        table.add_row("computes on", torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")
    answers().print(table)
    for problem in problems:
        messages().print(f"[bold red]wordmask:[/] {escape(problem)}", soft_wrap=True, highlight=False)
    if problems:
        raise typer.Exit(2)
    answers().print("All requirements are met.")
