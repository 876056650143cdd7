"""A WordMask server as one object: every method asks and waits for the answer.

For scripts, tests and the Logic. What must not wait takes the same requests from `calls`, and the same
readers, to another transport. Knows which requests there are; not how they travel.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from . import calls
from .addresses import ServerAddress, repair_address
from .answers import DatastoreImage, Health, ModelInfo, ServerInfo, Suggestion
from .calls import Call
from .errors import (
    BadAnswerError,
    ClientError,
    IncompatibleServerError,
    NotAWordMaskServerError,
    ServerAnswerError,
    ServerTimeoutError,
    network_error,
)
from .job_answers import JobResult, JobStatus, NextCase, TrainingState
from .transport import HttpTransport, RetryPolicy
from .wire import CancelToken

__all__ = ["CancelToken", "Handshake", "WordMaskClient", "judge_server", "repair_address"]

# The version of WordMask whose routes these are. A server with another first number is refused, one with a
# newer second number gets a warning.
NEEDED = (0, 1)
POLL_SECONDS = 0.3

T = TypeVar("T")
if TYPE_CHECKING:
    from .calls import Words
    from .transport import Progress


@dataclass(frozen=True)
class Handshake:
    """A server that can be used. version: of WordMask; warnings: sentences to show beside it."""

    address: ServerAddress
    version: str
    warnings: tuple[str, ...]


def judge_server(
    address: ServerAddress, health: Health | ClientError, info: ServerInfo | ClientError | None = None
) -> Handshake:
    """Whether a server can be used, by what it answered to `calls.health`, or the error that came of it.

    info: of `calls.info`, the same way; needed to say what else it is when ``health`` is a ServerAnswerError
    or BadAnswerError, see `is_another`. NotAWordMaskServerError, IncompatibleServerError, or the error of
    ``health``.
    """
    if isinstance(health, Health):
        warnings = [_version_warning(address, health.version)]
        if not address.is_encrypted and not address.is_local:
            warnings.append(
                f"Images travel to {address} without encryption; use an address with https:// where others "
                "can listen."
            )
        return Handshake(address, health.version, tuple(warning for warning in warnings if warning))
    if not is_another(health):
        raise health
    if isinstance(info, ServerInfo) and info.name == "WordMask":
        raise _incompatible(address, info.version, "too old")
    if isinstance(info, ServerInfo):
        raise NotAWordMaskServerError(
            f"The server at {address} is MONAI Label with the app {info.name[:60]!r}, not WordMask; start it "
            "with --app monailabel_app."
        )
    raise NotAWordMaskServerError(
        f"Something answers at {address}, but it is no WordMask server; check the address and its port."
    )


def is_another(health: Health | ClientError) -> bool:
    """Whether this answer to `calls.health` means that the server may be another one, so that `calls.info`
    should be asked.
    """
    if isinstance(health, BadAnswerError):
        return True
    return isinstance(health, ServerAnswerError) and health.status in (
        300,
        301,
        302,
        303,
        307,
        308,
        400,
        404,
        405,
        422,
        501,
    )


class WordMaskClient:
    """Asks one server.

    Every method raises ClientError and its kinds (`errors` lists them), and leaves nothing half done.

    progress: called with bytes so far and in all; cancel: stops within a tenth of a second, then
    TransferCancelledError.
    """

    def __init__(
        self,
        address: str | ServerAddress,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        ca_file: Path | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """timeout: seconds without a sign of the server; ca_file: trust these certificates and no others.

        AddressError, LocalFileError.
        """
        self.address = repair_address(address) if isinstance(address, str) else address
        self._transport = HttpTransport(self.address, token, timeout=timeout, ca_file=ca_file, retry=retry)

    def __repr__(self) -> str:
        return f"WordMaskClient({str(self.address)!r})"

    def run(self, call: Call[T], *, progress: Progress | None = None, cancel: CancelToken | None = None) -> T:
        """Send any call of `calls`, and wait for its answer."""
        return self._transport.run(call, progress=progress, cancel=cancel)

    def handshake(self) -> Handshake:
        """Whether this is a server that the module can use; NotAWordMaskServerError, IncompatibleServerError
        and others say why not.
        """
        health = self._or_error(calls.health())
        if not is_another(health):
            return judge_server(self.address, health)
        info = self._or_error(calls.info())
        return judge_server(self.address, health, info)

    def info(self) -> ServerInfo:
        """What the server says of itself, also one of MONAI Label's without WordMask."""
        return self.run(calls.info())

    def health(self) -> Health:
        """Version, queue, models."""
        return self.run(calls.health())

    def models(self) -> tuple[ModelInfo, ...]:
        """Models, what they can do, and their versions."""
        return self.run(calls.models())

    def vocabulary(self, typed: str = "", model: str = "", limit: int = 20) -> tuple[Suggestion, ...]:
        """Suggestions for a text box, best first."""
        return self.run(calls.vocabulary(typed, model, limit))

    def start_job(
        self,
        model: str,
        words: Words | None,
        *,
        image: str = "",
        file: Path | None = None,
        options: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> JobStatus:
        """Queue a segmentation of an image of the server, or of a file that is sent along.

        Arguments as of `calls.start_job`.
        """
        return self.run(
            calls.start_job(model, words, image=image, file=file, options=options),
            progress=progress,
            cancel=cancel,
        )

    def job(self, job_id: str) -> JobStatus:
        """How far a job is."""
        return self.run(calls.job(job_id))

    def cancel_job(self, job_id: str) -> JobStatus:
        """Ask a job to stop."""
        return self.run(calls.cancel_job(job_id))

    def wait_for_job(
        self,
        job_id: str,
        *,
        timeout: float = 3600.0,
        report: Callable[[JobStatus], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> JobStatus:
        """The final status of a job.

        report: gets every status on the way; cancel: also cancels the job. ServerTimeoutError.
        """
        token, deadline = cancel or CancelToken(), time.monotonic() + timeout
        while True:
            status = self.run(calls.job(job_id))
            if report is not None:
                report(status)
            if status.final:
                return status
            if time.monotonic() > deadline:
                raise ServerTimeoutError(
                    f"The job is still {status.state} after {timeout:.0f} s; look later, or cancel it."
                )
            if token.wait(POLL_SECONDS):
                self.cancel_job(job_id)
                raise network_error("cancelled", self.address)

    def download_result(
        self,
        job_id: str,
        folder: Path,
        stem: str = "",
        *,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> JobResult:
        """What a job made; its file is put into ``folder`` under a name of ours."""
        return self.run(calls.job_result(job_id, folder, stem), progress=progress, cancel=cancel)

    def images(self) -> tuple[DatastoreImage, ...]:
        """Every case of the server's datastore."""
        return self.run(calls.images())

    def download_image(
        self,
        image: str,
        folder: Path,
        stem: str = "",
        *,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> Path:
        """The file of a case, put into ``folder`` under a name of ours."""
        return self.run(calls.image_file(image, folder, stem), progress=progress, cancel=cancel)

    def upload_image(
        self,
        image: str,
        file: Path,
        info: Mapping[str, Any] | None = None,
        *,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> str:
        """Put a file into the datastore under the id ``image``; the id that it has there."""
        return self.run(calls.upload_image(image, file, info), progress=progress, cancel=cancel)

    def submit_label(
        self,
        image: str,
        file: Path,
        names: Mapping[str, int],
        *,
        tag: str = "final",
        codes: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
    ) -> str:
        """Keep a corrected label map; names: word -> value in the file.

        Arguments as of `calls.submit_label`.
        """
        return self.run(
            calls.submit_label(image, file, names, tag=tag, codes=codes), progress=progress, cancel=cancel
        )

    def start_training(self, model: str, options: Mapping[str, Any] | None = None) -> None:
        """Learn from all final labels, in the background; ServerBusyError while another training runs."""
        self.run(calls.start_training(model, options))

    def training(self, model: str = "") -> TrainingState:
        """How far a training is, or how the last one ended."""
        return self.run(calls.training(model))

    def stop_training(self) -> None:
        """End the training that runs, if one does."""
        self.run(calls.stop_training())

    def next_case(
        self, strategy: str = "hybrid", *, model: str = "", words: str = "", skip: Sequence[str] = ()
    ) -> NextCase:
        """The case to label next, with why, and a preview job."""
        return self.run(calls.next_case(strategy, model=model, words=words, skip=skip))

    def rollback(self, model: str, to: int | None = None) -> str:
        """Let an earlier version serve; the version that serves then."""
        return self.run(calls.rollback(model, to))

    def _or_error(self, call: Call[T]) -> T | ClientError:
        try:
            return self.run(call)
        except ClientError as error:
            return error


def _version_warning(address: ServerAddress, version: str) -> str:
    """What to say about a version, empty when it is the one this module knows; IncompatibleServerError."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None:
        raise _incompatible(address, version, "unknown")
    found = (int(numbers.group(1)), int(numbers.group(2)))
    if found < NEEDED:
        raise _incompatible(address, version, "too old")
    if found[0] != NEEDED[0]:
        raise _incompatible(address, version, "too new")
    if found != NEEDED:
        return (
            f"The server at {address} has WordMask {version}, newer than this module; update the "
            "extension if something does not work."
        )
    return ""


def _incompatible(address: ServerAddress, version: str, how: str) -> IncompatibleServerError:
    remedy = (
        "update the extension" if how == "too new" else f"update it to {NEEDED[0]}.{NEEDED[1]} or a later one"
    )
    return IncompatibleServerError(
        f"The server at {address} has WordMask {version[:20]}, which is {how} for this module; {remedy}."
    )
