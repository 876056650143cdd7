"""``wordmask papers``: repeat the papers' experiments on their data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from wordmask.cli.consoles import answers, messages, progress_bar
from wordmask.cli.evaluate import STOPPED
from wordmask.cli.options import read_settings
from wordmask.environment.packages import require_sound_environment

app = typer.Typer(
    name="papers",
    no_args_is_help=True,
    help="List the papers' experiments and repeat them on their data sets.",
)


@app.command("list")
def list_protocols() -> None:
    """List the experiments, their data sets, and the folders that these must be in."""
    from wordmask.learning.evaluation.papers import data_sets, load_protocol, protocol_names

    for name in protocol_names():
        protocol = load_protocol(name)
        typer.echo(
            f"{name}: {protocol.title}\n  {protocol.source}\n  runs: "
            f"{', '.join(run.label for run in protocol.runs)}"
        )
    layout = "ROOT/<folder>/train and ROOT/<folder>/test, each with images/ and labels/ of equal file names"
    table = Table(title=f"Data sets: {layout}", title_justify="left")
    for heading in ("name", "folder", "word", "from"):
        table.add_column(heading)
    for data_set in data_sets().values():
        table.add_row(data_set.name, data_set.folder, data_set.word, data_set.source)
    answers().print(table)
    typer.echo("In a label map, every value except 0 stands for the word.")


@app.command("run")
def run(
    name: Annotated[str, typer.Argument(help="an experiment of `wordmask papers list`", show_default=False)],
    data: Annotated[Path, typer.Option(metavar="ROOT", help="folder with the data sets", show_default=False)],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="folder to write models, evaluations and the table to", show_default=False
        ),
    ],
    only: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="do only this run; may be repeated")
    ] = None,
    cases: Annotated[
        int | None,
        typer.Option(min=2, help="learn from at most this many cases; default: the number of the experiment"),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="change a number of every recipe, such as epochs=20"
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="model to train")] = "simple_vilmedsam",
    preset: Annotated[str, typer.Option(help="preset of the model: its size and weights")] = (
        "biomedclip_vit_h"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:0")] = "auto",
) -> None:
    """Train and test as a paper did, and print the results beside the published numbers.

    Finished runs are kept. Repeat the command to continue an interrupted experiment.

    [bold]Examples[/]

      wordmask papers run zero_shot --data data/ -o zero_shot
      wordmask papers run few_shot --data data/ -o trial --only Kvasir-SEG --preset tiny --set epochs=5
    """
    require_sound_environment()
    from wordmask.learning.evaluation.paper_runs import ProtocolRequest, cells, headings, run_protocol
    from wordmask.learning.evaluation.papers import load_protocol

    changes = read_settings(change)
    asked = ProtocolRequest(
        load_protocol(name), data, model, preset, device, tuple(only or ()), cases, changes
    )
    try:
        with progress_bar() as progress:
            results = run_protocol(asked, output, progress)
    except KeyboardInterrupt:
        messages().print(
            "wordmask: stopped. Finished runs are kept; repeat the command to continue.",
            soft_wrap=True,
        )
        raise typer.Exit(STOPPED) from None
    table = Table(title=escape(f"{asked.protocol.title} (percent)"), title_justify="left")
    for heading in headings():
        table.add_column(heading, justify="left" if heading == "run" else "right")
    for result in results:
        table.add_row(*(escape(text) for text in cells(result)))
    answers().print(table)
    typer.echo(f"Written to {output}: table.md and a folder for each run.")
