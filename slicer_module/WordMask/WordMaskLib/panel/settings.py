"""What is remembered from one start of Slicer to the next, except the token, because settings are a plain
file.

Knows the names; where they are stored is the store's business (Slicer's QSettings, a plain object in tests).
"""

from __future__ import annotations

import getpass
from typing import Any, Protocol

from ..client.addresses import EXAMPLE
from ..client.prompts import read_history, remember


class Store(Protocol):
    """The part of QSettings that is used here."""

    def value(self, key: str) -> Any:
        """Return what is stored; None if nothing is."""

    def setValue(self, key: str, value: Any) -> None:  # noqa: N802 - Qt's name
        """Store a text or a list of texts."""


class Settings:
    """Reads and writes texts and lists of texts, whatever the file contains."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def address(self) -> str:
        """The address of the server that was used last."""
        return self.text("address") or EXAMPLE

    @property
    def annotator(self) -> str:
        """The person's name for the server: the stored one, else that of the account."""
        try:
            return self.text("annotator") or getpass.getuser()
        except (ImportError, KeyError, OSError):  # an account without a name, as in some containers
            return ""

    @property
    def history(self) -> list[str]:
        """Texts that were used before, the newest first."""
        return read_history(self._store.value("WordMask/history"))

    def remember_words(self, text: str) -> None:
        """Put a text in front of the history."""
        self._store.setValue("WordMask/history", remember(self.history, text))

    def text(self, name: str) -> str:
        """Return one of: address, annotator, model, certificate, environment, studies."""
        value = self._store.value(f"WordMask/{name}")
        return value if isinstance(value, str) else ""

    def keep(self, name: str, text: str) -> None:
        """Store one of the texts that `text` returns."""
        self._store.setValue(f"WordMask/{name}", text)
