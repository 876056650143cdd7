"""Which person has which case: nobody else is offered it until the claim ends.

Kept in a file, so that a restart forgets nothing. Knows names and times; not the datastore.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel, ValidationError

from wordmask.files import replace_text

logger = logging.getLogger(__name__)


class _Claim(BaseModel):
    who: str
    until: float  # seconds since 1970


class _Content(BaseModel):
    studies: str
    claims: dict[str, _Claim] = {}


class Claims:
    """Claims on the cases of one studies folder; every method may be called from any thread.

    Args:
        path: of the file; claims on another studies folder that it holds are dropped.
        studies: folder or address of the studies.
        seconds: how long a claim lasts.
    """

    def __init__(self, path: Path, studies: str, seconds: float) -> None:
        self._path, self._seconds, self._lock = path, seconds, threading.Lock()
        self._content = _Content(studies=studies)
        try:
            kept = _Content.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValidationError):
            logger.warning("%s cannot be read, so who has which case is forgotten.", path.name)
            return
        if kept.studies == studies:
            self._content = kept

    def taken_from(self, who: str) -> set[str]:
        """The cases that others have."""
        with self._lock:
            return {image for image, claim in self._alive().items() if claim.who != who}

    def take(self, image: str, who: str) -> bool:
        """Give a case to a person, from now on; False when another one has it."""
        with self._lock:
            claims = self._alive()
            if image in claims and claims[image].who != who:
                return False
            claims[image] = _Claim(who=who, until=time.time() + self._seconds)
            self._keep(claims)
            return True

    def release(self, images: Collection[str], who: str | None = None) -> None:
        """End claims: those of one person, or of anybody."""
        with self._lock:
            claims = self._alive()
            left = {
                image: claim
                for image, claim in claims.items()
                if image not in images or who not in (None, claim.who)
            }
            if left != claims:
                self._keep(left)

    def _alive(self) -> dict[str, _Claim]:
        now = time.time()
        return {image: claim for image, claim in self._content.claims.items() if claim.until > now}

    def _keep(self, claims: dict[str, _Claim]) -> None:
        self._content = self._content.model_copy(update={"claims": claims})
        try:
            replace_text(self._path, self._content.model_dump_json())
        except OSError as error:  # they still hold in this process
            logger.warning("%s cannot be written (%s).", self._path.name, error.strerror)
