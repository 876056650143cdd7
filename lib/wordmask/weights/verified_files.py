"""Public weights on this machine: the folder that holds them, and that each file is the right one.

A file takes its final name only when its size and sha256 are right; one that has changed since is checked
again. Knows the catalogue and files; not how files arrive (transfer.py), nor how a model reads them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from wordmask.errors import WeightsError
from wordmask.files import replace_text, sha256_of
from wordmask.weights.catalogue import WeightFile, find_entry

# In each entry's folder: file -> its size and digest when it was checked, and when it last changed.
RECORD = "verified.json"


def cache_folder() -> Path:
    """The folder for weights: ``WORDMASK_WEIGHTS`` when it is set, else one in the user's cache folder."""
    if chosen := os.environ.get("WORDMASK_WEIGHTS"):
        return Path(chosen).expanduser()
    return user_cache_path("wordmask", appauthor=False, opinion=False) / "weights"


def weights_path(name: str) -> Path:
    """Find verified weights on this machine; never downloads.

    Returns:
        The file, or the folder for an entry of kind folder.

    Raises:
        WeightsError: missing, or changed since they were verified; the message ends with the command to type.
    """
    entry, folder = find_entry(name), cache_folder() / name
    for file in entry.files:
        if not (folder / file.name).exists():
            raise WeightsError(
                f"The weights {name!r} ({entry.title}) are not on this machine; type `wordmask weights fetch "
                f"{name}`,"
                f" or without internet `wordmask weights import {name} FILE`."
            )
        if not is_verified(folder, file):
            raise WeightsError(
                f"{file.name} of the weights {name!r} is damaged: it has changed since it was verified;"
                f" type `wordmask weights fetch {name}`."
            )
    return folder if entry.kind == "folder" else folder / entry.files[0].name


def is_there(name: str) -> bool:
    """Whether all files of an entry are in the cache; says nothing about their content."""
    return all((cache_folder() / name / file.name).exists() for file in find_entry(name).files)


def is_verified(folder: Path, file: WeightFile) -> bool:
    """Whether the file is there and has the right digest.

    The digest is computed only when the file has changed since it was last checked.
    """
    path = folder / file.name
    if not path.is_file():
        return False
    record, state = _read_record(folder), path.stat()
    seen = record.get(file.name)
    wanted = file.sha256 or (seen or {}).get("sha256")
    if wanted is None or file.size not in (None, state.st_size):
        return False
    if seen and (seen["sha256"], seen["size"], seen["mtime_ns"]) == (
        wanted,
        state.st_size,
        state.st_mtime_ns,
    ):
        return True
    return sha256_of(path) == wanted


def take_file(
    folder: Path, file: WeightFile, aside: Path, accept: Collection[str], *, trusted: bool = False
) -> dict[str, str]:
    """Give a complete file its final name if it is the right one.

    Args:
        folder: of the entry.
        file: as the catalogue describes it.
        aside: the complete file under another name.
        accept: hex digests that a person has compared.
        trusted: whether the file may be taken without a digest to compare with.

    Returns:
        {name: digest} when a person has to decide, else an empty dictionary.

    Raises:
        WeightsError: it is not the file of the catalogue; it is deleted.
    """
    size, digest = aside.stat().st_size, sha256_of(aside)
    if file.size not in (None, size) or file.sha256 not in (None, digest):
        aside.unlink()
        wrong_size = file.size not in (None, size)
        found = (
            f"{size} bytes instead of {file.size}"
            if wrong_size
            else f"sha256 {digest} instead of {file.sha256}"
        )
        raise WeightsError(
            f"{file.name} is not the file of the catalogue ({found}), so it was deleted; get it again."
        )
    if file.sha256 is None and not trusted and digest not in accept:
        return {file.name: digest}
    final = aside.replace(folder / file.name)
    record = _read_record(folder)
    record[file.name] = {"sha256": digest, "size": size, "mtime_ns": final.stat().st_mtime_ns}
    replace_text(folder / RECORD, json.dumps(record, indent=1))
    return {}


@contextmanager
def lock_entry(name: str) -> Iterator[Path]:
    """The entry's folder, created when missing, for one process at a time.

    Raises:
        WeightsError: another process uses it, or the folder cannot be written to.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        with lock:
            yield folder
    except Timeout as error:
        raise WeightsError(
            f"Another process is fetching the weights {name!r}; wait for it to end."
        ) from error
    except OSError as error:
        raise WeightsError(
            f"The folder for weights cannot be used ({error.strerror}); set WORDMASK_WEIGHTS to a folder "
            "that you may write to."
        ) from error


def _read_record(folder: Path) -> dict[str, dict[str, str | int]]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent or damaged: then every file is hashed again
        return {}
    complete = {"sha256", "size", "mtime_ns"}
    return (
        {name: seen for name, seen in record.items() if complete <= set(seen)}
        if isinstance(record, dict)
        else {}
    )
