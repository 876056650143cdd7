"""A machine without the libraries that Qt and VTK's rendering need: what needs them is left out, loudly, and
the rest is run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.slicer import libraries
from tests.slicer.views import SliceView

WITHOUT = """
import sys
import pytest
from tests.slicer import libraries

libraries.missing_libraries = lambda need: ("libnothing.so.1",)
for name in ("QtCore", "QtGui", "QtWidgets"):
    sys.modules[f"PySide6.{name}"] = None
chosen = "widget or harness or qt_transport or views or jumping"
sys.exit(pytest.main(["tests/slicer", "-q", "-p", "no:cacheprovider", "-k", chosen]))
"""
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_opengl(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if libGL.so.1 could not be loaded."""
    monkeypatch.setattr(libraries, "_can_be_loaded", lambda library: library != "libGL.so.1")
    monkeypatch.delenv(libraries.REQUIRED, raising=False)
    libraries.missing_libraries.cache_clear()
    yield
    libraries.missing_libraries.cache_clear()


def test_what_needs_missing_libraries_is_skipped_with_the_line_that_brings_them() -> None:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", libraries.REQUIRED))
    }
    command = [sys.executable, "-c", WITHOUT]
    ran = subprocess.run(
        command, cwd=REPOSITORY, env=kept, capture_output=True, text=True, timeout=600, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "tests of the Slicer module were NOT run, because libraries are missing" in ran.stdout
    assert libraries.INSTALL in ran.stdout
    assert re.search(r"^\d+ passed, \d+ skipped, \d+ deselected in", ran.stdout, re.MULTILINE), ran.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the libraries are those of Linux")
def test_a_missing_library_is_a_reason_to_skip_and_a_failure_where_every_test_must_be_run(
    no_opengl: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert libraries.missing_libraries("qt") == libraries.missing_libraries("rendering") == ("libGL.so.1",)
    assert libraries.reasons_to_skip() == {
        "qt": "libraries: Qt needs libGL.so.1",
        "rendering": "libraries: VTK's rendering needs libGL.so.1",
    }
    monkeypatch.setenv(libraries.REQUIRED, "1")
    assert libraries.reasons_to_skip() == {}
    with pytest.raises(
        ImportError,
        match=r"VTK's rendering needs libGL\.so\.1, which this machine lacks\. .*apt-get install .* libgl1 ",
    ):
        SliceView()
