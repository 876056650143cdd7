"""What is run, what is skipped and why, and the fixtures that every kind of test may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tests.slicer import libraries

REAL_DATA = "WORDMASK_REAL_DATA"

# A server that is started once for several files. pytest-xdist's own marker for this, xdist_group, has no
# effect with pytest 9.2.
SHARED_SERVERS = {
    "a_server": ("integration/test_faults.py", "integration/test_server.py"),
    "a_learning_server": ("integration/test_active_learning.py", "integration/test_training.py"),
    "server": (
        *("slicer/test_client.py", "slicer/test_logic.py", "slicer/test_server_process.py"),
        *("slicer/test_widget.py", "slicer/test_widget_learning.py", "slicer/test_widget_overlay.py"),
    ),
}

# Of several workers each has one core, and so has every process that its tests start. torch reads this when
# it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_configure(config: pytest.Config) -> None:
    # A user's own weights or Hugging Face settings must not decide whether a test passes, and no test may
    # download from a hub.
    os.environ.pop("WORDMASK_WEIGHTS", None)
    # Examples may take long on a busy machine; the time-out of the whole test stays.
    hypothesis.settings.register_profile("wordmask", deadline=None)
    hypothesis.settings.load_profile("wordmask")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers: one runs all tests of a file, so that no fixture is made twice, and all files
    that share a server.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByServerOrFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((server for server, files in SHARED_SERVERS.items() if file.endswith(files)), file)

    return ByServerOrFile(config, log)


def _benchmarks_asked_for(config: pytest.Config) -> bool:
    return "benchmark" in config.option.markexpr or any(
        "benchmarks" in argument for argument in config.invocation_params.args
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, with a reason that the summary lists, what was not asked for or cannot run here.

    Nothing is deselected in silence.
    """
    reasons = {}
    if not config.option.slow and "slow" not in config.option.markexpr:
        reasons["slow"] = "slow: run it with `make test ARGS=--slow`"
    if not _benchmarks_asked_for(config):
        reasons["benchmark"] = "benchmark: run it with `make bench`"
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            reasons["gpu"] = "gpu: this machine has no usable CUDA device"
    if _real_data() is None:
        reasons["real_data"] = f"real_data: {REAL_DATA} does not name the folder of real images"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it loudly when checks were left out because this machine lacks what they need, and what to do about
    it.
    """
    loud = {
        "real_data:": ("tests on real images were NOT run", f"set {REAL_DATA} to their folder"),
        "libraries:": (
            "tests of the Slicer module were NOT run, because libraries are missing",
            f"on Debian: {libraries.INSTALL}",
        ),
    }
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    for reason, (left_out, remedy) in loud.items():
        if count := sum(reason in text for text in reasons):
            terminalreporter.write_sep("!", f"{count} {left_out}", yellow=True, bold=True)
            terminalreporter.write_line(f"To run them, {remedy}", yellow=True, bold=True)


def _real_data() -> Path | None:
    """The folder, when the variable names one. A name that leads nowhere is a mistake, not a wish to skip."""
    text = os.environ.get(REAL_DATA)
    if not text:
        return None
    folder = Path(text)
    if not folder.is_dir():
        raise pytest.UsageError(f"{REAL_DATA} is set, but there is no such folder: {folder}")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images; use it together with ``@pytest.mark.real_data``."""
    folder = _real_data()
    if folder is None:
        pytest.skip(f"real_data: {REAL_DATA} does not name the folder of real images")
    return folder
