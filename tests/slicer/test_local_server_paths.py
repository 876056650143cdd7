"""*Server on this computer* with the real server: every folder has a blank and an umlaut in its name, and the
PATH has no python.

What is started is `wordmask serve` of this checkout, by an environment that is made here: Qt's process,
uvicorn and the model are real.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.slicer.fault_server import a_closed_port
from tests.slicer.person import MemoryStore, click, message, open_panel, until, until_done, write
from tests.slicer.person import panels_are_closed as panels_are_closed
from tests.slicer.real_server import CT, REPOSITORY

pytestmark = pytest.mark.server

START_SECONDS = 600.0
OWN_APP = Path("Modelle und Protokolle", "wordmask", "app")


@pytest.fixture
def a_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Übungen für Ärzte"
    folder.mkdir()
    return folder


@pytest.fixture
def an_environment(a_folder: Path) -> Path:
    """A new environment that borrows this one's packages, and has WordMask from this checkout."""
    environment = a_folder / "Müllers Python"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", str(environment)],
        check=True,
    )
    (packages,) = environment.glob("lib/python3*/site-packages")
    borrowed = sysconfig.get_path("purelib")
    lines = [
        str(REPOSITORY / "lib"),
        str(REPOSITORY / "monailabel_app"),
        f"import site; site.addsitedir({borrowed!r})",
    ]
    (packages / "borrowed.pth").write_text("\n".join(lines), encoding="utf-8")
    return environment


@pytest.fixture
def a_panel(a_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """With a PATH that leads to nothing, and the folder for models where the person's data would be."""
    from WordMaskLib.panel import panel_local
    from WordMaskLib.server import local_server, server_process

    (a_folder / "no programs").mkdir()
    monkeypatch.setenv("PATH", str(a_folder / "no programs"))
    assert shutil.which("python") is None
    assert shutil.which("python3") is None
    monkeypatch.setattr(panel_local, "likely_addresses", lambda remembered: list(remembered))
    monkeypatch.setattr(local_server, "free_port", lambda: server_process.free_port(0))
    monkeypatch.setenv("XDG_DATA_HOME", str(a_folder / "Modelle und Protokolle"))
    monkeypatch.chdir(a_folder)  # not where monailabel_app is
    widget = open_panel("", store=MemoryStore(address=f"http://127.0.0.1:{a_closed_port()}"))
    widget.ui.localSection.setCollapsed(False)
    return widget


def start(widget: Any, environment: Path, studies: Path) -> None:
    widget.ui.environmentLine.setText(str(environment))
    widget.ui.studiesLine.setText(str(studies))
    click(widget.ui.startServerButton)


def said(widget: Any) -> str:
    return str(widget.ui.localLabel.property("text"))


def has_ended(widget: Any) -> bool:
    return bool(widget.ui.startServerButton.isEnabled())


def processes_of(folder: Path) -> list[str]:
    """Command lines of all processes that were started with something in a folder."""
    lines = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if str(folder) in line]


def test_a_server_starts_from_folders_with_blanks_and_umlauts(
    a_panel: Any, an_environment: Path, a_folder: Path
) -> None:
    studies = a_folder / "Bilder zum Üben"
    studies.mkdir()
    shutil.copy(REPOSITORY / "sample_data" / "studies" / f"{CT}.nii.gz", studies / "Müllers Bauch.nii.gz")
    start(a_panel, an_environment, studies)
    until(lambda: said(a_panel) == "The server is ready." or has_ended(a_panel), START_SECONDS)
    assert said(a_panel) == "The server is ready.", a_panel.ui.serverLog.toPlainText()
    until_done(a_panel)
    assert message(a_panel) == "The server is ready."
    assert "WordMask is ready at http://127.0.0.1:" in a_panel.ui.serverLog.toPlainText()
    assert (a_folder / OWN_APP / "main.py").is_file(), "the server made its app folder"
    write(a_panel.ui.wordsLine, "liver")
    click(a_panel.ui.nextButton)  # the only case is opened from the server, and segmented
    until_done(a_panel, START_SECONDS)
    assert a_panel.panel.volume is not None, message(a_panel)
    assert "Müllers Bauch" in str(a_panel.ui.caseLabel.property("text"))
    click(a_panel.ui.stopServerButton)
    until(lambda: said(a_panel) == "The server was stopped.")
    until(lambda: not processes_of(a_folder))


def test_what_the_server_refuses_is_said_with_its_own_sentence(
    a_panel: Any, an_environment: Path, a_folder: Path
) -> None:
    studies, own = a_folder / "Bilder zum Üben", a_folder / OWN_APP
    studies.mkdir()
    own.parent.mkdir(parents=True)
    own.write_text("a file where a folder belongs", encoding="utf-8")
    start(a_panel, an_environment, studies)
    until(lambda: has_ended(a_panel), START_SECONDS)
    assert said(a_panel) == f"The app folder {own} is a file; name a folder with --app."
    assert os.path.isfile(own)
