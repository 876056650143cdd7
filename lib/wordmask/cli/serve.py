"""``wordmask serve``: runs the MONAI Label server in this process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from wordmask.cli.consoles import messages
from wordmask.errors import RequestError
from wordmask.weights.app_folder import default_app


def serve(
    studies: Annotated[
        str, typer.Option(help="folder with your images, or the address of a DICOMweb server")
    ] = "studies",
    app: Annotated[
        Path | None,
        typer.Option(
            help=(
                "folder for trained models and logs, created if missing; default: monailabel_app here, or "
                "wordmask/app in your data folder"
            )
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 8000,
    host: Annotated[
        str, typer.Option(help="address to listen on; 0.0.0.0 lets other machines connect")
    ] = "127.0.0.1",
    conf: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help='a setting, such as models="simple_vilmedsam"; may be repeated'
        ),
    ] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="private key, for https")] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="certificate, for https")] = None,
) -> None:
    """Start the MONAI Label server, and print its address when it is ready.

    Ctrl-C stops it and every training that it started.
    """
    from wordmask_app.serving import ServerOptions, serve

    settings = dict(split_setting(text) for text in conf or ())
    options = ServerOptions(app or default_app(), studies, host, port, settings, ssl_keyfile, ssl_certfile)
    messages().print("The server is starting. The first start takes longest.")
    with contextlib.suppress(
        KeyboardInterrupt
    ):  # not raised where SIGINT is ignored, as in the background of a script
        serve(
            options,
            ready=lambda: typer.echo(f"WordMask is ready at {options.url} (Ctrl-C ends it)."),
            warn=_warn,
        )
    typer.echo("WordMask has stopped.")


def split_setting(text: str) -> tuple[str, str]:
    """Name and value of ``NAME=VALUE``; RequestError when there is no equals sign."""
    name, equals, value = text.partition("=")
    if not equals:
        raise RequestError(
            f"--conf {text!r} has no equals sign; write --conf NAME=VALUE, for example --conf preset=tiny."
        )
    return name.strip(), value.strip()


def _warn(sentence: str) -> None:
    messages().print(f"[bold yellow]wordmask:[/] {escape(sentence)}", soft_wrap=True, highlight=False)
