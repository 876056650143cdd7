"""What a server or a training would make of files, before either is started.

Reads everything once, as they would. Knows files and cases; not models, not a server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wordmask.data.studies import OWN_FILES, is_dicom_file, list_studies
from wordmask.data.volumes import Volume, read_volume
from wordmask.errors import VolumeError, WordMaskError
from wordmask.learning.cases import Case, LabelledVolume, make_entry, read_cases, read_entries

State = Literal["read", "warned", "refused", "left out"]


@dataclass(frozen=True)
class Finding:
    """What became of one image, case or file.

    Attributes:
        name: of the image, case or file.
        state: read; warned: read, but look at the reason; refused: it cannot be used; left out: it is not an
            image.
        reason: why; empty when it was read.
    """

    name: str
    state: State
    reason: str = ""


def inspect_path(path: Path, *, word: str | None = None, max_voxels: int | None = None) -> Iterator[Finding]:
    """Read what a path names, entry by entry.

    Args:
        path: a list of cases (.json), a folder of cases (with images/ and labels/), a folder of studies, a
            DICOM folder, or an image.
        word: what the label maps of a folder of cases show.
        max_voxels: larger images are refused.

    Raises:
        WordMaskError: a list or folder of cases that cannot be read at all, or a path that is missing.
    """
    if not path.exists():
        raise VolumeError(f"There is no file or folder {path.name}; check the spelling of the path.")
    if path.suffix.lower() == ".json":
        yield from _inspect_list(path)
    elif path.is_dir() and (path / "images").is_dir() and (path / "labels").is_dir():
        yield from inspect_cases(read_cases(path, word or "structure"))
    elif path.is_dir():
        yield from _inspect_folder(path, max_voxels)
    else:
        yield _inspect_image(path.name, path, max_voxels)


def inspect_cases(cases: Iterable[Case]) -> Iterator[Finding]:
    """Read labelled cases, as a training does."""
    for case in cases:
        yield _inspect(case.name, case.read)


def _inspect_list(path: Path) -> Iterator[Finding]:
    names: set[str] = set()
    for number, entry in enumerate(read_entries(path)):
        try:
            case = make_entry(entry, number, path)
        except WordMaskError as error:
            yield Finding(f"entry {number}", "refused", str(error))
            continue
        if case.name in names:
            yield Finding(case.name, "refused", "Another entry has the same name; give each its own name.")
        else:
            yield from inspect_cases([case])
        names.add(case.name)


def summarise(findings: Iterable[Finding]) -> str:
    """``12 read, 1 warned, 2 refused, 3 left out``; states without an entry are not named."""
    counts = Counter(finding.state for finding in findings)
    states: tuple[State, ...] = ("read", "warned", "refused", "left out")
    return ", ".join(f"{counts[state]} {state}" for state in states if counts[state]) or "nothing found"


def _inspect_folder(folder: Path, max_voxels: int | None) -> Iterator[Finding]:
    found = list_studies(folder, ignore=OWN_FILES, follow_links=False)
    if not found.images and any(is_dicom_file(folder / name) for name in found.left_out):
        yield _inspect_image(folder.name, folder, max_voxels)
        return
    for name, path in found.images.items():
        yield _inspect_image(name, path, max_voxels)
    for name, reason in found.left_out.items():
        yield Finding(name, "left out", f"{reason}.")


def _inspect_image(name: str, path: Path, max_voxels: int | None) -> Finding:
    return _inspect(name, lambda: read_volume(path, max_voxels=max_voxels))


def _inspect(name: str, read: Callable[[], Volume | LabelledVolume]) -> Finding:
    try:
        warnings = read().warnings
    except WordMaskError as error:
        return Finding(name, "refused", str(error))
    except OSError as error:
        return Finding(
            name, "refused", f"It cannot be read ({error.strerror or error}); check its permissions."
        )
    return Finding(name, "warned", " ".join(warnings)) if warnings else Finding(name, "read")
