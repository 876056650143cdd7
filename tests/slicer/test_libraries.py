"""A machine without the libraries that Qt and VTK's rendering need: what needs them is left out, loudly, and the rest is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.slicer import libraries

WITHOUT = """
import sys
import pytest
from tests.slicer import libraries

libraries.missing_libraries = lambda need: ("libnothing.so.1",)
for name in ("QtCore", "QtGui", "QtWidgets"):
    sys.modules[f"PySide6.{name}"] = None
sys.exit(pytest.main([*sys.argv[1:], "-q", "-p", "no:cacheprovider"]))
"""
REPOSITORY = Path(__file__).resolve().parents[2]


def run_without(*arguments: str, **environment: str) -> str:
    """What pytest prints on such a machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", libraries.REQUIRED))}
    command = [sys.executable, "-c", WITHOUT, *arguments]
    ran = subprocess.run(command, cwd=REPOSITORY, env={**kept, **environment}, capture_output=True, text=True, timeout=600, check=False)
    return f"{ran.stdout}\n{ran.stderr}\nstatus {ran.returncode}"


def test_what_needs_missing_libraries_is_skipped_with_the_line_that_brings_them() -> None:
    said = run_without("tests/slicer", "-k", "widget or harness or qt_transport or views or jumping")
    assert said.endswith("status 0"), said
    assert "tests of the Slicer module were NOT run, because libraries are missing" in said
    assert libraries.INSTALL in said
    assert re.search(r"^\d+ passed, \d+ skipped, \d+ deselected in", said, re.MULTILINE), said


def test_missing_libraries_are_a_failure_where_every_test_must_be_run() -> None:
    said = run_without("tests/slicer/test_findings.py", "-k", "jumping", **{libraries.REQUIRED: "1"})
    assert said.endswith("status 1"), said
    assert "VTK's rendering needs libnothing.so.1, which this machine lacks." in said
    assert re.search(r"^\d+ deselected, 1 error in", said, re.MULTILINE), said


@pytest.mark.parametrize("need", libraries.NEEDS)
def test_libraries_that_cannot_be_loaded_are_named(need: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "_can_be_loaded", lambda library: library != "libGL.so.1")
    libraries.missing_libraries.cache_clear()
    assert libraries.missing_libraries(need) == (("libGL.so.1",) if sys.platform.startswith("linux") else ())
    libraries.missing_libraries.cache_clear()
    assert " libgl1 " in libraries.INSTALL
