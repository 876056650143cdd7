"""``wordmask check``: whether the installation is sound, this machine can serve, and files can be read."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from wordmask import __version__
from wordmask.cli.check_files import check_files
from wordmask.cli.consoles import answers, messages
from wordmask.environment import machine as machine_check
from wordmask.environment.packages import find_problems, versions
from wordmask.weights.app_folder import default_app
from wordmask.weights.verified_files import cache_folder

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


def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="a studies folder, a list or folder of cases, a DICOM folder or an image, to be read as a "
            "server or a training would",
            show_default=False,
        ),
    ] = None,
    word: Annotated[
        str | None,
        typer.Option("--word", help="what the label maps of a folder of cases show, such as polyp"),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="port that the server will listen on")] = 8000,
    app: Annotated[
        Path | None,
        typer.Option(
            help="app folder of the server; default: monailabel_app here, or wordmask/app in your data folder"
        ),
    ] = None,
) -> None:
    """Check the installation, or read files as a server or a training would.

    Without PATH, it checks Python, packages, system libraries, port, folders and GPU, and prints a remedy for
    each problem. With PATH, it prints one row for each image or case: read, warned, refused or left out, and
    why. The exit status is 2 if there are problems or refused files.

    [bold]Examples[/]

      wordmask check
      wordmask check studies/
      wordmask check cases.json scan.nii.gz
    """
    if paths:
        check_files(paths, word)
        return
    app_folder = app or default_app()
    python = machine_check.find_python_problem()
    problems = [python] if python else find_problems()
    table = Table("what", "found", title=f"WordMask {__version__}", title_justify="left")
    for name, version in versions(REPORTED).items():
        table.add_row(name, version)
    if not problems:  # otherwise an import would fail, slowly and with a long trace
        problems += machine_check.find_library_problems()
    if not problems:
        table.add_row("computes on", _device())
        problems += filter(None, [machine_check.find_device_problem()])
    listening = machine_check.probe_port(port)
    if listening == "taken":
        problems.append(
            f"Port {port} is taken by another program. Stop that program, or start the server with a "
            "different --port."
        )
    problems += machine_check.find_folder_problems(
        {
            "trained models and logs": (app_folder, "choose another folder with --app"),
            "downloaded weights": (cache_folder(), "choose another folder with WORDMASK_WEIGHTS"),
            "temporary files": (Path(tempfile.gettempdir()), "choose another folder with TMPDIR"),
        }
    )
    table.add_row("app folder", escape(str(app_folder)))
    table.add_row("weights folder", escape(str(cache_folder())))
    table.add_row(f"port {port}", "a WordMask server runs there" if listening == "WordMask" else listening)
    answers().print(table)
    for problem in problems:
        messages().print(f"[bold red]wordmask:[/] {escape(problem)}", soft_wrap=True, highlight=False)
    if problems:
        raise typer.Exit(2)
    answers().print("All checks passed.")


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "CPU (Apple GPUs are not supported yet)" if torch.backends.mps.is_available() else "CPU"
