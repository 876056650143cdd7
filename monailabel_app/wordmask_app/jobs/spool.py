"""The folder for files that live as long as a request: uploads that wait, results that have not been fetched.

Only one server works in it, and what a killed server left there is removed at the next start. Knows files;
not what is in them.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from wordmask.errors import RequestError, TooLargeError

LOCK, UPLOAD = ".lock", "upload-"
_BLOCK = 1 << 20


class Spool:
    """Files with random names that only their owner may read.

    Args:
        folder: made when missing.
        upload_bytes: largest upload; all uploads together may take twice as much.
    """

    def __init__(self, folder: Path, *, upload_bytes: int) -> None:
        self.folder, self.upload_bytes = folder, upload_bytes
        self._lock = FileLock(folder / LOCK)
        self._space = threading.Lock()

    def claim(self) -> None:
        """Claim the folder for this server, and remove what an earlier server left.

        Raises:
            RequestError: another server is using the folder, or it cannot be written to.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RequestError(
                "Another server runs from this app folder already, and only one "
                "may, because jobs, cache and models belong to one process. "
                "Stop it, or give the second server a copy of the app folder."
            ) from None
        except OSError as error:
            raise RequestError(
                f"The app folder {self.folder.parent} cannot be written to ({error.strerror}), and files of "
                "requests and trained models are kept there; give the server's account the right to write "
                "there, or name a folder of your own with --app."
            ) from None
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()

    def release(self) -> None:
        """Let another server have the folder."""
        self._lock.release()

    def new_file(self, suffix: str, *, prefix: str = "result-") -> Path:
        """An empty file with a name that cannot be guessed."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=prefix, suffix=suffix)
        os.close(handle)
        return Path(name)

    def keep(self, content: BinaryIO, suffix: str) -> Path:
        """Copy an upload; nothing is left behind on an error.

        Raises:
            TooLargeError: the upload exceeds the limits.
            OSError: the disk is full.
        """
        path = self.new_file(suffix, prefix=UPLOAD)
        try:
            with self._space, path.open("wb") as file:
                room = min(self.upload_bytes, 2 * self.upload_bytes - self._uploaded())
                _copy(content, file.write, room)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def _uploaded(self) -> int:
        total = 0
        for path in self.folder.glob(f"{UPLOAD}*"):
            with suppress(FileNotFoundError):  # its job ended just now
                total += path.stat().st_size
        return total


def _copy(content: BinaryIO, write: Callable[[bytes], object], most: int) -> None:
    size = 0
    while block := content.read(_BLOCK):
        size += len(block)
        if size > most:
            raise TooLargeError(
                f"The upload is larger than the {most // 2**20} MB that this server takes at the moment."
            )
        write(block)
