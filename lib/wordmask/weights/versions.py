"""Published versions of a model, each complete or absent, with a way back.

    versions/<n>/weights.safetensors, card.json    the weights of a version and their card
    current.json                                   the version in use, and the ones in use before it

A version is a folder that `load_checkpoint` reads. Several processes may use one store: a training publishes,
a server serves. Knows folders and digests; not what the weights mean.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from wordmask.errors import RequestError, WeightsError
from wordmask.files import replace_file, replace_text, sha256_of, sync
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import CARD, WEIGHTS, read_card

logger = logging.getLogger(__name__)

CURRENT = "current.json"
PATIENCE = 60.0  # seconds to wait for another process that publishes or rolls back
_STAGED = ".staged-"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class VersionInfo:
    """One published version.

    Attributes:
        number: counted from 1.
        card: what its training wrote; empty when it cannot be read.
        served: whether it is the version in use.
    """

    number: int
    card: Card
    served: bool


@dataclass(frozen=True)
class _Current:
    """The content of current.json.

    Attributes:
        history: the versions in use so far, oldest first; rollback walks back through them.
        last: the highest number that was ever used.
    """

    history: tuple[int | None, ...] = (None,)
    last: int = 0

    @classmethod
    def parse(cls, text: str) -> _Current:
        """Read what `text` wrote.

        Raises:
            ValueError, TypeError, LookupError, AttributeError, RecursionError: the file is damaged.
        """
        content = json.loads(text)
        history, last = content["history"], content.get("last", 0)
        if (
            not history
            or not all(n is None or _is_number(n) for n in history)
            or not (last == 0 or _is_number(last))
        ):
            raise ValueError(history)
        return cls(tuple(history), last)

    def text(self) -> str:
        return json.dumps({"version": self.history[-1], "history": self.history, "last": self.last}) + "\n"


class ModelStore:
    """The versions of one model.

    The version ``None`` stands for the preset's own weights. Threads may share one object. Only `publish` and
    `rollback` write.

    Args:
        folder: holds the versions; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._lock = FileLock(folder / ".lock", timeout=PATIENCE)
        self._looking = threading.Lock()
        self._read: tuple[bytes | None, _Current] | None = None  # current.json, what it says
        # Number -> (state of its files, whether it can be used).
        self._sound: dict[int, tuple[tuple[int, ...], bool]] = {}

    def __reduce__(self) -> tuple[type[ModelStore], tuple[Path]]:
        """Pickle the folder alone, so that another process gets a store of its own on it."""
        return ModelStore, (self.path,)

    def folder(self, number: int) -> Path:
        """The folder of a version, whether it exists or not."""
        return self.path / "versions" / str(number)

    def versions(self) -> list[VersionInfo]:
        """Every published version, oldest first, including damaged ones."""
        serving = self.served()
        return [VersionInfo(number, self._card(number), number == serving) for number in self._numbers()]

    def current(self) -> int | None:
        """The version that was published or chosen last, even when it cannot be used; see `served`."""
        return self._current().history[-1]

    def served(self) -> int | None:
        """The version in use: the current one, or the last usable one before it, or None.

        Cheap enough for every request: files are read again only when they change. A skipped version is
        logged once.
        """
        return next((n for n in reversed(self._current().history) if n is None or self._is_sound(n)), None)

    def publish(self, write: Callable[[Path], None]) -> int:
        """Publish a version and put it into use.

        When the process is killed, the version before stays in use, and the next call removes the leftovers.

        Args:
            write: puts a checkpoint into the folder that it is given.

        Returns:
            The number of the version; numbers are never used again.

        Raises:
            WeightsError: ``write`` wrote something else than a checkpoint, or another process keeps the store
                busy.
            OSError: the disk is full or fails; nothing is published.
        """
        with self._lock_folder():
            now = self._current()
            # Otherwise a first version whose publishing is killed would look like a lost current.json.
            if not (self.path / CURRENT).exists():
                replace_text(self.path / CURRENT, now.text())
            number = self._last(now) + 1
            staged = self._staging(number)
            try:
                write(staged)
                _seal(staged)
                with replace_file(self.path / CURRENT) as part:
                    part.write_text(_Current((*now.history, number), number).text(), encoding="utf-8")
                    sync(part)  # before the renames, which need no room on the disk
                    staged.rename(self.folder(number))
                    sync(self.path / "versions")
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise
        logger.info("Version %d of the model %s is published and in use.", number, self.path.name)
        return number

    def rollback(self, to: int | None = None) -> int | None:
        """Put an earlier version into use.

        The version that was in use is kept: its number can be given as ``to`` later.

        Args:
            to: number of the version, 0 for the preset's own weights; None for the version before the one in
                use.

        Returns:
            The version in use now.

        Raises:
            RequestError: there is no version before, or no usable version ``to``.
            WeightsError: another process keeps the store busy.
        """
        with self._lock_folder():
            now = self._current()
            wanted = self._before(now.history) if to is None else to or None
            if wanted is not None and not (wanted in self._numbers() and self._is_sound(wanted)):
                usable = (
                    ", ".join(str(number) for number in self._numbers() if self._is_sound(number)) or "none"
                )
                raise RequestError(
                    f"The model {self.path.name!r} has no usable version {wanted}; there are {usable}, and 0 "
                    "for the weights of the preset."
                )
            history = _cut_after(now.history, wanted) or (*now.history, wanted)
            replace_text(self.path / CURRENT, _Current(history, self._last(now)).text())
        logger.info(
            "The model %s went back to %s.",
            self.path.name,
            "the weights of its preset" if wanted is None else f"version {wanted}",
        )
        return wanted

    def reject(self, number: int, why: str) -> None:
        """Skip a version in this process until its files change.

        For files that are complete, but from which no model could be built.

        Args:
            number: of the version.
            why: for the log.
        """
        logger.warning(
            "Version %d of the model %s cannot be used (%s); the one before it stays in use.",
            number,
            self.path.name,
            why,
        )
        with self._looking:
            self._sound[number] = (self._state(number), False)

    @contextmanager
    def _lock_folder(self) -> Iterator[None]:
        """Let one process and thread at a time change the store; WeightsError after a minute."""
        (self.path / "versions").mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise WeightsError(
                f"Another process has been changing the versions of the model {self.path.name!r} for a "
                "minute; try again later."
            ) from error
        try:
            yield
        finally:
            self._lock.release()

    def _last(self, now: _Current) -> int:
        """The highest number that was ever used."""
        return max([now.last, *(n for n in now.history if n is not None), *self._numbers()])

    def _staging(self, number: int) -> Path:
        """An empty folder beside the versions; leftovers of killed processes are removed."""
        versions = self.path / "versions"
        for left in versions.glob(f"{_STAGED}*"):
            shutil.rmtree(left, ignore_errors=True)
        staged = versions / f"{_STAGED}{number}"
        staged.mkdir()
        return staged

    def _before(self, history: tuple[int | None, ...]) -> int | None:
        """The usable version before the one in use; RequestError when that is the preset's own weights."""
        serving = self.served()
        if serving is None:
            raise RequestError(
                f"The model {self.path.name!r} already uses the weights of its preset, so there is "
                "nothing to go back to."
            )
        earlier = (_cut_after(history, serving) or ())[:-1]
        return next((n for n in reversed(earlier) if n is None or self._is_sound(n)), None)

    def _numbers(self) -> list[int]:
        versions = self.path / "versions"
        names = [path.name for path in versions.iterdir()] if versions.is_dir() else []
        return sorted(int(name) for name in names if re.fullmatch("[1-9][0-9]{0,8}", name))

    def _current(self) -> _Current:
        """The content of current.json; when it is damaged or lost, every version, the newest last."""
        with self._looking:
            try:
                content = (self.path / CURRENT).read_bytes()
            except OSError:
                content = None
            if self._read is None or self._read[0] != content:
                self._read = (content, self._parse_current(content))
            return self._read[1]

    def _parse_current(self, content: bytes | None) -> _Current:
        try:
            return _Current.parse((content or b"").decode())
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            numbers = self._numbers()
            if numbers or content is not None:  # else the model was not trained yet
                logger.warning(
                    "%s of the model %s is damaged or lost; its newest usable version is in use.",
                    CURRENT,
                    self.path.name,
                )
            return _Current((None, *numbers))

    def _card(self, number: int) -> Card:
        """The card of a version; an empty one when it cannot be read."""
        try:
            return read_card(self.folder(number))
        except WeightsError:
            return Card()

    def _state(self, number: int) -> tuple[int, ...]:
        return (*_state(self.folder(number) / WEIGHTS), *_state(self.folder(number) / CARD))

    def _is_sound(self, number: int) -> bool:
        """Whether the files are those that were published; read again only when they change."""
        with self._looking:
            state = self._state(number)
            known = self._sound.get(number)
            if known is not None and known[0] == state:
                return known[1]
            published = self._card(number).weights_sha256
            sound = published is not None and published == weights_digest(self.folder(number))
            if not sound:
                logger.warning(
                    "Version %d of the model %s is damaged or missing and is not used.",
                    number,
                    self.path.name,
                )
            self._sound[number] = (state, sound)
            return sound


def _is_number(value: object) -> bool:
    return type(value) is int and value > 0


def _cut_after(history: tuple[int | None, ...], number: int | None) -> tuple[int | None, ...] | None:
    """The history up to the last time that ``number`` came into use; None when it never did."""
    places = [place for place, entry in enumerate(history) if entry == number]
    return history[: places[-1] + 1] if places else None


def _seal(folder: Path) -> None:
    """Check that a folder is a checkpoint, write the weights' digest into its card, and sync all files."""
    card = read_card(folder)
    try:
        # Reads the header and compares it with the file's size.
        with safe_open(folder / WEIGHTS, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"The version has no usable {WEIGHTS} ({type(error).__name__}), so it was not published; train "
            "it again."
        ) from error
    sealed = card.model_copy(update={"weights_sha256": sha256_of(folder / WEIGHTS)})
    (folder / CARD).write_text(json.dumps(sealed.as_json(), indent=1) + "\n", encoding="utf-8")
    for path in (*folder.rglob("*"), folder):
        sync(path)


def weights_digest(folder: Path) -> str | None:
    """SHA-256 of the file of weights in a checkpoint's folder; None when it cannot be read."""
    try:
        return sha256_of(folder / WEIGHTS)
    except OSError:
        return None


def _state(path: Path) -> tuple[int, ...]:
    """Time, size and number of a file, which differ when its content may differ; empty without a file."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_size, status.st_ino)
