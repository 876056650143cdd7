"""``wordmask pretrain``: make the bundled tiny weights again, from nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler

from wordmask.cli.consoles import messages
from wordmask.environment.packages import require_sound_environment


def pretrain(
    run: Annotated[
        Path, typer.Option("--run", help="folder of this run: training slices and checkpoints")
    ] = Path("runs/tiny"),
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="folder for the weights and their card; RUN/bundle when left out"
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="of the phantoms, the first weights and the order of training")
    ] = 1,
) -> None:
    """Train the tiny weights on synthetic phantoms: about two hours on 2 cores.

    Interrupt it when you like: the same command goes on where it stopped. The defaults are those of the
    weights that ship.

    [bold]Example[/]

      wordmask pretrain --run runs/tiny -o runs/tiny/bundle
    """
    require_sound_environment()
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=messages(), show_path=False)]
    )

    from wordmask.pretraining.run import Plan, Pretraining

    target = output or run / "bundle"
    Pretraining(run, Plan(seed=seed)).run(target)
    typer.echo(target)
