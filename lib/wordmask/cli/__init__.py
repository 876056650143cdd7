"""The ``wordmask`` command.

One file per subcommand. Each imports what needs torch only when it runs, so that --help is quick.

Results go to stdout, progress and warnings to stderr. Only `main` turns WordMask's errors into one sentence
and exit status 2.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from wordmask import __version__
from wordmask.cli import (
    check,
    evaluate,
    papers,
    pretrain,
    segment,
    serve,
    train,
    versions,
    weights,
    words,
)
from wordmask.cli.consoles import messages
from wordmask.errors import WordMaskError

app = typer.Typer(
    name="wordmask",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "The bundled weights (preset tiny) demonstrate the workflow. Clinical images need public weights "
        "and training."
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wordmask {__version__}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Type a word, get a mask.

    WordMask segments what you name in a CT, MR, ultrasound, x-ray, endoscopy or skin image.

    [bold]Try[/]

      wordmask segment ct.nii.gz "liver, spleen" -o labels.nii.gz
      wordmask serve --studies FOLDER
      wordmask words sple
      wordmask weights list
    """


app.command("segment")(segment.segment)
app.command("serve")(serve.serve)
app.command("words")(words.words)
app.add_typer(weights.app, name="weights")
app.command("train")(train.train)
app.add_typer(versions.models, name="models")
app.command("evaluate")(evaluate.evaluate)
app.add_typer(papers.app, name="papers")
app.command("pretrain")(pretrain.pretrain)
app.command("check")(check.check)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (those of the process when None) and return the exit status.

    0: done, even if a word is not in the image. 2: the request cannot be carried out, and one sentence on
    stderr says why.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without umlauts shows their codes instead
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=None if arguments is None else list(arguments), prog_name="wordmask")
    except WordMaskError as error:
        messages().print(f"[bold red]wordmask:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        reason = f"{Path(str(error.filename)).name} cannot be used ({error.strerror}); choose another path."
        messages().print(f"[bold red]wordmask:[/] {escape(reason)}", soft_wrap=True, highlight=False)
        return 2
    except KeyboardInterrupt:
        messages().print("wordmask: stopped. Nothing was written.", soft_wrap=True)
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    return 0
