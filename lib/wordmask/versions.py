"""Published versions of a model: complete or not there at all, and always a way back.

    versions/<n>/weights.safetensors, card.json    what was trained, and on what
    current.json                                   which version serves, and which ones served before it

Knows folders and digests; not what the weights mean. A version is a folder that `bundles.load_bundle` reads. Several processes may
use one store: a training publishes, a server serves.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from wordmask.bundles import CARD, WEIGHTS
from wordmask.errors import RequestError, WeightsError

logger = logging.getLogger(__name__)

CURRENT = "current.json"
DIGEST = "weights_sha256"  # in the card: of the file of weights, as it was published
_STAGED = ".staged-"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class VersionInfo:
    """One published version; card: what its training wrote, empty when it cannot be read; served: whether requests get it now."""

    number: int
    card: dict[str, Any]
    served: bool


class ModelStore:
    """The versions of one model in one folder, which need not exist yet. ``None`` as a version: the preset's own weights."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._lock = FileLock(folder / ".lock")
        self._sound: dict[int, tuple[tuple[int, ...], bool]] = {}  # number -> (state of its files, whether they are whole)

    def folder(self, number: int) -> Path:
        """Where a version lies."""
        return self.path / "versions" / str(number)

    def versions(self) -> list[VersionInfo]:
        """Every published version, oldest first."""
        serving = self.served()
        return [VersionInfo(number, self._card(number), number == serving) for number in self._numbers()]

    def current(self) -> int | None:
        """Which version is meant to serve; see `served`."""
        return self._history()[-1]

    def served(self) -> int | None:
        """The version that serves: the current one, or the last sound one before it, or None. Cheap while no file changes."""
        for number in reversed(self._history()):
            if number is None or self._is_sound(number):
                return number
        return None

    def publish(self, write: Callable[[Path], None]) -> int:
        """Make a version of what ``write`` puts into the folder that it is given, and let it serve. Returns its number.

        WeightsError: what was written is no bundle. Killed at any moment, the version before serves on; numbers are never used again.
        """
        versions = self.path / "versions"
        versions.mkdir(parents=True, exist_ok=True)
        with self._lock:
            for left in versions.glob(f"{_STAGED}*"):
                shutil.rmtree(left, ignore_errors=True)
            staged = Path(tempfile.mkdtemp(dir=versions, prefix=_STAGED))
            try:
                write(staged)
                _seal(staged)
                number = max([0, *self._numbers(), *(n for n in self._history() if n is not None)]) + 1
                staged.rename(self.folder(number))
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise
            _sync(versions)
            self._write([*self._history(), number])
        return number

    def rollback(self, to: int | None = None) -> int | None:
        """Let the version before the one that serves serve again, or version ``to`` (0: the preset's own weights). Returns what serves.

        RequestError: there is nothing before, or no such sound version.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lock:
            history = self._history()
            if to is not None:
                if to != 0 and not self._is_sound(to):
                    raise RequestError(f"There is no usable version {to}; there are {self._listed()} and 0, the weights of the preset.")
                self._write([*history, to or None])
            elif len(history) > 1:
                self._write(history[:-1])
            else:
                raise RequestError("The weights of the preset serve already, so there is nothing to go back to.")
        return self.served()

    def _listed(self) -> str:
        return ", ".join(str(number) for number in self._numbers() if self._is_sound(number)) or "none"

    def _numbers(self) -> list[int]:
        versions = self.path / "versions"
        return sorted(int(path.name) for path in versions.iterdir() if path.name.isdecimal()) if versions.is_dir() else []

    def _history(self) -> list[int | None]:
        """What served, oldest first; begins with the preset's own weights."""
        path = self.path / CURRENT
        try:
            history = json.loads(path.read_text(encoding="utf-8"))["history"]
            if isinstance(history, list) and history and all(n is None or type(n) is int for n in history):
                return history
        except FileNotFoundError:
            return [None]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        logger.warning("%s of the model %s is damaged; the newest sound version serves.", CURRENT, self.path.name)
        return [None, *self._numbers()]

    def _write(self, history: list[int | None]) -> None:
        """Replace current.json at once: a reader sees the old one or the new one."""
        text = json.dumps({"version": history[-1], "history": history})
        handle, name = tempfile.mkstemp(dir=self.path, prefix=_STAGED)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self.path / CURRENT)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync(self.path)

    def _card(self, number: int) -> dict[str, Any]:
        try:
            card = json.loads((self.folder(number) / CARD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return card if isinstance(card, dict) else {}

    def _is_sound(self, number: int) -> bool:
        """Whether the files are those that were published; looked at again only when they change."""
        state = (*_state(self.folder(number) / WEIGHTS), *_state(self.folder(number) / CARD))
        known = self._sound.get(number)
        if known is not None and known[0] == state:
            return known[1]
        published = self._card(number).get(DIGEST)
        sound = published is not None and published == _digest(self.folder(number) / WEIGHTS)
        if not sound:
            logger.warning("Version %d of the model %s is damaged or missing; the version before it serves.", number, self.path.name)
        self._sound[number] = (state, sound)
        return sound


def _seal(folder: Path) -> None:
    """Write the digest of the weights into the card, and everything to the disk."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"What was to be published has no readable {CARD}.") from error
    digest = _digest(folder / WEIGHTS)
    if digest is None:
        raise WeightsError(f"What was to be published has no {WEIGHTS}.")
    (folder / CARD).write_text(json.dumps({**card, DIGEST: digest}, indent=1) + "\n", encoding="utf-8")
    for name in (WEIGHTS, CARD):
        _sync(folder / name)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> str | None:
    """SHA-256 of a file's content in hex; None when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def _state(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_size, status.st_ino)
