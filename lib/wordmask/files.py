"""Files that are there whole or not at all, also when a process is killed or the disk is full.

The one policy for everything that is kept: write beside the final place under a hidden name, then rename.
Knows files only.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX, PART = ".wordmask-", ".part"
_BLOCK = 1 << 22


@contextmanager
def replace_file(path: Path, *, ending: str = PART, durable: bool = True) -> Iterator[Path]:
    """Write a hidden file that takes the place of ``path`` when the block ends without an error.

    A reader sees the old file or the new one. When the block or the disk fails, ``path`` stays as it was and
    the hidden file is removed.

    Args:
        path: the final file; its folder must exist.
        ending: of the hidden file's name, for writers that choose a format by it.
        durable: wait until the content is on the disk; False for what can be made again.

    Yields:
        The hidden file.

    Raises:
        OSError: the disk is full or fails, or the folder cannot be written to.
    """
    part = path.with_name(f"{PREFIX}{uuid.uuid4().hex}{ending}")
    try:
        yield part
        if durable:
            sync(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, see `replace_file`."""
    with replace_file(path) as part:
        part.write_text(text, encoding="utf-8")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of `replace_file` in a folder.

    No other process may write to the folder meanwhile.
    """
    for part in folder.glob(f"{PREFIX}*{PART}"):
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk.

    Does nothing for folders on Windows, which cannot do so.
    """
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """Hex digest of a file's content, read in blocks.

    Args:
        path: the file.
        progress: called with the bytes that are done and the file's size.
    """
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            done += len(block)
            if progress:
                progress(done, size)
    return digest.hexdigest()
