"""The section for a server on this computer: a real process by QProcess, started, found, stopped, and dead in
all ways.

The process is a small server of the standard library in place of `wordmask serve`, started by the command for
the real one; that the real one starts with this command is shown in test_local_server_paths.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.slicer.fault_server import fault_server, is_a_sentence
from tests.slicer.person import MemoryStore, click, message, open_panel, routes, until, until_done
from tests.slicer.person import panels_are_closed as panels_are_closed

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")

SERVER = """
import http.server, json, subprocess, sys, time
arguments = sys.argv[1:]
print("arguments", *arguments, flush=True)
for part in (b"half a l" + bytes([195]), bytes([173]) + b"ne" + bytes([10])):
    sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()
    time.sleep(0.2)
if HOW == "dies":
    print("wordmask: The folder is locked; choose another one.", file=sys.stderr, flush=True)
    sys.exit(2)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
ANSWERS = {"health": HEALTH, "models": MODELS, "vocabulary": {"words": []}, "training": {"state": "none"}}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(ANSWERS[self.path.split("?")[0].split("/")[2]]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
port = int(arguments[arguments.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def an_environment(folder: Path, mode: str = "works") -> Path:
    """What looks like a Python environment with MONAI Label and WordMask in it."""
    from tests.slicer.fault_server import health
    from tests.slicer.person import MODEL

    script = (
        SERVER.replace("HOW", repr(mode))
        .replace("HEALTH", repr(health()))
        .replace("MODELS", repr({"models": [MODEL]}))
    )
    (folder / "server.py").write_text(script, encoding="utf-8")
    for name in ("monailabel", "wordmask"):
        (folder / "env" / "lib" / "python3.11" / "site-packages" / f"{name}-1.0.dist-info").mkdir(
            parents=True
        )
    python = folder / "env" / "bin" / "python"
    python.parent.mkdir()
    real = f'exec "{sys.executable}"'
    python.write_text(
        f'#!/bin/sh\nif [ "$1" = "-c" ]; then {real} "$@"; fi\n{real} "{folder}/server.py" "$@"\n'
    )
    python.chmod(0o755)
    return folder / "env"


@pytest.fixture
def a_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Open, with nothing chosen; the usual port of a server is one at which nobody listens."""
    from WordMaskLib.panel import panel_local
    from WordMaskLib.server import local_server, server_process

    monkeypatch.setattr(panel_local, "likely_addresses", lambda remembered: list(remembered))
    monkeypatch.setattr(local_server, "free_port", lambda: server_process.free_port(0))
    from tests.slicer.fault_server import a_closed_port

    widget = open_panel("", store=MemoryStore(address=f"http://127.0.0.1:{a_closed_port()}"))
    widget.ui.localSection.setCollapsed(False)
    return widget


def choose(widget: Any, environment: Path, studies: Path) -> None:
    widget.ui.environmentLine.setText(str(environment))  # pasted
    widget.ui.studiesLine.setText(str(studies))


def said(widget: Any) -> str:
    return str(widget.ui.localLabel.property("text"))


def log(widget: Any) -> str:
    return str(widget.ui.serverLog.toPlainText())


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return (
        Path(f"/proc/{process_id}/stat").read_text().split(")")[1].split()[0] != "Z"
        if sys.platform == "linux"
        else True
    )


def child(widget: Any) -> int:
    return int(log(widget).split("child ")[1].split()[0])


def test_a_server_is_started_used_and_stopped_with_what_it_started(a_panel: Any, tmp_path: Path) -> None:
    assert not a_panel.ui.startServerButton.isEnabled()
    choose(a_panel, an_environment(tmp_path), tmp_path)
    click(a_panel.ui.startServerButton)
    until(lambda: said(a_panel) == "The server is ready.")
    until_done(a_panel)
    assert message(a_panel) == "The server is ready."
    assert a_panel.ui.modelBox.itemText(0) == "Model"
    assert f"-m wordmask.cli serve --studies {tmp_path} --host 127.0.0.1 --port" in log(a_panel)
    assert "half a l\u00edne" in log(a_panel), "a line comes whole, however it was written"
    process = child(a_panel)
    assert is_alive(process)
    click(a_panel.ui.stopServerButton)
    until(lambda: said(a_panel) == "The server was stopped.")
    until(lambda: not is_alive(process))
    assert a_panel.ui.startServerButton.isEnabled()
    assert a_panel.panel.settings.text("environment") == str(tmp_path / "env")


def test_a_server_ends_with_slicer(a_panel: Any, tmp_path: Path) -> None:
    choose(a_panel, an_environment(tmp_path), tmp_path)
    click(a_panel.ui.startServerButton)
    until(lambda: said(a_panel) == "The server is ready.")
    process = child(a_panel)
    a_panel.cleanup()
    until(lambda: not is_alive(process))


def test_a_server_that_runs_already_is_used(a_panel: Any, tmp_path: Path) -> None:
    with fault_server(routes()) as server:
        a_panel.panel.settings.keep("address", server.url)
        choose(a_panel, an_environment(tmp_path), tmp_path)
        click(a_panel.ui.startServerButton)
        until(lambda: "is already running at" in said(a_panel))
        until_done(a_panel)
        assert a_panel.ui.addressLine.property("text") == server.url
        assert not a_panel.ui.stopServerButton.isEnabled(), "it was not started here"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("dies", "The folder is locked; choose another one."),
        ("no environment", "is not a Python environment"),
    ],
)
def test_a_server_that_cannot_start_is_one_sentence(
    mode: str, expected: str, a_panel: Any, tmp_path: Path
) -> None:
    environment = an_environment(tmp_path, mode) if mode == "dies" else tmp_path
    choose(a_panel, environment, tmp_path)
    click(a_panel.ui.startServerButton)
    until(lambda: expected in said(a_panel))
    assert is_a_sentence(ValueError(said(a_panel))), said(a_panel)
    until(lambda: a_panel.ui.startServerButton.isEnabled())
    assert not a_panel.ui.stopServerButton.isEnabled()


def test_a_folder_of_images_that_is_not_there_is_one_sentence(a_panel: Any, tmp_path: Path) -> None:
    choose(a_panel, an_environment(tmp_path), tmp_path / "gone")
    click(a_panel.ui.startServerButton)
    until(lambda: "There is no folder 'gone'" in said(a_panel))
    assert a_panel.ui.startServerButton.isEnabled()


def test_a_program_that_cannot_be_run_is_one_sentence(a_panel: Any, tmp_path: Path) -> None:
    environment = an_environment(tmp_path)
    (environment / "bin" / "python").chmod(0o644)
    choose(a_panel, environment, tmp_path)
    click(a_panel.ui.startServerButton)
    until(lambda: "stopped" in said(a_panel))
    assert is_a_sentence(ValueError(said(a_panel))), said(a_panel)
    until(lambda: a_panel.ui.startServerButton.isEnabled())
