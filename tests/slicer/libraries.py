"""Libraries of the system that Qt and pictures without a screen need: which are missing, and the line that
brings them.

The list is debian_packages.txt. Does not know: Qt, VTK, Slicer; it can be imported everywhere.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path

REQUIRED = "WORDMASK_REQUIRE_LIBRARIES"  # set: a missing library is a failure, not a reason to skip
NEEDS = {"qt": "Qt", "rendering": "VTK's rendering"}

_ROWS = [
    line.split()
    for line in Path(__file__).with_name("debian_packages.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
INSTALL = " ".join(["apt-get install --no-install-recommends", *(package for package, *_ in _ROWS)])


@functools.cache
def missing_libraries(need: str) -> tuple[str, ...]:
    """The libraries that ``need``, a key of NEEDS, uses and that this machine cannot load."""
    if not sys.platform.startswith("linux"):
        return ()  # the packages of PyPI bring or find all there
    return tuple(library for _, library, *needs in _ROWS if need in needs and not _can_be_loaded(library))


def say_missing(need: str) -> str:
    """One sentence; empty when nothing is missing."""
    missing = missing_libraries(need)
    return (
        f"{NEEDS[need]} needs {', '.join(missing)}, which this machine lacks. On Debian: {INSTALL}"
        if missing
        else ""
    )


def reasons_to_skip() -> dict[str, str]:
    """Key of NEEDS -> why tests that have this need are left out; empty where somebody relies on every test
    being run.
    """
    if os.environ.get(REQUIRED):
        return {}
    return {
        need: f"libraries: {NEEDS[need]} needs {missing[0]}"
        for need in NEEDS
        if (missing := missing_libraries(need))
    }


def _can_be_loaded(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
