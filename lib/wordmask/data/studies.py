"""Which entries of a folder are images: one rule for the server, the command line and the trainings.

Files with an ending that can be read, DICOM files whatever their ending, and subfolders with a DICOM series.
Whatever else lies there is named with the reason why it is left out. Knows names and the first bytes of
files; not what is in them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from wordmask.data.image_files import PICTURE_SUFFIXES, VOLUME_SUFFIXES, suffix_of
from wordmask.data.volumes import DICOM_SUFFIXES

DETACHED_SUFFIXES = (".nhdr", ".mhd")
FILE_SUFFIXES = tuple(
    suffix for suffix in (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES) if suffix not in DETACHED_SUFFIXES
)
OWN_FILES = (".lock", "datastore_v2.json", "labels")  # of a server in its folder of studies
LONGEST_ID = 200  # bytes
LOOKED_AT = 50  # files of a subfolder, to find out whether it holds a DICOM series

_UNFIT = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")  # the last are bytes of no UTF-8


@dataclass(frozen=True)
class StudyFolder:
    """What a folder holds.

    Attributes:
        images: id -> file, or folder with a DICOM series; in the order of their names.
        left_out: name -> why it is not an image that can be used, for people.
    """

    images: dict[str, Path]
    left_out: dict[str, str]


def id_of(path: Path) -> str:
    """The name of an image: that of its file without the ending, that of its DICOM folder as it is."""
    suffix = suffix_of(path)
    if path.is_dir() or suffix not in (*FILE_SUFFIXES, *DICOM_SUFFIXES):
        return path.name
    return path.name[: len(path.name) - len(suffix)]


def list_studies(folder: Path, *, ignore: Collection[str] = (), follow_links: bool = True) -> StudyFolder:
    """Sort the entries of a folder into images and what is left out.

    Args:
        folder: is not searched further, but for DICOM series in its subfolders.
        ignore: names that are neither listed nor reported.
        follow_links: whether links to files outside the folder count, which a server must not give away.

    Raises:
        OSError: the folder is missing or cannot be read.
    """
    found = StudyFolder({}, {})
    paths = [path for path in sorted(folder.iterdir()) if path.name not in ignore]
    series = _count_series(paths)
    for path in paths:
        reason = _find_fault(path)
        if not reason and not follow_links and _leads_out(path, folder):
            reason = "it is a link out of the folder, or holds one; copy the files there"
        if not reason and series[path] > 1:
            reason = (
                f"it is one of {series[path]} files of a DICOM series; move them into a folder of their own"
            )
        image = id_of(path)
        if not reason and image in found.images:
            reason = f"it has the same name as {found.images[image].name} before the ending; rename one"
        if reason:
            found.left_out[path.name] = reason
        else:
            found.images[image] = path
    return found


def is_dicom_file(path: Path) -> bool:
    """Whether a file begins as DICOM files do: 128 bytes of anything, then DICM."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _find_fault(path: Path) -> str:
    """Why an entry is not an image that can be used; empty when it is one."""
    if path.name.startswith("."):
        return "it is a hidden file"
    if not path.exists():
        return "it is a link to a file that is missing"
    if path.is_dir():
        if not _holds_dicom(path):
            return "it is a folder without a DICOM series; images in subfolders are not searched"
    elif suffix_of(path) in DETACHED_SUFFIXES:
        return "its voxels are in another file; save it in one piece, as .nrrd or .mha"
    elif suffix_of(path) not in FILE_SUFFIXES and not is_dicom_file(path):
        return "it is not an image that can be read"
    name = id_of(path)
    if not name or _UNFIT.search(name) or len(name.encode(errors="replace")) > LONGEST_ID:
        return (
            f"its name cannot be an id, because it has a backslash, a control character or over {LONGEST_ID} "
            "bytes; rename it"
        )
    return ""


def _leads_out(path: Path, folder: Path) -> bool:
    inside = path.iterdir() if path.is_dir() else ()
    links = [entry for entry in (path, *inside) if entry.is_symlink()]
    return any(not link.resolve().is_relative_to(folder.resolve()) for link in links)


def _count_series(paths: Sequence[Path]) -> Counter[Path]:
    """How many DICOM files among the paths are of the series of each."""
    files: dict[str, list[Path]] = {}
    for path in paths:
        if path.is_file() and is_dicom_file(path):
            with suppress(OSError, InvalidDicomError):
                header = dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
                files.setdefault(str(header.get("SeriesInstanceUID", path.name)), []).append(path)
    return Counter({path: len(alike) for alike in files.values() for path in alike})


def _holds_dicom(folder: Path) -> bool:
    try:
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    except OSError:
        return False
    return any(is_dicom_file(path) for path in files[:LOOKED_AT])
