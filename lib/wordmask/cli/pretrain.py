"""``wordmask pretrain``: train the bundled tiny weights from scratch."""

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
        Path, typer.Option("--run", help="folder to keep training slices and checkpoints in")
    ] = Path("runs/tiny"),
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="folder to write the weights and their card to; default: RUN/bundle"
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="seed of the phantoms, the initial weights and the order of training")
    ] = 1,
) -> None:
    """Train the tiny weights on synthetic phantoms: about two hours on 2 cores.

    You can interrupt it at any time: the same command continues where it stopped. With the default options
    it trains the weights that are bundled.

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
