"""Qt's transport against servers that misbehave: a sentence in time, nothing left on the disk, and a window
that goes on working.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from tests.slicer.fault_server import (
    HTML,
    MULTIPART,
    SENT,
    TOKEN,
    WHOLE,
    Script,
    a_closed_port,
    certificate,
    everything_in,
    fault_server,
    hangs_up,
    hangs_up_during_upload,
    head,
    health,
    is_a_sentence,
    job_status,
    says,
    says_json,
    sends,
    silent,
    trickles,
)
from tests.slicer.person import PATIENCE, until
from WordMaskLib.client import calls, errors
from WordMaskLib.client.addresses import repair_address
from WordMaskLib.client.retry import RetryPolicy

pytestmark = pytest.mark.usefixtures("qt")


class Ending:
    """How a request ended."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.failures: list[errors.ClientError] = []
        self.progress: list[tuple[int, int | None]] = []

    @property
    def over(self) -> bool:
        return bool(self.answers or self.failures)


def send(transport: Any, call: calls.Call[Any]) -> tuple[Ending, Any]:
    ending = Ending()
    sending = transport.send(
        call,
        ending.answers.append,
        ending.failures.append,
        lambda done, total: ending.progress.append((done, total)),
    )
    return ending, sending


def a_transport(url: str, **options: Any) -> Any:
    """Qt's own."""
    from WordMaskLib.panel.qt_transport import QtTransport  # needs qt

    return QtTransport(
        repair_address(url), **{"retry": RetryPolicy(attempts=1), "timeout": PATIENCE, **options}
    )


def ask(url: str, call: calls.Call[Any], **options: Any) -> Any:
    """The answer; the error is raised."""
    transport = a_transport(url, **options)
    ending, _ = send(transport, call)
    assert not ending.over, "it was told at once, not later"
    until(lambda: ending.over)
    slicer.app.processEvents()
    assert len(ending.answers) + len(ending.failures) == 1
    if ending.failures:
        raise ending.failures[0]
    return ending.answers[0]


@pytest.fixture
def a_volume_file(tmp_path: Path) -> Path:
    """Ten megabytes."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "volume.nrrd").write_bytes(np.random.default_rng(1).bytes(10_000_000))
    return folder / "volume.nrrd"


def test_json_is_asked_for_and_read_with_the_token() -> None:
    with fault_server(says_json(health())) as server:
        assert ask(server.url, calls.health(), token=TOKEN).version == "0.1.0"
    assert server.requests[0].line == "GET /wordmask/health HTTP/1.1"
    sent = server.requests[0].head.lower()
    assert f"authorization: bearer {TOKEN}" in sent
    assert "accept-encoding: identity" in sent


def test_words_with_strange_letters_arrive_as_they_were_typed() -> None:
    with fault_server(says_json({"words": []})) as server:
        ask(server.url, calls.vocabulary("ö&a=1#? ü/", "m"))
    assert (
        server.requests[0].line
        == "GET /wordmask/vocabulary?q=%C3%B6%26a%3D1%23%3F%20%C3%BC%2F&limit=20&model=m HTTP/1.1"
    )


def test_a_file_is_sent_whole_and_as_it_is_while_the_window_works(a_volume_file: Path, qt: Any) -> None:
    asked, worked = threading.Event(), threading.Event()
    timer = qt.QTimer()
    timer.timeout.connect(lambda *_: worked.set() if asked.is_set() else None)
    timer.start(5)

    def answers_a_window_that_works(caller: Any) -> None:
        asked.set()
        if worked.wait(PATIENCE):
            says_json(job_status())(caller)

    with fault_server(answers_a_window_that_works) as server:
        ending, _ = send(a_transport(server.url), calls.start_job("m", ["liver"], file=a_volume_file))
        until(lambda: ending.over)
    timer.stop()
    assert ending.answers[0].state == "queued"
    assert a_volume_file.read_bytes() in server.requests[0].body
    assert b'name="params"' in server.requests[0].body
    assert b'{"words": ["liver"]}' in server.requests[0].body
    assert ending.progress[-1][0] == ending.progress[-1][1]
    assert len(ending.progress) > 3


def test_a_result_is_put_into_the_folder_under_our_own_name(tmp_path: Path) -> None:
    with fault_server(sends(SENT + WHOLE)) as server:
        found = ask(server.url, calls.job_result("0123", tmp_path, "result"))
    assert everything_in(tmp_path) == [tmp_path / "result.nii.gz"]
    assert found.path.read_bytes() == b"voxels" * 1000


@pytest.mark.parametrize(
    "call",
    [
        calls.next_case("first"),
        calls.rollback("m"),
        calls.stop_training(),
        calls.start_training("m", {"force": True}),
    ],
)
def test_requests_of_every_method_arrive(call: calls.Call[Any]) -> None:
    answer = {"case": None, "reason": "None is left.", "version": "1", "score": {}, "scores": {}}
    with fault_server(says_json(answer)) as server:
        ask(server.url, call)
    assert server.requests[0].line.startswith(f"{call.method} {call.path}")
    assert server.requests[0].body == (b'{"force": true}' if call.json else b"")


# --- what goes wrong ---

BROKEN: dict[str, tuple[Script, type[errors.ClientError]]] = {
    "500": (says("Internal Server Error", "500 Internal Server Error"), errors.ServerAnswerError),
    "500 with a page": (
        says(HTML, "500 Internal Server Error", Content_Type="text/html"),
        errors.ServerAnswerError,
    ),
    "502": (says(HTML, "502 Bad Gateway"), errors.ServerAnswerError),
    "401": (
        says_json({"detail": "no"}, "401 Unauthorized", WWW_Authenticate="Bearer"),
        errors.AccessDeniedError,
    ),
    "403": (says_json({"detail": "no"}, "403 Forbidden"), errors.AccessDeniedError),
    "429": (
        says_json({"detail": "Two jobs wait already."}, "429 Too Many Requests", Retry_After="60"),
        errors.ServerBusyError,
    ),
    "redirect": (says("", "302 Found", Location="http://127.0.0.1:1/"), errors.ServerAnswerError),
    "a page": (says(HTML), errors.BadAnswerError),
    "garbage": (sends(b"\x00\xff\x17 what is this\r\n\r\n" * 50), errors.ClientError),
    "half of JSON": (sends(head(Content_Length="500") + b'{"wordm'), errors.ConnectionLostError),
    "wrong JSON": (says_json({"queue": []}), errors.BadAnswerError),
    "compressed": (says(b"xx", Content_Encoding="br"), errors.BadAnswerError),
    "hangs up": (hangs_up, errors.ConnectionLostError),
    "reset": (sends(head(Content_Length="500") + b"{", then="reset"), errors.ClientError),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_a_sentence(name: str) -> None:
    script, kind = BROKEN[name]
    with fault_server(script) as server, pytest.raises(kind) as found:
        ask(server.url, calls.health(), token=TOKEN)
    assert is_a_sentence(found.value), str(found.value)


def test_a_refusal_repeats_what_the_server_says() -> None:
    full = says_json({"detail": "The queue is full; try again later."}, "503 Service Unavailable")
    with (
        fault_server(full) as server,
        pytest.raises(errors.ServerAnswerError, match="queue is full") as found,
    ):
        ask(server.url, calls.health())
    assert found.value.status == 503


def test_a_server_that_is_down_is_told_with_the_command_that_starts_it() -> None:
    with pytest.raises(errors.ServerUnreachableError, match="start it with"):
        ask(f"http://127.0.0.1:{a_closed_port()}", calls.health())


@pytest.mark.parametrize(
    "script",
    [silent, trickles(head(Content_Length="90000") + b"{" * 90_000, 0.02)],
    ids=["silent", "trickling"],
)
def test_a_server_that_is_too_slow_is_given_up(script: Script) -> None:
    with fault_server(script) as server, pytest.raises(errors.ServerTimeoutError, match="does not answer"):
        ask(server.url, calls.health(), timeout=0.6)


def test_a_slow_file_is_waited_for_as_long_as_it_comes(tmp_path: Path) -> None:
    with fault_server(
        trickles(SENT + WHOLE, 0.1, at_once=len(SENT + WHOLE) - 32)
    ) as server:  # longer than the time-out, in small steps
        found = ask(server.url, calls.job_result("0123", tmp_path, "result"), timeout=3.0)
    assert found.path.read_bytes() == b"voxels" * 1000


@pytest.mark.parametrize(
    "script",
    [
        sends(head(Content_Type=MULTIPART, Content_Length=str(len(WHOLE))) + WHOLE[:-900]),
        sends(SENT + WHOLE[:3000], then="reset"),
        sends(head(Content_Type=MULTIPART, Transfer_Encoding="chunked") + b"5\r\n--b0\r"),
        says(HTML, Content_Type="text/html"),
        says(b"--b0--\r\n", Content_Type=MULTIPART),
        says(b"", Content_Type=MULTIPART),
    ],
)
def test_nothing_is_left_of_a_file_that_did_not_come_whole(script: Script, tmp_path: Path) -> None:
    with fault_server(script) as server, pytest.raises(errors.ClientError) as found:
        ask(server.url, calls.job_result("0123", tmp_path, "result"))
    assert everything_in(tmp_path) == []
    assert is_a_sentence(found.value), str(found.value)


def test_a_folder_that_cannot_be_written_to_is_a_sentence(tmp_path: Path) -> None:
    with fault_server(sends(SENT + WHOLE)) as server, pytest.raises(errors.LocalFileError):
        ask(server.url, calls.job_result("0123", tmp_path / "gone", "result"))


def test_a_connection_that_breaks_during_the_upload_is_told(a_volume_file: Path) -> None:
    with fault_server(hangs_up_during_upload) as server, pytest.raises(errors.ConnectionLostError):
        ask(server.url, calls.start_job("m", "liver", file=a_volume_file))


def test_a_file_that_is_gone_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    with fault_server(says_json(job_status())) as server, pytest.raises(errors.LocalFileError):
        ask(server.url, calls.start_job("m", "liver", file=tmp_path / "gone.nrrd"))
    assert server.connections == 0


@pytest.mark.parametrize("moment", ["at once", "during the upload", "while it waits", "during the download"])
def test_after_an_abort_nobody_is_told_and_nothing_is_left(
    moment: str, a_volume_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    download = moment == "during the download"
    script = sends(SENT + WHOLE[:3000], then="wait") if download else silent
    call = (
        calls.job_result("0123", folder, "result")
        if download
        else calls.start_job("m", "liver", file=a_volume_file)
    )
    with fault_server(script) as server:
        ending, sending = send(a_transport(server.url), call)
        if moment == "during the upload":
            until(lambda: bool(ending.progress))
        elif moment == "while it waits":
            until(lambda: bool(server.requests))
        elif download:
            until(lambda: bool(everything_in(folder)))
        sending.abort()
        sending.abort()
        with fault_server(
            says_json(health())
        ) as another:  # what would have been told is told before an answer that was asked for later
            assert ask(another.url, calls.health()).version == "0.1.0"
    assert not ending.over
    assert everything_in(folder) == []


def test_a_question_is_asked_again_when_the_connection_broke_and_an_order_is_not() -> None:
    retry = RetryPolicy(attempts=3, first_wait=0.05)
    with fault_server(
        says("", "502 Bad Gateway"), says("", "502 Bad Gateway"), says_json(health())
    ) as server:
        assert ask(server.url, calls.health(), retry=retry).version == "0.1.0"
        assert server.connections == 3
    with fault_server(says("", "502 Bad Gateway"), says_json(job_status())) as server:
        with pytest.raises(errors.ServerAnswerError):
            ask(server.url, calls.start_job("m", "liver", image="a"), retry=retry)
        assert server.connections == 1


# --- encryption ---


def test_a_certificate_that_nobody_vouches_for_is_refused_and_nothing_is_sent(tmp_path: Path) -> None:
    context, _ = certificate(tmp_path)
    with (
        fault_server(says_json(health()), tls=context) as server,
        pytest.raises(errors.EncryptionError, match="not trusted"),
    ):
        ask(server.url, calls.health(), token=TOKEN)
    assert server.requests == []


def test_the_certificate_of_a_chosen_authority_is_trusted(tmp_path: Path) -> None:
    context, authority = certificate(tmp_path)
    with fault_server(says_json(health()), tls=context) as server:
        assert ask(server.url, calls.health(), ca_file=authority).version == "0.1.0"


def test_the_certificate_of_another_machine_is_refused(tmp_path: Path) -> None:
    context, authority = certificate(tmp_path, host="another.example")
    with fault_server(says_json(health()), tls=context) as server, pytest.raises(errors.EncryptionError):
        ask(server.url, calls.health(), ca_file=authority)
    assert server.requests == []


def test_a_server_without_encryption_is_told() -> None:
    def answers_plainly(caller: Any) -> None:
        caller.sock.recv(100)
        caller.send(head("400 Bad Request", Content_Length="0"))

    with fault_server(answers_plainly) as server, pytest.raises(errors.EncryptionError) as found:
        ask(server.url.replace("http:", "https:"), calls.health())
    assert is_a_sentence(found.value)


def test_a_file_without_certificates_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "gone.pem"):
        with pytest.raises(errors.LocalFileError, match="does not contain readable certificates"):
            a_transport("https://127.0.0.1", ca_file=tmp_path / name)
