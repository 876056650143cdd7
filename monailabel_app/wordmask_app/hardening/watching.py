"""Watches a folder for files that come and go. Knows files; not what they are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from wordmask.files import PREFIX

logger = logging.getLogger(__name__)

PAUSE = 0.5  # seconds from a change to the look at it, so that many changes are looked at once
_IGNORED = (".lock", "opened", "closed_no_write")


def watch_folder(folder: Path, look: Callable[[], None]) -> BaseObserver | None:
    """Call a function soon after something changed in a folder or below it.

    Args:
        folder: may be on a share of the network, whose changes are found by looking again and again.
        look: called from a thread of its own, at most once in `PAUSE` seconds.

    Returns:
        What watches, until its ``stop`` is called; None, with an error in the log, where that is impossible.
    """
    observer = PollingObserver() if _is_on_mount(folder) else Observer()
    try:
        observer.schedule(_Changes(look), str(folder), recursive=True)
        observer.start()
    except OSError as error:
        logger.error("The folder %s cannot be watched (%s); restart the server after changes.", folder, error)
        return None
    return observer


class _Changes(FileSystemEventHandler):
    def __init__(self, look: Callable[[], None]) -> None:
        self._look, self._lock = look, threading.Lock()
        self._is_due = False

    def on_any_event(self, event: FileSystemEvent) -> None:
        names = {Path(str(path)).name for path in (event.src_path, event.dest_path) if path}
        if event.event_type in _IGNORED or all(name in _IGNORED or name.startswith(PREFIX) for name in names):
            return
        with self._lock:
            if self._is_due:
                return
            self._is_due = True
        timer = threading.Timer(PAUSE, self._run)
        timer.daemon = True
        timer.start()

    def _run(self) -> None:
        with self._lock:
            self._is_due = False
        self._look()


def _is_on_mount(folder: Path) -> bool:
    return any(path.is_mount() for path in (folder, *folder.parents) if path != path.parent)
