"""A server on this computer as a child process of Slicer, started and stopped with Qt's process class.

Command, port and the meaning of a log come from `server_process` and `server_log`. Knows Qt and processes;
not the panel.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer.util

from ..client.addresses import ServerAddress
from ..client.answers import Health
from ..client.errors import ClientError
from .environments import find_environment
from .server_log import plain_log
from .server_process import HOST, StartState, free_port, judge_start, server_command, server_variables

STOP_SECONDS = 10.0
LONGEST_LOG = 64 << 10  # characters that are kept
_HAS_GROUPS = os.name == "posix"
# A group of its own, so that trainings, which are processes of the server, end with it.
GROUP = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"
FINISH_MS = 5000
FAILED_TO_START = 0  # of QProcess.ProcessError, which PythonQt and PySide6 show as different types


class LocalServer:
    """One server process.

    Args:
        wrote: called with what it prints, whole lines at a time
        ended: called when it has ended, by itself or because it was stopped
    """

    def __init__(self, wrote: Callable[[str], None], ended: Callable[[], None]) -> None:
        self._wrote, self._ended = wrote, ended
        self._process: Any = None
        self._began = 0.0
        self._code: int | None = None
        self.address: ServerAddress | None = None
        self.log = ""
        self._line = b""  # its beginning; the rest has not come yet

    @property
    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None

    def start(self, environment: str, studies: str) -> None:
        """Start the process and return at once; ServerStartError says what is wrong with the folders."""
        found = find_environment(environment)
        port = free_port()
        command = server_command(found, found.app_folder, Path(studies).expanduser(), port)
        if _HAS_GROUPS:
            command = [command[0], "-c", GROUP, *command]
        self.address, self.log, self._line = ServerAddress("http", HOST, port), "", b""
        self._code, self._began = None, time.monotonic()
        process = qt.QProcess(qt.QCoreApplication.instance())
        process.setProcessChannelMode(qt.QProcess.MergedChannels)
        process.setProcessEnvironment(_variables())
        process.readyReadStandardOutput.connect(self._on_output)
        process.finished.connect(self._on_finished)
        process.errorOccurred.connect(self._on_error)
        self._process = process
        process.start(command[0], command[1:])

    def state(self, answer: Health | ClientError | None) -> StartState:
        """Return how far the start is, by the server's last answer."""
        seconds = time.monotonic() - self._began
        return judge_start(
            is_running=self.is_running, answer=answer, seconds=seconds, log=self.log, exit_code=self._code
        )

    def stop(self) -> None:
        """Ask the server to end, and kill it later if it does not; returns at once."""
        if self._process is not None:
            self._signal("ask")
            stopping = self._process
            qt.QTimer.singleShot(
                int(1000 * STOP_SECONDS), lambda: self._signal("end") if self._process is stopping else None
            )

    def end(self) -> None:
        """End the server now and wait for it, because Slicer ends."""
        process, self._process = self._process, None
        if process is not None:
            self._signal("ask", process)
            if not process.waitForFinished(FINISH_MS):
                self._signal("end", process)
                process.waitForFinished(FINISH_MS)
            process.deleteLater()

    def _signal(self, how: str, process: Any = None) -> None:
        process = process or self._process
        if process is None:
            return
        number = int(process.processId())
        if _HAS_GROUPS and number > 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has no group yet, or is gone
                os.killpg(number, signal.SIGTERM if how == "ask" else signal.SIGKILL)
                return
        if how == "ask" and _HAS_GROUPS:
            process.terminate()
        else:
            process.kill()  # a program without a window does not hear Windows' question

    def _on_output(self, *_args: Any) -> None:
        if self._process is not None:
            printed = self._line + self._process.readAllStandardOutput().data()
            end = max(printed.rfind(b"\n"), printed.rfind(b"\r")) + 1
            self._line = printed[end:]
            self._show(printed[:end])

    def _show(self, lines: bytes) -> None:
        if lines:
            text = plain_log(lines.decode("utf-8", errors="replace"))
            self.log = (self.log + text)[-LONGEST_LOG:]
            self._wrote(text)

    def _on_finished(self, code: Any = 0, *_args: Any) -> None:
        if self._process is not None:
            self._on_output()
            self._show(self._line)
            self._code = int(code)
            self._forget()
            self._ended()

    def _on_error(self, kind: Any = None, *_args: Any) -> None:
        if self._process is not None and int(getattr(kind, "value", kind)) == FAILED_TO_START:
            self._code = None
            self.log += "The program cannot be run."
            self._forget()
            self._ended()

    def _forget(self) -> None:
        """Forget the process. Qt's object is deleted later, because it is just sending us its signal."""
        self._process.deleteLater()
        self._process = None


def _variables() -> Any:
    """Return environment variables for a Python that is not Slicer's."""
    startup = getattr(slicer.util, "startupEnvironment", None)
    try:
        own = dict(startup()) if startup is not None else dict(os.environ)
    except AttributeError:  # without the application
        own = dict(os.environ)
    found = qt.QProcessEnvironment()
    for name, value in server_variables(own).items():
        found.insert(name, value)
    return found
