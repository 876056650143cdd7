"""The record of images and labels that MONAI Label's datastore keeps: made from the files of a folder.

Knows files, ids and tags; not HTTP, not what is in the files.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel

from wordmask.data.image_files import suffix_of
from wordmask.data.studies import FILE_SUFFIXES
from wordmask.data.volumes import DICOM_SUFFIXES
from wordmask.errors import RequestError
from wordmask.files import PREFIX, replace_file, sync

logger = logging.getLogger(__name__)

MOST_INFO = 1_000_000  # characters of JSON about one image or label


def split_ending(name: str) -> tuple[str, str]:
    """The name of a file without its ending, and the ending as it is spelt; empty where it is not known."""
    suffix = suffix_of(Path(name))
    known = len(suffix) if suffix in (*FILE_SUFFIXES, *DICOM_SUFFIXES) else 0
    return name[: len(name) - known], name[len(name) - known :]


def split_served(name: str, suffixes: Sequence[str]) -> tuple[str, str]:
    """The name of a file that may be kept without its ending, and the ending.

    Raises:
        RequestError: files of this ending are not kept.
    """
    stem, ending = split_ending(name)
    if ending.lower() not in suffixes:
        raise RequestError(
            f"Images and labels end in one of {', '.join(suffixes)}, not in {Path(name).suffix[:20]!r}."
        )
    return stem, ending


def make_entries(
    images: Mapping[str, Path],
    labels: Path,
    before: Mapping[str, ImageLabelModel],
    is_inside: Callable[[Path], bool],
) -> dict[str, ImageLabelModel]:
    """What is to be recorded of the files of a folder.

    Args:
        images: id -> file or folder.
        labels: the folder with a folder of label maps for each tag.
        before: what was recorded; it stays where the files are still there.
        is_inside: whether a file is in the folder of studies, also where a link leads to it.

    Raises:
        OSError: a folder cannot be read.
    """
    entries = {}
    for image, path in images.items():
        known = before.get(image)
        info = known.image.info if known else _describe(path)
        entries[image] = ImageLabelModel(image=DataModel(info=info, ext=path.name[len(image) :]))
    for folder in sorted(labels.iterdir()) if labels.is_dir() else ():
        if not folder.is_dir() or not is_inside(folder):
            continue
        for path in sorted(folder.iterdir()):
            image, ending = split_ending(path.name)
            if image not in entries or ending.lower() not in FILE_SUFFIXES or not is_inside(path):
                continue
            known = before.get(image)
            label = known.labels.get(folder.name) if known else None
            if label is not None and label.ext == ending:
                entries[image].labels[folder.name] = label
            else:
                entries[image].labels.setdefault(folder.name, DataModel(info=_describe(path), ext=ending))
    return entries


def report_left_out(left_out: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Log what is newly left out of the studies, and return all of it, but for our own unfinished files."""
    left_out = {name: reason for name, reason in left_out.items() if not name.startswith(PREFIX)}
    added = {name: reason for name, reason in left_out.items() if name not in known}
    if added:
        are = (
            "file or folder of the studies is"
            if len(left_out) == 1
            else "files or folders of the studies are"
        )
        logger.warning("%d %s left out.", len(left_out), are)
    for name, reason in added.items():
        logger.warning("Left out: %r, because %s.", name, reason)
    return left_out


def write_archive(pairs: Sequence[Mapping[str, str]], metadata: str) -> str:
    """A temporary ZIP of images and labels, DICOM folders with all their files.

    Args:
        pairs: "image" and "label" of each case, files or folders.
        metadata: what becomes ``metadata.json``.
    """
    with (
        tempfile.NamedTemporaryFile(delete=False, suffix=".zip") as file,
        zipfile.ZipFile(file, mode="w") as archive,
    ):
        for kind, path in ((kind, Path(path)) for pair in pairs for kind, path in pair.items()):
            for member in sorted(path.iterdir()) if path.is_dir() else (path,):
                archive.write(member, Path(kind) / member.relative_to(path.parent))
        archive.writestr("metadata.json", metadata)
    return file.name


def _describe(path: Path) -> dict[str, Any]:
    return {"ts": int(time.time()), "name": path.name}


def check_info(info: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is said of an image or label, if it can be kept.

    Raises:
        RequestError: it is not an object, is too long, or cannot be read again.
    """
    if not isinstance(info or {}, Mapping):
        raise RequestError('params and info are JSON objects, such as {"reviewed": true}.')
    try:
        size = len(json.dumps(info, default=str, allow_nan=False))
    except (ValueError, RecursionError):  # MONAI Label could not list the datastore: NaN is not JSON
        raise RequestError(
            "params and info may contain numbers, texts, lists and "
            "objects, but not NaN, Infinity or very deep nesting."
        ) from None
    if size > MOST_INFO:
        raise RequestError(f"params and info have at most {MOST_INFO:,} characters.")
    return dict(info or {})


@contextmanager
def stage(path: Path, content: str | bytes) -> Iterator[None]:
    """Write a file beside its place and move it there after the block; the old one stays on any failure.

    Args:
        path: where the file is to be.
        content: bytes, or the name of the file to copy.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as part:
        if isinstance(content, bytes):
            part.write_bytes(content)
        else:
            shutil.copyfile(content, part)
        sync(part)  # what needs room on the disk comes first
        yield
