"""Finds the MONAI Label app folder of a command: the named one, the one here, or the user's own.

An app folder holds ``main.py``, trained versions, logs and the files of requests. Knows folders; not MONAI
Label or models.
"""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_data_path

from wordmask.errors import RequestError

LOCAL_APP = Path("monailabel_app")


def is_app(folder: Path) -> bool:
    """Whether MONAI Label can start the folder as an app."""
    return (folder / "main.py").is_file()


def default_app() -> Path:
    """``monailabel_app`` in the current folder when it is an app, else one in the user's data folder.

    The latter need not exist yet.
    """
    return LOCAL_APP if is_app(LOCAL_APP) else user_data_path("wordmask", appauthor=False) / "app"


def find_app(named: Path | None) -> Path:
    """Find the existing app folder of a command.

    Args:
        named: the folder that the user gave; None: see `default_app`.

    Raises:
        RequestError: the folder is not an app.
    """
    folder = default_app() if named is None else named
    if is_app(folder):
        return folder
    if named is None:
        raise RequestError(
            f"There is no app folder yet, neither {LOCAL_APP} here nor {folder}; `wordmask serve` creates "
            "one."
        )
    raise RequestError(
        f"{folder} is not a MONAI Label app folder, because it has no main.py; name another one with --app."
    )
