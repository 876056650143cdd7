"""Readers of answers as they arrive: JSON into objects, files into a folder that the caller names, refusals
into errors.

The client that waits and Qt's transport share these readers. They call `begin` with status and headers,
`feed` with data, `finish` at the end for the answer, and `abort` if it ends in another way, also after an
error of `begin` or `feed`. Nothing is left of an incomplete file, and a file never gets the name that the
server gave it. Knows HTTP's terms; not sockets.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from .addresses import ServerAddress
from .errors import (
    AccessDeniedError,
    BadAnswerError,
    ServerAnswerError,
    ServerBusyError,
    as_sentence,
    bad_answer,
    network_error,
)
from .files import FileInProgress
from .multipart import MultipartError, MultipartParser, file_name_in, header

LARGEST_JSON = 64 << 20  # bytes
LARGEST_REFUSAL = 1 << 20
# Of files that servers send.
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class AnswerReader(ABC, Generic[T_co]):
    """Reads one answer; use it once.

    A refusal (a status other than 2xx) becomes the error of its kind in `finish`.
    """

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self._status, self._reason = 0, ""
        self._headers: Mapping[str, str] = {}
        self._refusal = bytearray()
        self._received = 0

    def begin(self, status: int, reason: str, headers: Mapping[str, str]) -> None:
        """Take the status and the headers; BadAnswerError, LocalFileError."""
        self._status, self._reason, self._headers = status, reason, headers
        if not self.is_refusal:
            if header(headers, "content-encoding").lower() not in ("", "identity"):
                raise bad_answer(self.address, "it sends compressed answers without being asked to")
            self._start()

    def feed(self, data: bytes) -> None:
        """Take more of the body; BadAnswerError, LocalFileError."""
        self._received += len(data)
        if not self.is_refusal:
            self._take(data)
        elif len(self._refusal) < LARGEST_REFUSAL:
            self._refusal += data

    def finish(self) -> T_co:
        """Return the answer.

        Raises:
            ServerAnswerError: the server refused
            ConnectionLostError, BadAnswerError, LocalFileError: the answer is incomplete, not understood, or
                cannot be written
        """
        if self.is_refusal:
            raise refusal(self.address, self._status, self._reason, self._headers, bytes(self._refusal))
        try:
            length = header(self._headers, "content-length")
            if re.fullmatch(r"[0-9]{1,18}", length) and self._received < int(length):
                raise network_error("closed", self.address)
            return self._make_answer()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Remove whatever was written; calling it again has no effect."""

    @property
    def is_refusal(self) -> bool:
        """Whether the server did not carry out the request."""
        return not 200 <= self._status < 300

    @property
    def takes_files(self) -> bool:
        """Whether the answer may be long."""
        return False

    def _start(self) -> None:
        pass

    @abstractmethod
    def _take(self, data: bytes) -> None: ...

    @abstractmethod
    def _make_answer(self) -> T_co: ...

    def _bad_answer(self, what: str) -> BadAnswerError:
        return bad_answer(self.address, what)


class JsonReader(AnswerReader[T]):
    """Reads JSON, of which ``parse`` makes an object or raises a ValueError."""

    def __init__(self, address: ServerAddress, parse: Callable[[Any], T]) -> None:
        super().__init__(address)
        self._parse = parse
        self._body = bytearray()

    def _take(self, data: bytes) -> None:
        if len(self._body) + len(data) > LARGEST_JSON:
            raise self._bad_answer(f"its answer is longer than {LARGEST_JSON >> 20} MB")
        self._body += data

    def _make_answer(self) -> T:
        return parse_json(self.address, bytes(self._body), self._parse)


class FileReader(AnswerReader[T]):
    """Reads a single file.

    Args:
        address: of the server
        folder: where the file is put
        stem: its name without ending, safe letters only
        made: makes the answer from its path
    """

    def __init__(self, address: ServerAddress, folder: Path, stem: str, made: Callable[[Path], T]) -> None:
        super().__init__(address)
        self._file = FileInProgress(folder, stem)
        self._done = made

    @property
    def takes_files(self) -> bool:
        """Whether the answer is written into a file: always."""
        return True

    def abort(self) -> None:
        """Remove what came of the file."""
        self._file.remove()

    def _start(self) -> None:
        if header(self._headers, "content-type").lower().startswith(("text/html", "application/json")):
            raise self._bad_answer("it sends a page in place of a file")
        if (
            not header(self._headers, "content-length")
            and "chunked" not in header(self._headers, "transfer-encoding").lower()
        ):
            raise self._bad_answer(
                "it does not announce the size of its file, so a truncated file would go unnoticed"
            )
        self._file.open(self._ending(file_name_in(header(self._headers, "content-disposition"))))

    def _take(self, data: bytes) -> None:
        self._file.write(data)

    def _make_answer(self) -> T:
        if not self._file.size:
            raise self._bad_answer("its file is empty")
        # Before the file gets its name: what cannot be understood leaves nothing.
        answer = self._done(self._file.path)
        self._file.keep()
        return answer

    def _ending(self, name: str) -> str:
        ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), None)
        if ending is None:
            raise self._bad_answer("it sends a file of an unknown kind")
        return ending


class ResultReader(FileReader[T]):
    """Reads a file with JSON beside it, in multipart/form-data as MONAI Label's infer route answers.

    ``made`` makes the answer from the JSON and the path, or raises a ValueError.
    """

    def __init__(
        self, address: ServerAddress, folder: Path, stem: str, made: Callable[[Any, Path], T]
    ) -> None:
        super().__init__(
            address,
            folder,
            stem,
            lambda path: parse_json(address, bytes(self._params), lambda found: made(found, path)),
        )
        self._params = bytearray()
        self._part: str | None = None
        self._parser: MultipartParser | None = None

    def _start(self) -> None:
        kind = header(self._headers, "content-type")
        if not kind.lower().startswith("multipart/"):
            raise self._bad_answer("it does not send a result with its file")
        self._parser = self._with_bad_answers(lambda: MultipartParser(kind, self))

    def _take(self, data: bytes) -> None:
        parser = self._parser
        if parser is not None:
            self._with_bad_answers(lambda: parser.feed(data))

    def _make_answer(self) -> T:
        if self._parser is not None:
            self._with_bad_answers(self._parser.finish)
        if not self._file.is_open or not self._params:
            raise self._bad_answer("a part of its result is missing")
        return super()._make_answer()

    def start(self, name: str, file_name: str | None) -> None:
        """Begin a part. The parser calls this, `write` and `end`."""
        self._part = name
        if name == "image":
            if self._file.is_open:
                raise self._bad_answer("it sends more than one file")
            self._file.open(self._ending(file_name or ""))

    def write(self, content: bytes) -> None:
        """Append to the part."""
        if self._part == "image":
            self._file.write(content)
        elif self._part == "params":
            if len(self._params) + len(content) > LARGEST_JSON:
                raise self._bad_answer(f"its answer is longer than {LARGEST_JSON >> 20} MB")
            self._params += content

    def end(self) -> None:
        """Complete the part."""
        self._part = None

    def _with_bad_answers(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except MultipartError as error:
            raise self._bad_answer(str(error)) from None


def parse_json(address: ServerAddress, body: bytes, parse: Callable[[Any], T]) -> T:
    """Make an object from a JSON body; BadAnswerError."""
    try:
        found = json.loads(body, parse_constant=lambda _: None)  # NaN is no JSON, and nothing to show
    except (ValueError, RecursionError):
        is_page = body.lstrip()[:1] == b"<"
        raise bad_answer(address, "it sends a web page" if is_page else "its answer cannot be read") from None
    try:
        return parse(found)
    except (ValueError, RecursionError) as error:
        raise bad_answer(address, f"its answer has no usable {str(error)[:40] or 'content'!r}") from None


def refusal(
    address: ServerAddress, status: int, reason: str, headers: Mapping[str, str], body: bytes
) -> ServerAnswerError:
    """Return the error for a status that is not a success; its sentence is the server's if it sent one."""
    sentence = _server_sentence(body)
    if status == 401:
        return AccessDeniedError(
            status,
            f"The server at {address} asks for a valid token; get a new one and enter it in the settings.",
        )
    if status == 403:
        reason = f" ({sentence.rstrip('.')})" if sentence else ""
        return AccessDeniedError(
            status, f"Your account may not do this at {address}{reason}; ask whoever runs the server."
        )
    after = retry_after(header(headers, "retry-after"))
    if status == 429:
        return ServerBusyError(
            status,
            sentence or f"The server at {address} is busy; try again in a moment.",
            retry_after=after,
        )
    if status in (502, 503, 504) and not sentence:
        sentence = (
            f"The server at {address} is not ready, or a proxy in front of it cannot reach it ({status}); "
            "try again in a moment."
        )
    if status == 404 and sentence == "Not Found.":
        sentence = (
            f"The server at {address} does not offer this function; it may run another version of WordMask, "
            "or be another server."
        )
    if 300 <= status < 400:
        sentence = (
            f"The server at {address} redirects to another address; ask whoever runs it which address to use."
        )
    if not sentence:
        code = f"{status} {as_sentence(reason).rstrip('.')}".strip()
        sentence = f"The server at {address} failed ({code}); its log says why."
    return ServerAnswerError(status, sentence, retry_after=after)


def retry_after(text: str) -> float | None:
    """Return the seconds of a Retry-After header, which has a number or a date; None if it has neither."""
    if re.fullmatch(r"\s*[0-9]{1,9}(\.[0-9]*)?\s*", text):
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return max(0.0, when - time.time())


def _server_sentence(body: bytes) -> str:
    """Return the sentence of a refusal: FastAPI's ``detail``, which may be a list of what is wrong with the
    parameters.
    """
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        place = detail[0].get("loc")
        name = place[-1] if isinstance(place, list) and place else "a parameter"
        return as_sentence(f"The server cannot use {name}: {detail[0].get('msg')}")
    return as_sentence(detail)
