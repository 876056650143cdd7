"""What a person does with the panel, and a server that says what it is told: helpers of Widget tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import slicer
from tests.slicer import harness
from tests.slicer.fault_server import Caller, Script, health, says_json
from tests.slicer.qt_harness import install_qt

_open: list[Any] = []
_closed: list[Any] = []
PATIENCE = 90.0  # the machine may be busy


class MemoryStore:
    """Settings that end with the test."""

    def __init__(self, **kept: Any) -> None:
        self.kept = {f"WordMask/{name}": value for name, value in kept.items()}

    def value(self, key: str) -> Any:
        return self.kept.get(key)

    def setValue(self, key: str, value: Any) -> None:  # noqa: N802
        self.kept[key] = value


def open_panel(
    address: str, token: str = "", *, timeout: float = PATIENCE, store: MemoryStore | None = None
) -> Any:
    """The module's Widget as a person sees it after typing the address; nothing was asked yet."""
    install_qt()
    module = harness.load_module(harness.MODULE_FOLDER / "WordMask.py")
    from WordMaskLib.client.retry import RetryPolicy
    from WordMaskLib.panel.qt_transport import QtTransport
    from WordMaskLib.panel.settings import Settings

    widget = module.WordMaskWidget()
    widget.settings = Settings(store or MemoryStore())
    retry = RetryPolicy(attempts=2, first_wait=0.05)
    widget.make_transport = lambda address, token, ca_file, timeout=timeout: QtTransport(
        address, token, ca_file=ca_file, timeout=timeout, retry=retry
    )
    widget.setup()
    widget.parent.resize(440, 1000)
    widget.parent.show()
    write(widget.ui.addressLine, address)
    if token:
        write(widget.ui.tokenLine, token)
    slicer.app.processEvents()
    _open.append(widget)
    return widget


@pytest.fixture(autouse=True)
def panels_are_closed(qt: Any) -> Iterator[None]:
    """At the end of every test, as when Slicer ends; files that import this have it."""
    # The first panel of a process would add this node, which stays, to a scene that a test compares.
    harness.load_module(harness.MODULE_FOLDER / "WordMask.py").WordMaskLogic().getParameterNode()
    _closed.clear()
    yield
    _closed.extend(_open)  # kept until the next test: the harness deletes their widgets, and must find them
    _open.clear()
    for widget in _closed:
        widget.cleanup()


def write(line: Any, text: str) -> None:
    """Type in place of what is there, key by key."""
    line.setFocus()
    line.selectAll()
    qt_test().keyClicks(line, text) if text else line.clear()


def press(line: Any, key: str) -> None:
    qt_test().keyClick(line, getattr(install_qt().Qt.Key, f"Key_{key}"))


def click(button: Any) -> None:
    """With the mouse; a button that cannot be clicked is a failure of the test."""
    assert button.isEnabled(), f"{button.objectName()} cannot be clicked"
    assert button.isVisible(), f"{button.objectName()} is not shown"
    button.click()


def qt_test() -> Any:
    from PySide6.QtTest import QTest

    return QTest


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Let the window work until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        slicer.app.processEvents()
        time.sleep(0.002)


def until_done(widget: Any, seconds: float = PATIENCE) -> None:
    """Let the window work until its piece of work has ended."""
    until(lambda: not widget.panel.busy, seconds)


def message(widget: Any) -> str:
    """What the panel says."""
    return str(widget.ui.messageLabel.property("text")) if widget.ui.messageLabel.isVisible() else ""


def table(widget: Any) -> list[list[str]]:
    """The texts of the table of results."""
    found = widget.ui.resultTable
    return [
        [found.item(row, column).text() for column in range(found.columnCount())]
        for row in range(found.rowCount())
    ]


MODEL = {
    "name": "m", "title": "Model", "preset": "tiny", "device": "cpu", "hints": [],
    "output_volumes": ["labels", "uncertainty"], "trained_words": ["liver"],
    "unknown_words": "refuse", "version": "1", "versions": [],
    "training": {"recipes": ["few_shot", "quick", "decoder", "zero_shot"], "words": False},
}  # fmt: skip
LIVER = {
    "word": "liver", "matched": "liver", "kind": "prefix", "synonyms": ["hepar"], "trained": True,
    "modalities": ["CT"], "color": [221, 130, 101],
}  # fmt: skip


def routes(**changed: Script) -> Script:
    """A server that does what is said per route (see `route_of`); health, models, vocabulary and training
    answer as they should.
    """
    scripts: dict[str, Script] = {
        "health": says_json(health()), "models": says_json({"models": [MODEL]}),
        "vocabulary": says_json({"words": [LIVER]}), "training": says_json({"state": "none"}),
        **changed,
    }  # fmt: skip

    def script(caller: Caller) -> None:
        start = caller.sock.recv(200, 2).decode("latin-1")  # 2: look, and leave it there
        if " " not in start:
            return  # the client went away
        method, path = start.split(" ")[:2]
        scripts.get(route_of(method, path), nothing_here)(caller)

    return script


nothing_here = says_json({"detail": "Not Found"}, "404 Not Found")


def route_of(method: str, path: str) -> str:
    """A short name for a request."""
    parts = path.split("?")[0].strip("/").split("/")
    if parts[0] == "datastore":
        return {"label": "label", "image": "upload" if method == "PUT" else "image"}.get(parts[-1], "images")
    if parts[0] == "train":
        return "stop" if method == "DELETE" else "train"
    if len(parts) == 1:
        return parts[0]
    if parts[1] == "jobs" and method == "GET":
        return "result" if parts[-1] == "result" else "job"
    if parts[1] == "jobs":
        return "start" if method == "POST" else "cancel"
    return "rollback" if parts[-1] == "rollback" else parts[1]
