"""The right to write to the studies folder: of one thread and process at a time, or of none at all.

Knows folders; not what is in them.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from wordmask.errors import WordMaskError
from wordmask.files import remove_leftovers

logger = logging.getLogger(__name__)

NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_SETTING = "start the server without MONAI_LABEL_DATASTORE_READ_ONLY"
_RIGHT = "give the server's account the right to write there and start it again, or serve a copy"


class ReadOnlyError(WordMaskError):
    """The server may not write to a folder."""


def require_writable(app: Path) -> None:
    """Refuse a background task whose results could not be kept in the app folder.

    Raises:
        ReadOnlyError: the folder or that of its models cannot be written to.
    """
    for folder in (app, app / "model"):
        if folder.exists() and not os.access(folder, os.W_OK):
            raise ReadOnlyError(
                f"The app folder {app.name} cannot be written to, so what is trained or scored could not be "
                "kept; give the server's account the right to write there."
            )


class FolderLock:
    """The lock of a folder of studies, and whether anything may be written there.

    Args:
        root: the folder; the folders of its labels are made, and what killed servers left is removed.
        read_only: whether nothing is to be written, whatever is allowed.

    Attributes:
        read_only: whether nothing is to be written, or nothing can be.
    """

    def __init__(self, root: Path, *, read_only: bool) -> None:
        self._root, self._asked = root, read_only
        self._held: AbstractContextManager[Any] = threading.RLock()
        self.read_only = read_only or not self._prepare()

    def _prepare(self) -> bool:
        # One object, because the thread that holds the lock may take it again.
        held = FileLock(self._root / ".lock")
        try:
            with held:
                for tag in ("final", "original"):
                    (self._root / "labels" / tag).mkdir(parents=True, exist_ok=True)
                for folder in (self._root, *self._root.glob("labels/*")):
                    remove_leftovers(folder)
        except OSError as error:
            if error.errno not in NOT_ALLOWED:
                raise
            logger.warning(
                "The studies folder %s cannot be written to (%s): its images are served, but no label can be "
                "kept.",
                self._root,
                error.strerror,
            )
            return False
        self._held = held
        return True

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let nobody write meanwhile; without the right to write, which the lock needs, there is no lock."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._held)
            except OSError as error:
                if error.errno not in NOT_ALLOWED:
                    raise
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let nobody else write meanwhile.

        Raises:
            ReadOnlyError: the folder cannot be written to.
        """
        if self.read_only:
            raise ReadOnlyError(
                f"The studies folder {self._root.name} is served without the right to write, so nothing was "
                f"kept; {_SETTING if self._asked else _RIGHT}."
            )
        try:
            with self._held:
                yield
        except OSError as error:
            if error.errno not in NOT_ALLOWED:
                raise
            raise ReadOnlyError(
                f"The studies folder {self._root.name} cannot be written to ({error.strerror}), so nothing "
                "was kept; give the server's account the right to write there, or serve a copy."
            ) from error
