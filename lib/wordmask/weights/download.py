"""Downloads one file over HTTP: resumed where it stopped, and never incomplete under its final name.

Knows HTTP and sizes; not which weights there are or where they are kept (catalogue.py, verified_files.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests

from wordmask.errors import WeightsError

Progress = Callable[[int, int | None], None]
"""Called with (bytes there, bytes in all or None) after every block."""

BLOCK = 1 << 14  # bytes; what is lost at most when a connection breaks in the middle of a block
FORGIVEN_AFTER = 1 << 20  # bytes; after a connection that brought this much, failures are counted from zero


@dataclass(frozen=True)
class Patience:
    """How long to wait and how often to try again when no data arrives.

    Attributes:
        connect: seconds until the server answers at all.
        stall: seconds between two blocks.
        attempts: failures in a row before giving up.
        pause: seconds before the second attempt, doubled before each later one.
    """

    connect: float = 10.0
    stall: float = 30.0
    attempts: int = 6
    pause: float = 1.0


class _TryAgainError(Exception):
    """A failure that may be temporary; the text says what happened."""


def download(
    url: str,
    part: Path,
    *,
    size: int | None = None,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> None:
    """Download ``url`` to the file ``part``, continuing with the content that it already has.

    The content is not verified here.

    Args:
        url: of the file.
        part: where it is written; after a failure it keeps what has arrived, for the next call.
        size: bytes that it must have, when known; another size is refused as soon as the server announces it.
        patience: how long to wait, and how often to try again.
        progress: called after every block.

    Raises:
        WeightsError: the server refuses (4xx), sends another file, or fails ``patience.attempts`` times in a
            row.
    """
    patience, failures = patience or Patience(), 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _one_request(url, part, size, patience, progress)
        except _TryAgainError as error:
            after = part.stat().st_size if part.exists() else 0
            failures = 1 if after - before >= FORGIVEN_AFTER else failures + 1
            if failures >= patience.attempts:
                raise WeightsError(
                    f"{part.stem} could not be downloaded: {error}, {failures} times in a row."
                    " Type the same command again to continue where it stopped."
                ) from error
            time.sleep(patience.pause * 2 ** (failures - 1))


def _one_request(
    url: str, part: Path, size: int | None, patience: Patience, progress: Progress | None
) -> None:
    """Send one GET request for the bytes after the end of ``part``; returns when the file is complete."""
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have == size:
        return
    if size is not None and have > size:
        part.unlink()
        have = 0
    headers = {"Accept-Encoding": "identity"}  # a compressed answer could not be continued at a byte
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with requests.get(
            url, headers=headers, stream=True, timeout=(patience.connect, patience.stall)
        ) as answer:
            # 416: nothing follows these bytes. Either the file is complete, or it is another file.
            if answer.status_code == 416:
                if _total(answer) == have and size is None:
                    return
                part.unlink()
                raise _TryAgainError(
                    "the server does not continue the file, so the download starts from scratch"
                )
            _refuse_errors(answer, part)
            start = _start(answer, have)
            total = _announced_total(answer, start)
            if size is not None and total is not None and total != size:
                kind = answer.headers.get("Content-Type", "no type")
                raise WeightsError(
                    f"The server sent another file instead of {part.stem}: {total} bytes ({kind}) where "
                    f"{size} are expected, perhaps the log-in page of a proxy. Download it in a browser and "
                    "use `wordmask weights import`."
                )
            done = _save(answer, part, start, size or total, progress)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _TryAgainError(_reason(error)) from error
    except requests.RequestException as error:
        raise WeightsError(f"{part.stem} could not be downloaded: {_reason(error)}.") from error
    wanted = size if size is not None else total
    if wanted is not None and done < wanted:
        raise _TryAgainError(f"the connection closed after {done} of {wanted} bytes")


def _refuse_errors(answer: requests.Response, part: Path) -> None:
    status = answer.status_code
    if status in (200, 206):
        return
    if status in (408, 425, 429) or status >= 500:
        raise _TryAgainError(f"the server answered {status} {answer.reason}")
    raise WeightsError(
        f"{part.stem} could not be downloaded: the server answered {status} {answer.reason}."
        " Get the file another way and use `wordmask weights import`."
    )


def _start(answer: requests.Response, have: int) -> int:
    """The byte at which this answer begins: 0 when the server ignored the Range header."""
    if answer.status_code == 200:
        return 0
    begin = answer.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
    if not begin.isdigit() or int(begin) > have:
        raise WeightsError("The server continued the file at the wrong place; type the command again later.")
    return int(begin)


def _total(answer: requests.Response) -> int | None:
    """Size of the whole file from ``Content-Range: bytes 5-9/10``."""
    total = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdigit() else None


def _announced_total(answer: requests.Response, start: int) -> int | None:
    if answer.status_code == 206 and (total := _total(answer)) is not None:
        return total
    length = answer.headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None


def _save(
    answer: requests.Response, part: Path, start: int, total: int | None, progress: Progress | None
) -> int:
    """Write the body into ``part`` from byte ``start``, and return the size that the file has then."""
    try:
        with part.open("r+b" if part.exists() else "wb") as stream:
            stream.truncate(start)
            stream.seek(start)
            done = start
            for block in answer.iter_content(BLOCK):
                stream.write(block)
                done += len(block)
                if total is not None and done > total:
                    part.unlink()
                    raise WeightsError(
                        f"The server sent more than the {total} bytes that {part.stem} has, so the file was "
                        "deleted; type the command again later."
                    )
                if progress:
                    progress(done, total)
            return done
    except OSError as error:
        if isinstance(error, requests.RequestException):  # an OSError, too; `_one_request` handles it
            raise
        raise WeightsError(f"{part.stem} cannot be written: {error.strerror}.") from error


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return "the server does not answer"
    text = str(error).lower()
    if isinstance(error, requests.Timeout) or "read timed out" in text:
        return "the server stopped sending"
    if "incompleteread" in text or "connection broken" in text or "reset" in text:
        return "the connection broke off"
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate is not trusted here"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy refused"
    if isinstance(error, requests.ConnectionError):
        return "there is no connection to the server"
    return type(error).__name__
