"""How requests travel: in blocks, stopped at once, tried again where that does no harm, encrypted, and with
the token for one server alone.

Scripted servers on 127.0.0.1; the real one is in test_client.py.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.slicer.fault_server import (
    HTML,
    MULTIPART,
    PATIENCE,
    SENT,
    TOKEN,
    WHOLE,
    Caller,
    FaultServer,
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
    result_body,
    says,
    says_json,
    sends,
    silent,
)
from WordMaskLib.client import calls, errors
from WordMaskLib.client.client import CancelToken, WordMaskClient
from WordMaskLib.client.transport import RetryPolicy

ONCE = RetryPolicy(attempts=1)
QUICK = RetryPolicy(attempts=3, first_wait=0.05, patience=0.5)


def client(url: str, **options: Any) -> WordMaskClient:
    return WordMaskClient(url, TOKEN, **{"timeout": PATIENCE, "retry": ONCE, **options})


def takes_one_byte(caller: Caller) -> None:
    """Of an upload, and nothing more until the test has what it wants."""
    caller.request(most=1)
    caller.server.over.wait(PATIENCE)


# --- uploads and downloads ---


@pytest.fixture
def a_large_file(tmp_path: Path) -> Path:
    path = tmp_path / "large.nii"
    with path.open("wb") as file:
        file.truncate(48 << 20)
    return path


def test_a_large_file_is_sent_in_blocks_with_progress(a_large_file):
    told: list[tuple[int, int | None]] = []
    with fault_server(says_json(job_status())) as server:
        made = calls.start_job("tiny", "liver", file=a_large_file)
        client(server.url).run(made, progress=lambda done, total: told.append((done, total)))
        sent = server.requests[0]
    assert len(sent.body) == told[-1][0] == told[-1][1]
    assert len(told) > 100
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_neither_a_form_nor_an_answer_is_ever_whole_in_memory(a_large_file, tmp_path):
    tracemalloc.start()
    length, blocks = calls.upload_image("x", a_large_file).form.blocks()
    assert sum(len(block) for block in blocks) == length
    reader = calls.job_result("0123", tmp_path).reader(client("http://x").address)
    opening, closing = WHOLE.split(b"voxels" * 1000)
    reader.begin(200, "OK", {"Content-Type": MULTIPART})
    for block in itertools.chain([opening], itertools.repeat(bytes(1 << 18), 200), [closing]):
        reader.feed(block)
    assert reader.finish().path.stat().st_size == 200 << 18
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_an_upload_that_breaks_is_refused_or_stalls_is_told_once(a_large_file):
    with fault_server(hangs_up_during_upload) as server, pytest.raises(errors.ConnectionLostError) as broken:
        client(server.url, retry=RetryPolicy(first_wait=0.01)).start_job("tiny", "liver", file=a_large_file)
    assert is_a_sentence(broken.value)
    assert server.connections == 1, "an upload is not repeated"

    def refuses(caller: Caller) -> None:
        caller.request(most=1)
        body = b'{"detail": "The request is larger than the 8 MB that this server takes."}'
        caller.send(head("413 Too Large", Content_Length=str(len(body))) + body)
        caller.server.over.wait(PATIENCE)

    told: list[int] = []
    with (
        fault_server(refuses) as server,
        pytest.raises(errors.ServerAnswerError, match="larger than the 8 MB") as refusal,
    ):
        client(server.url).run(
            calls.upload_image("x", a_large_file), progress=lambda done, _: told.append(done)
        )
    assert refusal.value.status == 413
    assert told[-1] < 40 << 20, "a refusal is heard before everything is sent"

    with fault_server(takes_one_byte) as server, pytest.raises(errors.ServerTimeoutError):
        client(server.url, timeout=0.5).start_job("tiny", "liver", file=a_large_file)


def test_a_file_that_cannot_be_read_or_changes_meanwhile_is_a_sentence(tmp_path):
    (tmp_path / "folder.nii").mkdir()
    for path in (tmp_path / "nowhere.nii.gz", tmp_path / "folder.nii"):
        with pytest.raises(errors.LocalFileError, match=path.name) as refusal:
            client(f"127.0.0.1:{a_closed_port()}").upload_image("x", path)
        assert is_a_sentence(refusal.value)
        assert str(tmp_path) not in str(refusal.value)
    path = tmp_path / "x.nii"
    for becomes in (bytes(1004), bytes(10)):
        path.write_bytes(bytes(1000))
        _, blocks = calls.upload_image("x", path).form.blocks()
        path.write_bytes(becomes)
        with pytest.raises(errors.LocalFileError, match="changed while it was sent"):
            list(blocks)


# --- stopping ---


def stop_when(condition: Callable[[], Any], token: CancelToken, ask: Callable[[], Any]) -> None:
    """Wish to stop when something is so; all servers here would go on for longer than a test may take."""

    def watch() -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.005)
        token.cancel()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with pytest.raises(errors.TransferCancelledError) as stop:
        ask()
    watcher.join()
    assert is_a_sentence(stop.value)


def test_cancelling_takes_effect_at_every_stage_and_leaves_no_file(a_large_file, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    result = calls.job_result("0123", folder)
    upload = calls.start_job("tiny", "liver", file=a_large_file)
    busy = says_json({"detail": "Busy."}, "429 No", Retry_After="300")

    def asked(server: FaultServer) -> bool:
        return bool(server.requests)

    def received(server: FaultServer) -> bool:
        return bool(everything_in(folder))

    for script, call, reached in (
        (silent, calls.health(), asked),
        (takes_one_byte, upload, asked),
        (sends(SENT + WHOLE[:-3000], then="wait"), result, received),
        (busy, calls.health(), asked),  # waiting to ask again
    ):
        token = CancelToken()
        with fault_server(script) as server:
            asking = client(server.url, timeout=300.0, retry=RetryPolicy(patience=400.0))
            stop_when(lambda: reached(server), token, lambda: asking.run(call, cancel=token))  # noqa: B023 - called at once
            assert server.connections == 1
        assert everything_in(folder) == []


def test_a_progress_stops_or_fails_at_once_and_leaves_no_file(a_large_file, tmp_path):
    token, told = CancelToken(), []
    with fault_server(says_json(job_status())) as server, pytest.raises(errors.TransferCancelledError):
        client(server.url).run(
            calls.start_job("tiny", "liver", file=a_large_file),
            cancel=token,
            progress=lambda done, _: (told.append(done), token.cancel()),
        )
    assert len(told) <= 2
    folder = tmp_path / "in"
    folder.mkdir()
    with fault_server(sends(SENT + WHOLE)) as server, pytest.raises(ZeroDivisionError):
        client(server.url).download_result("0123", folder, progress=lambda done, total: 1 / 0)
    assert everything_in(folder) == []


# --- trying again ---


def test_a_question_is_asked_again_when_the_connection_breaks_but_not_for_ever():
    with fault_server(hangs_up, says(HTML, "502 Bad Gateway"), says_json(health())) as server:
        assert client(server.url, retry=QUICK).health().version == "0.1.0"
        assert server.connections == 3
    with fault_server(hangs_up) as server, pytest.raises(errors.ConnectionLostError):
        client(server.url, retry=QUICK).health()
    assert server.connections == 3
    for status in (
        "400 Bad",
        "404 No",
        "409 Not Yet",
        "410 Gone",
        "413 Large",
        "500 Oops",
        "503 No memory",
        "507 Full",
    ):
        with (
            fault_server(says_json({"detail": "No."}, status)) as server,
            pytest.raises(errors.ServerAnswerError),
        ):
            client(server.url, retry=QUICK).health()
        assert server.connections == 1, f"{status} would end the same way"


def test_cancelling_a_job_is_asked_again_and_nothing_else_that_changes_something():
    with fault_server(hangs_up, says_json(job_status("cancelled"))) as server:
        assert client(server.url, retry=QUICK).cancel_job("0123").state == "cancelled"
    for ask in (
        lambda it: it.start_training("tiny"),
        lambda it: it.stop_training(),
        lambda it: it.rollback("tiny"),
        lambda it: it.next_case(),
        lambda it: it.start_job("tiny", "liver", image="ct"),
    ):
        with fault_server(hangs_up) as server, pytest.raises(errors.ConnectionLostError):
            ask(client(server.url, retry=QUICK))
        assert server.connections == 1


def test_a_full_queue_is_asked_again_when_the_server_says_when_and_that_is_soon():
    def refusal(after: str) -> Any:
        return says_json(
            {"detail": "4 requests are waiting, try again later."}, "429 Too Many Requests", Retry_After=after
        )

    for after in ("0.3", "Wed, 21 Oct 2015 07:28:00 GMT"):  # a date in the past means now
        with fault_server(refusal(after), says_json(job_status())) as server:
            assert client(server.url, retry=QUICK).start_job("tiny", "liver", image="ct").state == "queued", (
                after
            )
    for after in ("3600", "1", "soon", "-1", "", "9" * 30, "Wed, 21 Oct 2099 07:28:00 GMT"):
        with (
            fault_server(refusal(after)) as server,
            pytest.raises(errors.ServerBusyError, match="4 requests") as busy,
        ):
            client(server.url, retry=QUICK).start_job("tiny", "liver", image="ct")
        assert server.connections == 1, after
        assert is_a_sentence(busy.value)
    soon = errors.ServerBusyError(429, "4 requests are waiting.", retry_after=0.3)
    assert QUICK.wait(soon, 1, safe_to_repeat=False) == 0.3, "as long as the server says"


# --- TLS and tokens ---


def test_files_and_the_token_travel_by_tls_to_a_server_of_a_chosen_authority(tmp_path, a_large_file):
    tls, authority = certificate(tmp_path)
    body = result_body(random.Random(1).randbytes(3 << 20))
    answer = sends(head(Content_Type=MULTIPART, Content_Length=str(len(body))) + body)
    with fault_server(says_json(health()), says_json(job_status()), answer, tls=tls) as server:
        connected = client(server.url, ca_file=authority)
        assert connected.handshake().warnings == ()
        assert f"Authorization: Bearer {TOKEN}" in server.requests[0].head
        connected.start_job("tiny", "liver", file=a_large_file)
        assert len(server.requests[1].body) > a_large_file.stat().st_size
        assert connected.download_result("0123", tmp_path).path.stat().st_size == 3 << 20


def test_encryption_that_cannot_be_trusted_or_is_not_there_stops_everything_before_a_byte_is_sent(tmp_path):
    for host in (None, "another.example.org"):  # an unknown authority, another name
        tls, authority = certificate(tmp_path, host=host or "127.0.0.1")
        with fault_server(says_json(health()), tls=tls) as server:
            with pytest.raises(errors.EncryptionError, match="is not trusted") as refusal:
                client(server.url, ca_file=authority if host else None, retry=QUICK).health()
            assert (server.requests, server.connections) == ([], 1)
        assert is_a_sentence(refusal.value)
    with fault_server(says_json(health()), tls=tls) as server, pytest.raises(errors.ClientError) as refusal:
        client(server.url.replace("https:", "http:")).health()
    assert is_a_sentence(refusal.value)
    bad_request = lambda caller: caller.send(head("400 Bad Request"))  # noqa: E731 - what web servers say to a handshake
    with (
        fault_server(bad_request) as server,
        pytest.raises(errors.EncryptionError, match="http://") as refusal,
    ):
        client(server.url.replace("http:", "https:")).health()
    assert is_a_sentence(refusal.value)
    (tmp_path / "none.pem").write_bytes(b"this is no certificate")
    for name in ("none.pem", "gone.pem"):
        with pytest.raises(errors.LocalFileError, match=name) as unread:
            client("https://127.0.0.1:1", ca_file=tmp_path / name)
        assert is_a_sentence(unread.value)


def test_a_token_is_in_no_repr_and_in_no_error():
    with fault_server(says(f"echo {TOKEN}", "500 No")) as server:
        connected = client(server.url)
        assert TOKEN not in repr(connected) + repr(vars(connected)) + repr(connected._transport)
        with pytest.raises(errors.ClientError) as refusal:
            connected.health()
        assert TOKEN not in str(refusal.value) + repr(refusal.value)
    for token in ("two\r\nX-Injected: yes", "with space", "ünicode", "\x00"):
        with pytest.raises(errors.AddressError) as refused:
            WordMaskClient("http://127.0.0.1:1", token)
        assert token not in str(refused.value)
