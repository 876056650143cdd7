"""How public weights get onto this machine: downloaded, or carried as a file, a folder or a pack.

Knows the catalogue, downloads and zip files; not what the weights mean.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO

from wordmask.errors import WeightsError
from wordmask.files import replace_file, sha256_of
from wordmask.weights.catalogue import WeightEntry, WeightFile, find_entry
from wordmask.weights.download import Patience, download
from wordmask.weights.verified_files import cache_folder, is_verified, lock_entry, take_file, weights_path

Report = Callable[[str, int, int | None], None]
"""Called with (file name, bytes done, bytes in all or None) while a file is copied, downloaded or checked."""


def fetch(
    name: str,
    *,
    accept: Collection[str] = (),
    again: bool = False,
    patience: Patience | None = None,
    report: Report | None = None,
) -> Path:
    """Download the missing files of an entry and verify them.

    Args:
        name: of the entry.
        accept: hex digests that a person has compared, for files that have none in the catalogue.
        again: whether to discard what is there and download everything from scratch.
        patience: how long to wait for the server, and how often to try again.
        report: called while a file is downloaded or checked.

    Returns:
        The path that `weights_path` returns.

    Raises:
        WeightsError: no connection, no space, a wrong size or digest, or a digest that waits to be accepted.
    """
    entry, accept = find_entry(name), _normalise(accept)
    with lock_entry(name) as folder:
        waiting: dict[str, str] = {}
        for file in entry.files:
            if again or not is_verified(folder, file):
                _forget(folder, file, all_of_it=again)
                aside = _fetch_file(folder, file, patience or Patience(), report)
                waiting |= take_file(folder, file, aside, accept)
        _ask_for_acceptance(f"fetch {name}", waiting)
    return weights_path(name)


def import_weights(
    name: str, path: Path, *, accept: Collection[str] = (), report: Report | None = None
) -> Path:
    """Copy an entry from a file, a folder, or a pack made by `pack_weights`, verified like a download.

    Args:
        name: of the entry.
        path: the file, folder or pack.
        accept: hex digests that a person has compared; the digest of a pack accepts all its files.
        report: called while a file is copied or checked.

    Returns:
        The path that `weights_path` returns.

    Raises:
        WeightsError: a file is missing, damaged or of a wrong size or digest, or a digest waits to be
            accepted.
    """
    entry, accept = find_entry(name), _normalise(accept)
    if not path.exists():
        raise WeightsError(f"There is no file {path.name!r} to import; check the path.")
    with lock_entry(name) as folder:
        if path.suffix == ".zip" and zipfile.is_zipfile(path):
            waiting = _import_pack(entry, path, folder, accept, report)
        elif path.is_file() and entry.kind == "folder":
            names = ", ".join(file.name for file in entry.files)
            raise WeightsError(
                f"The weights {name!r} consist of {len(entry.files)} files; import the folder with {names}, "
                "or a pack of it."
            )
        else:
            waiting = {}
            for file in entry.files:
                aside = _copy(path / file.name if path.is_dir() else path, folder, file, report)
                waiting |= take_file(folder, file, aside, accept)
        _ask_for_acceptance(f"import {name} {path}", waiting)
    return weights_path(name)


def pack_weights(name: str, output: Path) -> str:
    """Put a verified entry into one zip file, to carry to a machine without internet.

    Returns:
        The sha256 of the pack.

    Raises:
        WeightsError: the weights are not on this machine, or the pack cannot be written.
    """
    entry = find_entry(name)
    weights_path(name)
    folder = cache_folder() / name
    try:
        # Stored, because weights do not compress.
        with replace_file(output) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as pack:
            for file in entry.files:
                # Dated 1980, so that the same weights make the same pack and digest everywhere.
                member = zipfile.ZipInfo(file.name)
                with (
                    (folder / file.name).open("rb") as source,
                    pack.open(member, "w", force_zip64=True) as target,
                ):
                    shutil.copyfileobj(source, target, 1 << 22)
    except OSError as error:
        raise WeightsError(f"{output.name} cannot be written: {error.strerror}.") from error
    return sha256_of(output)


def _normalise(digests: Collection[str]) -> frozenset[str]:
    return frozenset(digest.strip().lower() for digest in digests)


def _forget(folder: Path, file: WeightFile, *, all_of_it: bool) -> None:
    """Remove a file that is not right; with ``all_of_it`` also downloads that were not verified."""
    (folder / file.name).unlink(missing_ok=True)
    if all_of_it:
        for suffix in (".part", ".unverified", ".import"):
            (folder / f"{file.name}{suffix}").unlink(missing_ok=True)


def _fetch_file(folder: Path, file: WeightFile, patience: Patience, report: Report | None) -> Path:
    """Download a file under another name and return its path.

    A wrong file that was continued from an earlier attempt is downloaded from scratch, once.
    """
    part, aside = folder / f"{file.name}.part", folder / f"{file.name}.unverified"
    if aside.exists():  # it waits for its digest to be accepted
        return aside
    continued = part.exists()
    _need_space(folder, file, part)
    download(file.url, part, size=file.size, patience=patience, progress=_report_as(report, file.name))
    if continued and file.sha256 not in (None, sha256_of(part)):
        part.unlink()  # the beginning may be another version's, or an old failure's
        download(file.url, part, size=file.size, patience=patience, progress=_report_as(report, file.name))
    return part.replace(aside)


def _import_pack(
    entry: WeightEntry, path: Path, folder: Path, accept: Collection[str], report: Report | None
) -> dict[str, str]:
    """Take every file of an entry out of a pack.

    Returns:
        {pack: digest} when a person has to decide, else an empty dictionary.
    """
    digest = sha256_of(path, _report_as(report, path.name))
    with zipfile.ZipFile(path) as pack:
        waiting = [
            take_file(
                folder, file, _unpack(pack, path.name, folder, file, report), accept, trusted=digest in accept
            )
            for file in entry.files
        ]
    return {path.name: digest} if any(waiting) else {}


def _copy(source: Path, folder: Path, file: WeightFile, report: Report | None) -> Path:
    if not source.is_file():
        raise WeightsError(
            f"The folder {source.parent.name!r} has no file {source.name!r}; import all files together."
        )
    try:
        with source.open("rb") as stream:
            return _pour(stream, source.stat().st_size, folder, file, report)
    except PermissionError as error:
        raise WeightsError(f"{source.name} cannot be read: permission denied.") from error


def _unpack(pack: zipfile.ZipFile, title: str, folder: Path, file: WeightFile, report: Report | None) -> Path:
    """Take one file out of a pack by the catalogue's name; names inside the pack never become paths."""
    try:
        with pack.open(file.name) as stream:
            return _pour(stream, pack.getinfo(file.name).file_size, folder, file, report)
    except KeyError as error:
        raise WeightsError(
            f"{title} does not contain {file.name!r}; pack the right weights again."
        ) from error
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{title} is damaged; copy it again.") from error


def _pour(stream: IO[bytes], size: int, folder: Path, file: WeightFile, report: Report | None) -> Path:
    if file.size not in (None, size):
        raise WeightsError(
            f"{file.name} is not the file of the catalogue: it has {size} bytes instead of {file.size}."
        )
    aside, progress, done = folder / f"{file.name}.import", _report_as(report, file.name), 0
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


def _need_space(folder: Path, file: WeightFile, part: Path) -> None:
    missing = (file.size or 0) - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise WeightsError(
            f"{file.name} needs {missing / 1e6:.0f} MB more and the disk has {free / 1e6:.0f} MB free;"
            " set WORDMASK_WEIGHTS to a folder on another disk."
        )


def _report_as(report: Report | None, name: str) -> Callable[[int, int | None], None] | None:
    return None if report is None else lambda done, total: report(name, done, total)


def _ask_for_acceptance(command: str, waiting: dict[str, str]) -> None:
    if not waiting:
        return
    found = "; ".join(f"{name} {digest}" for name, digest in waiting.items())
    options = " ".join(f"--accept-digest {digest}" for digest in dict.fromkeys(waiting.values()))
    raise WeightsError(
        f"The publisher gives no sha256 to compare with. Found: {found}. If you trust the source, type:"
        f" wordmask weights {command} {options}"
    )
