"""Files that come from a server: complete, or not there. Knows folders and disks; not HTTP."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import LocalFileError


class FileInProgress:
    """A file that gets its own name in its folder only when it is complete, and then replaces one of that
    name.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        """Prepare a file with this name without ending; LocalFileError: ``stem`` is not a plain name."""
        if not re.fullmatch(r"[\w-][\w .-]{0,99}", stem):
            raise LocalFileError(
                f"{stem[:40]!r} is not a valid file name; use letters, digits, spaces, dots and hyphens."
            )
        self._folder, self._stem = Path(folder), stem
        self.path = self._folder / stem
        self.size = 0
        self._part: Path | None = None
        self._file: BinaryIO | None = None

    @property
    def is_open(self) -> bool:
        """Whether writing has begun."""
        return self._file is not None

    def open(self, ending: str) -> None:
        """Begin to write; LocalFileError: the folder cannot be written to."""
        self.path = self._folder / f"{self._stem}{ending}"
        part = self._folder / f".{self._stem}.{secrets.token_hex(4)}.part"
        with self._explain_errors():
            self._file = part.open("xb")  # closed by `keep` or `remove`
            self._part = part

    def write(self, data: bytes) -> None:
        """Append data; LocalFileError: the disk is full, or the folder is gone."""
        if self._file is not None:
            self.size += len(data)
            with self._explain_errors():
                self._file.write(data)

    def keep(self) -> None:
        """Give the complete file its name; LocalFileError."""
        if self._file is not None and self._part is not None:
            with self._explain_errors():
                self._file.close()
                os.replace(self._part, self.path)
            self._part = None

    def remove(self) -> None:
        """Remove what was written, unless the file was kept."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        if self._part is not None:
            with contextlib.suppress(OSError):
                self._part.unlink()
            self._part = None

    @contextlib.contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            hint = (
                "the disk is full: free some space"
                if full
                else "check that the folder exists and that you may write to it"
            )
            raise LocalFileError(
                f"A file could not be written to the folder {self._folder.name!r}, so nothing was kept; "
                f"{hint}."
            ) from None
