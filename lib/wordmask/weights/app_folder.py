"""Which folder of a MONAI Label app a command means: the one that is named, the one here, or the user's own.

An app folder holds ``main.py``, trained versions, logs and the files of requests. Knows folders; not MONAI
Label, not models.
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
    """``monailabel_app`` in the current folder when it is an app, else ``wordmask/app`` in the user's data
    folder, made or not.
    """
    return LOCAL_APP if is_app(LOCAL_APP) else user_data_path("wordmask", appauthor=False) / "app"


def find_app(named: Path | None) -> Path:
    """The existing app folder that a command means.

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
            f"There is no app folder yet, neither {LOCAL_APP} here nor {folder}; `wordmask serve` makes one."
        )
    raise RequestError(
        f"{folder} is not a MONAI Label app folder, because it has no main.py; name another one with --app."
    )
