"""`multipart/form-data` in blocks: a form that is never completely in memory, and a parser that is fed as
bytes arrive.

Knows the format (RFC 7578, RFC 2046); not HTTP, not what the parts mean.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .errors import LocalFileError

BLOCK = 1 << 18  # bytes that are read from a file at a time
LONGEST_HEADERS = 16 << 10  # bytes of the headers of one part
LONGEST_PADDING = 64  # bytes between a boundary and the end of its line
MOST_PARTS = 16


class MultipartError(ValueError):
    """What came is not multipart, or ends in the middle; the message is the end of a sentence."""


@dataclass(frozen=True)
class TextPart:
    """A form field with a text."""

    name: str
    text: str
    content_type: str = "text/plain; charset=utf-8"

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return names and values of the part's headers."""
        return ("Content-Disposition", f'form-data; name="{self.name}"'), ("Content-Type", self.content_type)


@dataclass(frozen=True)
class FilePart:
    """A form field with a file; ``file_name`` is its name for the server: letters, digits and ``._-``
    only.
    """

    name: str
    path: Path
    file_name: str
    content_type: str = "application/octet-stream"

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return names and values of the part's headers."""
        disposition = f'form-data; name="{self.name}"; filename="{self.file_name}"'
        return ("Content-Disposition", disposition), ("Content-Type", self.content_type)


if TYPE_CHECKING:
    Part = TextPart | FilePart


@dataclass(frozen=True)
class Form:
    """The parts of a request, in order. Qt's transport reads ``parts``, the client that waits reads
    ``blocks()``.
    """

    parts: tuple[Part, ...]
    boundary: str = field(default_factory=lambda: f"wordmask-{secrets.token_hex(16)}")

    @property
    def content_type(self) -> str:
        """The value of the Content-Type header."""
        return f"multipart/form-data; boundary={self.boundary}"

    def blocks(self) -> tuple[int, Iterator[bytes]]:
        """Return the length in bytes, and the bytes in blocks.

        Raises:
            LocalFileError: a file cannot be read, or changes while it is sent
        """
        heads = [self._head(part) for part in self.parts]
        sizes = [
            len(part.text.encode()) if isinstance(part, TextPart) else _size(part.path) for part in self.parts
        ]
        end = f"--{self.boundary}--\r\n".encode("ascii")
        length = sum(map(len, heads)) + sum(sizes) + 2 * len(sizes) + len(end)
        return length, self._content(heads, sizes, end)

    def _content(self, heads: list[bytes], sizes: list[int], end: bytes) -> Iterator[bytes]:
        for number, part in enumerate(self.parts):
            yield heads[number]
            if isinstance(part, TextPart):
                yield part.text.encode()
            else:
                yield from _file_blocks(part.path, sizes[number])
            yield b"\r\n"
        yield end

    def _head(self, part: Part) -> bytes:
        lines = [f"--{self.boundary}", *(f"{name}: {value}" for name, value in part.headers()), "", ""]
        return "\r\n".join(lines).encode("ascii")


def safe_file_name(name: str) -> str:
    """Return a file name for a header: no path, no quotes, no letters outside ASCII, at most the last 100
    characters.
    """
    return (
        re.sub(r"[^A-Za-z0-9._-]+", "_", name.replace("\\", "/").rpartition("/")[2]).lstrip(".")[-100:]
        or "file"
    )


class Sink(Protocol):
    """Receives the parts of an answer as they arrive."""

    def start(self, name: str, file_name: str | None) -> None:
        """Begin a part."""

    def write(self, content: bytes) -> None:
        """Append to the part that began last."""

    def end(self) -> None:
        """Complete the part."""


class MultipartParser:
    """Cuts bytes into parts as they arrive, and keeps no more than a boundary and the headers of one part."""

    def __init__(self, content_type: str, sink: Sink) -> None:
        """Read the boundary from the Content-Type header; MultipartError if it does not name one."""
        head = Message()
        head["Content-Type"] = content_type
        boundary = head.get_boundary()
        if not boundary or not re.fullmatch(r"[ -~]{1,200}", boundary):
            raise MultipartError("its answer does not name the boundary between its parts")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._sink = sink
        self._buffer = bytearray(b"\r\n")  # so that the first boundary is found like all others
        self._state = "preamble"
        self._parts = 0

    def feed(self, data: bytes) -> None:
        """Parse more of the body; MultipartError, and whatever the sink raises."""
        self._buffer += data
        while self._state != "epilogue" and (
            self._read_headers() if self._state == "headers" else self._read_content()
        ):
            pass
        if self._state == "epilogue":
            self._buffer.clear()

    def finish(self) -> None:
        """Check that the body is complete; MultipartError if its last boundary is missing."""
        if self._state != "epilogue":
            raise MultipartError("its answer ends in the middle")

    def _read_content(self) -> bool:
        """Pass on what surely belongs to the part, up to the next boundary; return whether there may be more
        to read.
        """
        at = self._buffer.find(self._delimiter)
        if at < 0:
            self._pass_on(len(self._buffer) - len(self._delimiter) + 1)
            return False
        self._pass_on(at)
        rest = bytes(self._buffer[len(self._delimiter) : len(self._delimiter) + LONGEST_PADDING])
        padding = len(rest) - len(rest.lstrip(b" \t"))
        mark = rest[:2] if rest.startswith(b"-") else rest[padding : padding + 2]
        if len(mark) < 2 and len(rest) < LONGEST_PADDING:
            return False  # what follows the boundary has not come yet
        if mark not in (b"--", b"\r\n"):  # the boundary's text within a file
            self._pass_on(len(self._delimiter))
            return True
        if self._state == "content":
            self._sink.end()
        del self._buffer[: len(self._delimiter) + padding + 2]
        self._state = "epilogue" if mark == b"--" else "headers"
        return True

    def _read_headers(self) -> bool:
        # A part may have no headers at all.
        end = 0 if self._buffer.startswith(b"\r\n") else self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > LONGEST_HEADERS:
                raise MultipartError("the header of a part of its answer is too long")
            return False
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise MultipartError("its answer has too many parts")
        head = BytesHeaderParser().parsebytes(bytes(self._buffer[:end]))
        name = head.get_param("name", "", header="content-disposition")
        self._sink.start(name if isinstance(name, str) else "", head.get_filename())
        del self._buffer[: end + (4 if end else 2)]
        self._state = "content"
        return True

    def _pass_on(self, count: int) -> None:
        if count <= 0:
            return
        if self._state == "content":
            self._sink.write(bytes(self._buffer[:count]))
        del self._buffer[:count]


def header(headers: Mapping[str, str], name: str) -> str:
    """Return a header by its name in any case; "" if it is missing."""
    return next((value for key, value in headers.items() if key.lower() == name.lower()), "")


def file_name_in(disposition: str) -> str:
    """Return the file name in a Content-Disposition header, "" without one. Never use it as a path."""
    head = Message()
    head["Content-Disposition"] = disposition or "attachment"
    return head.get_filename() or ""


def _size(path: Path) -> int:
    try:
        with open(path, "rb") as file:  # a folder has a size, too
            return os.fstat(file.fileno()).st_size
    except OSError:
        raise LocalFileError(
            f"The file {path.name} cannot be read; check that it still exists and that you may read it."
        ) from None


def _file_blocks(path: Path, size: int) -> Iterator[bytes]:
    """Read exactly ``size`` bytes of a file."""
    changed = LocalFileError(
        f"The file {path.name} changed while it was being sent, so nothing was kept; try again."
    )
    try:
        with open(path, "rb") as file:
            left = size
            while left > 0:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise changed
                left -= len(block)
                yield block
            if file.read(1):
                raise changed
    except OSError:
        raise LocalFileError(
            f"The file {path.name} cannot be read; check that it still exists and that you may read it."
        ) from None
