"""Where WordMask is installed on this computer: the Python environment that a person chooses, and what is
missing in it.

Reads files and runs nothing. Knows how environments look on disk; not servers.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..client.errors import ServerStartError

_PROGRAMS = ("bin", "Scripts")
_PYTHONS = ("bin/python", "bin/python3", "Scripts/python.exe", "python.exe")
_SITE_PACKAGES = (
    "lib/python3*/site-packages",
    "lib64/python3*/site-packages",
    "Lib/site-packages",
    "local/lib/python3*/dist-packages",
)


@dataclass(frozen=True)
class ServerEnvironment:
    """A Python environment with MONAI Label and WordMask.

    Attributes:
        folder: of the environment
        python: its interpreter
        version: of WordMask, "" if it is not known
        source: the folder of an editable installation, None for another kind
    """

    folder: Path
    python: Path
    version: str
    source: Path | None

    @property
    def app_folder(self) -> Path | None:
        """The app folder of an editable installation, with its trained models; None for another kind."""
        app = None if self.source is None else self.source / "monailabel_app"
        return app if app is not None and (app / "main.py").is_file() else None


def find_environment(chosen: str | Path) -> ServerEnvironment:
    """Find the environment that a person means; ServerStartError says what is missing in it.

    ``chosen`` is the environment itself, its ``bin`` or ``Scripts`` folder, its Python, or a folder that
    contains ``.venv`` (such as a clone of WordMask).
    """
    path = Path(chosen).expanduser().absolute()
    if not path.exists():
        raise ServerStartError(
            f"There is no folder {path.name!r}; choose the Python environment in which WordMask is installed."
        )
    for folder in _candidates(path):
        python = next((folder / name for name in _PYTHONS if (folder / name).is_file()), None)
        if python is not None:  # not resolved: a link leads to the base Python, which lacks the packages
            return _describe(folder, python)
    raise ServerStartError(
        f"{path.name!r} is not a Python environment, because it has neither bin/python nor "
        "Scripts/python.exe; "
        "choose the one in which WordMask is installed."
    )


def _candidates(path: Path) -> list[Path]:
    """Return the folders that may be the environment."""
    if path.is_file():
        return [path.parent.parent if path.parent.name in _PROGRAMS else path.parent]
    return [path.parent] if path.name in _PROGRAMS else [path, path / ".venv", path / "venv", path / "env"]


def _describe(folder: Path, python: Path) -> ServerEnvironment:
    """Describe an environment by its packages; ServerStartError if one is certainly missing."""
    found = {name: _find_installed(folder, name) for name in ("monailabel", "wordmask")}
    if not _uses_outside_packages(folder):  # else the packages may lie elsewhere
        for name, title in (("monailabel", "MONAI Label"), ("wordmask", "WordMask")):
            if found[name] is None:
                raise ServerStartError(
                    f"{title} is not installed in the environment {folder.name!r}; choose the one in which "
                    "WordMask is."
                )
    own = found["wordmask"]
    if own is None:
        return ServerEnvironment(folder, python, "", None)
    version = re.fullmatch(r"wordmask-(.+)\.dist-info", own.name)
    return ServerEnvironment(folder, python, version.group(1) if version else "", _editable_source(own))


def _find_installed(folder: Path, name: str) -> Path | None:
    """Return the folder of an installed package's metadata."""
    for pattern in _SITE_PACKAGES:
        for packages in sorted(folder.glob(pattern)):
            for kept in sorted(packages.glob(f"{name}-*.dist-info")):
                return kept
    return None


def _uses_outside_packages(folder: Path) -> bool:
    """Whether the environment also uses packages outside of it."""
    try:
        settings = (folder / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return (
        re.search(r"^include-system-site-packages\s*=\s*true", settings, flags=re.MULTILINE | re.IGNORECASE)
        is not None
    )


def _editable_source(kept: Path) -> Path | None:
    """Return the source folder of an editable installation."""
    try:
        url = urlsplit(json.loads((kept / "direct_url.json").read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    path = unquote(url.path)
    if url.scheme != "file":
        return None
    return Path(path.lstrip("/") if re.match(r"/[A-Za-z]:", path) else path)
