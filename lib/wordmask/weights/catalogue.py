"""Public pretrained weights: which there are, where they come from, where they are kept, and that they are
the right ones.

A file takes its final name in the cache only when its size and sha256 are right; one that has changed since
is checked again.
Knows: configs/weights.yaml, the cache folder, files and packs. Does not know: torch, how a model reads its
weights.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Literal, Self

import yaml
from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, model_validator

from wordmask.errors import WeightsError
from wordmask.files import replace_file, replace_text, sha256_of
from wordmask.resources import read_config, suggest
from wordmask.weights.download import Patience, download

RECORD = "verified.json"  # in each entry's folder: file -> what was checked, and when the file last changed
Report = Callable[[str, int, int | None], None]
"""Called with (file name, bytes done, bytes in all or None) while a file is copied, downloaded or checked."""


class WeightFile(BaseModel):
    """One file as it is published."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    name: str = Field(
        default="", pattern=r"^[\w.-]*$", description="in the cache; left out: the last part of the address"
    )
    size: PositiveInt | None = Field(default=None, description="bytes")
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="None: a person accepts what came"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_from_url(cls, values: dict[str, object]) -> dict[str, object]:
        return {"name": str(values.get("url", "")).rpartition("/")[2], **values}


class WeightEntry(BaseModel):
    """What one name of the catalogue stands for: one file, or a folder of files that belong together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    licence: str
    source: str = Field(description="the publisher's page, for people")
    kind: Literal["file", "folder"]
    files: tuple[WeightFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_file_is_one(self) -> Self:
        if self.kind == "file" and len(self.files) != 1:
            raise ValueError("an entry of kind file has exactly one file")
        return self

    @property
    def size(self) -> int | None:
        """Bytes in all, when every file's size is known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size)


@cache
def catalogue() -> dict[str, WeightEntry]:
    """Name -> entry, as in configs/weights.yaml, in that order."""
    text = read_config("weights.yaml")
    return TypeAdapter(dict[str, WeightEntry]).validate_python(yaml.safe_load(text))


def find_entry(name: str) -> WeightEntry:
    """The entry of that name; WeightsError names the nearest right one."""
    entries = catalogue()
    if name not in entries:
        raise WeightsError(
            f"There are no weights named {name!r}.{suggest(name, entries)} Names: {', '.join(entries)}."
        )
    return entries[name]


def cache_folder() -> Path:
    """Where weights are kept: ``WORDMASK_WEIGHTS`` when it is set, else ``wordmask/weights`` in the user's
    cache folder.
    """
    if chosen := os.environ.get("WORDMASK_WEIGHTS"):
        return Path(chosen).expanduser()
    return user_cache_path("wordmask", appauthor=False, opinion=False) / "weights"


def weights_path(name: str) -> Path:
    """The verified file (or folder, for an entry of kind folder) in the cache; never downloads.

    WeightsError: missing or changed since it was verified; the message ends with the command to type.
    """
    entry, folder = find_entry(name), cache_folder() / name
    for file in entry.files:
        if not (folder / file.name).exists():
            raise WeightsError(
                f"The weights {name!r} ({entry.title}) are not on this machine; type `wordmask weights fetch "
                f"{name}`,"
                f" or without internet `wordmask weights import {name} FILE`."
            )
        if not _verified(folder, file):
            raise WeightsError(
                f"{file.name} of the weights {name!r} is damaged: it has changed since it was verified;"
                f" type `wordmask weights fetch {name}`."
            )
    return folder if entry.kind == "folder" else folder / entry.files[0].name


def is_there(name: str) -> bool:
    """Whether all files of an entry are in the cache; says nothing about their content."""
    return all((cache_folder() / name / file.name).exists() for file in find_entry(name).files)


def fetch(
    name: str,
    *,
    accept: Collection[str] = (),
    anew: bool = False,
    patience: Patience | None = None,
    report: Report | None = None,
) -> Path:
    """Download what is missing of an entry, verify it, and return what `weights_path` returns.

    accept: hex digests that a person has compared, for files that have none in the catalogue; anew: forget
    what is there.
    WeightsError: no connection, no space, a wrong size or digest, or a digest that waits to be accepted.
    """
    entry, accept = find_entry(name), _normalised(accept)
    with _locked(name) as folder:
        waiting: dict[str, str] = {}
        for file in entry.files:
            if anew or not _verified(folder, file):
                _forget(folder, file, all_of_it=anew)
                aside = _fetch_file(folder, file, patience or Patience(), report)
                waiting |= _take(folder, file, aside, accept)
        _ask_for_acceptance(f"fetch {name}", waiting)
    return weights_path(name)


def import_weights(
    name: str, path: Path, *, accept: Collection[str] = (), report: Report | None = None
) -> Path:
    """Copy an entry from a file, a folder, or a pack made by `pack_weights`, verified like a download.

    accept: as for `fetch`; the digest of a whole pack accepts all its files.
    """
    entry, accept = find_entry(name), _normalised(accept)
    if not path.exists():
        raise WeightsError(f"There is no file {path.name!r} to import.")
    with _locked(name) as folder:
        if path.suffix == ".zip" and zipfile.is_zipfile(path):
            waiting = _import_pack(entry, path, folder, accept, report)
        elif path.is_file() and entry.kind == "folder":
            names = ", ".join(file.name for file in entry.files)
            raise WeightsError(
                f"{name} is {len(entry.files)} files; import the folder that holds {names}, or a pack of it."
            )
        else:
            waiting = {}
            for file in entry.files:
                aside = _copy(path / file.name if path.is_dir() else path, folder, file, report)
                waiting |= _take(folder, file, aside, accept)
        _ask_for_acceptance(f"import {name} {path}", waiting)
    return weights_path(name)


def pack_weights(name: str, output: Path) -> str:
    """Put a verified entry into one zip file, to carry to a machine without internet.

    Returns the sha256 of the pack.
    """
    entry = find_entry(name)
    weights_path(name)
    folder = cache_folder() / name
    try:
        with (
            replace_file(output) as part,
            zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as pack,
        ):  # weights do not compress
            for file in entry.files:
                member = zipfile.ZipInfo(
                    file.name
                )  # dated 1980: the same weights make the same pack and digest everywhere
                with (
                    (folder / file.name).open("rb") as source,
                    pack.open(member, "w", force_zip64=True) as target,
                ):
                    shutil.copyfileobj(source, target, 1 << 22)
    except OSError as error:
        raise WeightsError(f"{output.name} cannot be written: {error.strerror}.") from error
    return sha256_of(output)


def _normalised(digests: Collection[str]) -> frozenset[str]:
    return frozenset(digest.strip().lower() for digest in digests)


def _forget(folder: Path, file: WeightFile, *, all_of_it: bool) -> None:
    """Remove a file that is not right; ``all_of_it``: also what was downloaded and not verified."""
    (folder / file.name).unlink(missing_ok=True)
    if all_of_it:
        for suffix in (".part", ".unverified", ".import"):
            (folder / f"{file.name}{suffix}").unlink(missing_ok=True)


def _import_pack(
    entry: WeightEntry, path: Path, folder: Path, accept: Collection[str], report: Report | None
) -> dict[str, str]:
    """Take every file of an entry out of a pack; returns {pack: digest} when a person has to decide."""
    digest = sha256_of(path, _named(report, path.name))
    with zipfile.ZipFile(path) as pack:
        waiting = [
            _take(
                folder, file, _unpack(pack, path.name, folder, file, report), accept, trusted=digest in accept
            )
            for file in entry.files
        ]
    return {path.name: digest} if any(waiting) else {}


def _fetch_file(folder: Path, file: WeightFile, patience: Patience, report: Report | None) -> Path:
    """Download to a file aside and return it, complete.

    A wrong one that had been continued is fetched anew, once.
    """
    part, aside = folder / f"{file.name}.part", folder / f"{file.name}.unverified"
    if aside.exists():  # a file that waits for its digest to be accepted
        return aside
    continued = part.exists()
    _need_space(folder, file, part)
    download(file.url, part, size=file.size, patience=patience, progress=_named(report, file.name))
    if continued and file.sha256 not in (None, sha256_of(part)):
        part.unlink()  # the beginning may be another version's, or an old failure's
        download(file.url, part, size=file.size, patience=patience, progress=_named(report, file.name))
    return part.replace(aside)


def _take(
    folder: Path, file: WeightFile, aside: Path, accept: Collection[str], *, trusted: bool = False
) -> dict[str, str]:
    """Give a complete file its final name if it is the right one.

    Returns {name: digest} when a person has to decide.

    WeightsError, and the file is gone: it is not the one of the catalogue.
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
            f"{file.name} is not the file of the catalogue ({found}), so it was not kept; get it again."
        )
    if file.sha256 is None and not trusted and digest not in accept:
        return {file.name: digest}
    final = aside.replace(folder / file.name)
    record = _read_record(folder)
    record[file.name] = {"sha256": digest, "size": size, "mtime_ns": final.stat().st_mtime_ns}
    replace_text(folder / RECORD, json.dumps(record, indent=1))
    return {}


def _ask_for_acceptance(command: str, waiting: dict[str, str]) -> None:
    if not waiting:
        return
    found = "; ".join(f"{name} {digest}" for name, digest in waiting.items())
    options = " ".join(f"--accept-digest {digest}" for digest in dict.fromkeys(waiting.values()))
    raise WeightsError(
        f"The publisher gives no sha256 to compare with. Found: {found}. If you trust where this came from, "
        "type:"
        f" wordmask weights {command} {options}"
    )


def _verified(folder: Path, file: WeightFile) -> bool:
    """Whether the file is there and right.

    The digest is computed only when the file is not as it was last seen.
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


@contextmanager
def _locked(name: str) -> Iterator[Path]:
    """The entry's folder, made when missing, for one process at a time."""
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


def _need_space(folder: Path, file: WeightFile, part: Path) -> None:
    missing = (file.size or 0) - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise WeightsError(
            f"{file.name} needs {missing / 1e6:.0f} MB more and the disk has {free / 1e6:.0f} MB free;"
            " set WORDMASK_WEIGHTS to a folder on another disk."
        )


def _named(report: Report | None, name: str) -> Callable[[int, int | None], None] | None:
    return None if report is None else lambda done, total: report(name, done, total)


def _copy(source: Path, folder: Path, file: WeightFile, report: Report | None) -> Path:
    if not source.is_file():
        raise WeightsError(f"The folder {source.parent.name!r} has no file {source.name!r}.")
    try:
        with source.open("rb") as stream:
            return _pour(stream, source.stat().st_size, folder, file, report)
    except PermissionError as error:
        raise WeightsError(f"{source.name} may not be read by this user.") from error


def _unpack(pack: zipfile.ZipFile, title: str, folder: Path, file: WeightFile, report: Report | None) -> Path:
    """Take one file out of a pack by the catalogue's name; names inside the pack never become paths."""
    try:
        with pack.open(file.name) as stream:
            return _pour(stream, pack.getinfo(file.name).file_size, folder, file, report)
    except KeyError as error:
        raise WeightsError(f"{title} holds no {file.name!r}; was it packed from other weights?") from error
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{title} is damaged; copy it again.") from error


def _pour(stream: IO[bytes], size: int, folder: Path, file: WeightFile, report: Report | None) -> Path:
    if file.size not in (None, size):
        raise WeightsError(
            f"{file.name} is not the file of the catalogue: it has {size} bytes instead of {file.size}."
        )
    aside, progress, done = folder / f"{file.name}.import", _named(report, file.name), 0
    try:
        with aside.open("wb") as target:
            while block := stream.read(1 << 22):
                target.write(block)
                done += len(block)
                if progress:
                    progress(done, size)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return aside
