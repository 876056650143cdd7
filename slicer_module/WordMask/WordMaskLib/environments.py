"""Where WordMask is installed on this machine: the Python environment that a person chooses, and what is missing when it is another.

Looks at files and runs nothing. Knows how environments look on disk; not servers.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .errors import ServerStartError

_PROGRAMS = ("bin", "Scripts")
_PYTHONS = ("bin/python", "bin/python3", "Scripts/python.exe", "python.exe")
_SCRIPTS = ("bin/monailabel", "Scripts/monailabel.bat", "Scripts/monailabel.exe")
_SITE_PACKAGES = ("lib/python3*/site-packages", "lib64/python3*/site-packages", "Lib/site-packages", "local/lib/python3*/dist-packages")
_APP_FILE = '''"""What MONAI Label loads: see wordmask_app."""

from wordmask_app.app import WordMaskApp

__all__ = ["WordMaskApp"]
'''


@dataclass(frozen=True)
class ServerEnvironment:
    """A Python environment with MONAI Label and WordMask. command: what starts `monailabel`; version: of WordMask, "" when not known;
    source: the folder of an editable installation, None for another kind.
    """

    folder: Path
    command: tuple[str, ...]
    version: str
    source: Path | None

    @property
    def app_folder(self) -> Path | None:
        """The app folder that came with the installation, None when there is none."""
        app = None if self.source is None else self.source / "monailabel_app"
        return app if app is not None and (app / "main.py").is_file() else None


def find_environment(chosen: str | Path) -> ServerEnvironment:
    """The environment that somebody means by a folder; ServerStartError says what is missing in it.

    chosen: the environment itself, its ``bin`` or ``Scripts`` folder, its Python, or a folder with ``.venv`` in it (WordMask's own).
    """
    path = Path(chosen).expanduser().absolute()
    if not path.exists():
        raise ServerStartError(f"There is no folder {path.name!r}; choose the Python environment in which WordMask is installed.")
    for folder in _meant_by(path):
        command = _command_in(folder)
        if command:
            return _described(folder, command)
    raise ServerStartError(f"{path.name!r} is no Python environment: it has no bin/python and no bin/monailabel; choose that of WordMask.")


def app_folder_in(folder: Path) -> Path:
    """A folder that MONAI Label can start WordMask from: ``folder``, with the file that it needs. ServerStartError: it cannot be made.

    Models that are trained, requests and logs are kept there. For an installation without an app folder of its own.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        main = folder / "main.py"
        if not main.exists():
            main.write_text(_APP_FILE, encoding="utf-8")
    except OSError:
        raise ServerStartError(f"The folder {folder.name!r} for models and logs cannot be made; choose one that you may change.") from None
    return folder


def _meant_by(path: Path) -> list[Path]:
    """The folders that may be the environment."""
    if path.is_file():
        return [path.parent.parent if path.parent.name in _PROGRAMS else path.parent]
    return [path.parent] if path.name in _PROGRAMS else [path, path / ".venv", path / "venv", path / "env"]


def _command_in(folder: Path) -> tuple[str, ...]:
    python = next((folder / name for name in _PYTHONS if (folder / name).is_file()), None)
    if python is not None:
        return str(python), "-m", "monailabel.main"
    script = next((folder / name for name in _SCRIPTS if (folder / name).is_file()), None)
    return () if script is None else (str(script),)


def _described(folder: Path, command: tuple[str, ...]) -> ServerEnvironment:
    """The environment with what its packages say; ServerStartError when one is missing for certain."""
    found = {name: _installed(folder, name) for name in ("monailabel", "wordmask")}
    if not _borrows(folder):  # else the packages may lie elsewhere
        for name, title in (("monailabel", "MONAI Label"), ("wordmask", "WordMask")):
            if found[name] is None:
                raise ServerStartError(f"{title} is not installed in the environment {folder.name!r}; choose the one in which WordMask is.")
    own = found["wordmask"]
    if own is None:
        return ServerEnvironment(folder, command, "", None)
    version = re.fullmatch(r"wordmask-(.+)\.dist-info", own.name)
    return ServerEnvironment(folder, command, version.group(1) if version else "", _source(own))


def _installed(folder: Path, name: str) -> Path | None:
    """What the environment keeps of an installed package."""
    for pattern in _SITE_PACKAGES:
        for packages in sorted(folder.glob(pattern)):
            for kept in sorted(packages.glob(f"{name}-*.dist-info")):
                return kept
    return None


def _borrows(folder: Path) -> bool:
    """Whether the environment also uses packages of another place."""
    try:
        settings = (folder / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return re.search(r"^include-system-site-packages\s*=\s*true", settings, flags=re.MULTILINE | re.IGNORECASE) is not None


def _source(kept: Path) -> Path | None:
    """The folder of an editable installation."""
    try:
        url = urlsplit(json.loads((kept / "direct_url.json").read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    path = unquote(url.path)
    if url.scheme != "file":
        return None
    return Path(path.lstrip("/") if re.match(r"/[A-Za-z]:", path) else path)
