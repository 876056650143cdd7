"""One real `wordmask serve` with the bundled model for all tests of a run, started as the module starts it.

It asks for tokens, takes uploads of 8 MB, and lets two jobs wait. Tests leave its queue empty, and give what
they upload new names.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.servers import REPOSITORY, copy_app, copy_studies
from WordMaskLib.client.client import WordMaskClient
from WordMaskLib.server.server_process import (
    LocalServer,
    find_environment,
    free_port,
    server_command,
    server_variables,
)

MODEL, CT, PICTURE = "simple_vilmedsam", "ct_trunk", "dermoscopy_1"
PATIENCE = 180.0  # the machine may be busy
ROLES = ("monailabel-user", "monailabel-annotator", "monailabel-admin")


@dataclass(frozen=True)
class Running:
    """token: of its administrator; client: with that token; realm: makes tokens with other roles; app,
    studies: its folders.
    """

    process: LocalServer
    token: str
    client: WordMaskClient
    realm: Any
    app: Path
    studies: Path

    @property
    def url(self) -> str:
        return str(self.process.address)


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[Running]:
    """The server, which works in ``folder``; it ends with the block. ServerStartError."""
    with auth_realm().running_realm() as keys:
        app, studies = copy_of_app(folder)
        variables = server_variables(
            {**os.environ, "MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": keys.url}
        )
        port = free_port(0)
        conf = {"device": "cpu", "upload_mb": "8", "queue": "2"}
        command = server_command(find_environment(sys.prefix), app, studies, port, conf=conf)
        with LocalServer(command, port, folder / "log", variables) as process:
            token = keys.token(*ROLES, seconds=3600)
            yield Running(
                process, token, WordMaskClient(process.address, token, timeout=PATIENCE), keys, app, studies
            )


def copy_of_app(folder: Path) -> tuple[Path, Path]:
    """A copy of the app, and studies."""
    return copy_app(folder), copy_studies(
        folder, f"{CT}.nii.gz", f"{PICTURE}.png", "dermoscopy_2.png", "dermoscopy_3.png"
    )


def auth_realm() -> Any:
    """tests/integration/auth_realm.py, by its place: MONAI Label installs a package tests.integration, which
    would be found instead.
    """
    spec = importlib.util.spec_from_file_location(
        "auth_realm", REPOSITORY / "tests" / "integration" / "auth_realm.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
