"""Does what is installed fit what WordMask was built for?

Checked at start-up; each broken requirement is one sentence. Knows the requirements in the installed
package's metadata (pyproject.toml is their only source), and the symptom of each. Does not import the
packages that it asks about, because a broken one could not be imported.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import Version

from wordmask.errors import WordMaskError

SYMPTOMS = {  # the bounds of pyproject.toml: what one sees when they are not kept
    "monailabel": "the app replaces routes and methods whose inner workings are those of that version",
    "pydicom": (
        'pydicom-seg, which MONAI Label imports, stops with "No module named '
        "'pydicom._storage_sopclass_uids'\""
    ),
    "numpy": "pydicom-seg and numpymaxflow, which MONAI Label needs, are built for numpy 1",
    "jsonschema": "pydicom-seg, which MONAI Label imports, is built for jsonschema 3",
}


class BrokenEnvironmentError(WordMaskError):
    """A package is missing or has a version that is known to break; the message says what to type."""


def installed_version(name: str) -> str | None:
    """The version of an installed package, None when it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def installed_requirements(name: str) -> Sequence[str]:
    """What an installed package says that it needs; nothing when it is not installed."""
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def find_problems(
    requirements: Sequence[str] | None = None,
    version_of: Callable[[str], str | None] = installed_version,
    requires_of: Callable[[str], Sequence[str]] = installed_requirements,
) -> list[str]:
    """One sentence per broken requirement; empty when all is well.

    Args:
        requirements: as in pyproject.toml; None: those of the installed WordMask.
        version_of: name of a package -> its version, or None.
        requires_of: name of a package -> its own requirements.
    """
    if requirements is None:
        requirements = requires_of("wordmask")
        if not requirements:
            return [
                (
                    "WordMask is not installed in this Python; type `pip "
                    "install -c constraints.txt -e .` in its folder."
                )
            ]
    problems = [_problem(text, version_of) for text in requirements]
    problems.append(
        _mismatched_torch(version_of("torch"), version_of("torchvision"), requires_of("torchvision"))
    )
    return [problem for problem in problems if problem]


def require_sound_environment() -> None:
    """Check the requirements, to give one sentence at start-up instead of a stack trace later.

    Raises:
        BrokenEnvironmentError: a requirement is broken; the message is about the first one.
    """
    if problems := find_problems():
        more = f" ({len(problems)} problems in all: `wordmask check`)" if len(problems) > 1 else ""
        raise BrokenEnvironmentError(problems[0] + more)


def versions(names: Sequence[str]) -> dict[str, str]:
    """Name -> installed version, or "not installed", for reports; Python itself comes first."""
    return {
        "python": sys.version.split()[0],
        **{name: installed_version(name) or "not installed" for name in names},
    }


def _problem(text: str, version_of: Callable[[str], str | None]) -> str | None:
    requirement = Requirement(text)
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    version, wanted = version_of(requirement.name), f"{requirement.name}{requirement.specifier}"
    command = f'type `pip install "{wanted}"`.'
    if version is None:
        return f"{requirement.name} is not installed, and WordMask requires it; {command}"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    reason = SYMPTOMS.get(requirement.name, "older ones lack what WordMask calls")
    return f"{requirement.name} {version} is installed, but WordMask needs {wanted} ({reason}); {command}"


def _mismatched_torch(torch: str | None, torchvision: str | None, wants: Sequence[str]) -> str | None:
    """A sentence if torchvision was built for another torch.

    That is another release, or a CPU build beside a CUDA build (x86-64 only).
    """
    if torch is None or torchvision is None:
        return None
    pins = [pin for pin in map(Requirement, wants) if pin.name == "torch"]
    release = all(pin.specifier.contains(torch, prereleases=True) for pin in pins)
    build = (Version(torch).local == "cpu") == (
        Version(torchvision).local == "cpu"
    ) or platform.machine() != "x86_64"
    if release and build:
        return None
    return (
        f"torchvision {torchvision} was not built for torch {torch} (the symptom: "
        "operator torchvision::nms does not exist); install both again, together "
        "and from one index: `pip install --force-reinstall torch torchvision`."
    )
