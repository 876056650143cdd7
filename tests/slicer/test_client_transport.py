"""How requests travel: in blocks, stopped at once, tried again where that does no harm, encrypted, and with the token for one server alone.

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
    SENT,
    TOKEN,
    WHOLE,
    Caller,
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
from WordMaskLib import calls, errors
from WordMaskLib.client import CancelToken, WordMaskClient
from WordMaskLib.transport import RetryPolicy

ONCE = RetryPolicy(attempts=1)
AT_ONCE = 5.0  # seconds, on a busy machine


def client(url: str, **options: Any) -> WordMaskClient:
    return WordMaskClient(url, TOKEN, **{"timeout": 20.0, "retry": ONCE, **options})


# --- uploads ---------------------------------------------------------------------------------------------------------------------------


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
        client(server.url, timeout=20).run(made, progress=lambda done, total: told.append((done, total)))
        sent = server.requests[0]
    assert len(sent.body) == told[-1][0] == told[-1][1]
    assert len(told) > 100
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_a_form_is_never_whole_in_memory(a_large_file):
    tracemalloc.start()
    length, blocks = calls.upload_image("x", a_large_file).form.blocks()
    assert sum(len(block) for block in blocks) == length
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_an_answer_is_never_whole_in_memory(tmp_path):
    reader = calls.job_result("0123", tmp_path).reader(client("http://x").address)
    opening, closing = WHOLE.split(b"voxels" * 1000)
    tracemalloc.start()
    reader.begin(200, "OK", {"Content-Type": MULTIPART})
    for block in itertools.chain([opening], itertools.repeat(bytes(1 << 18), 200), [closing]):
        reader.feed(block)
    assert reader.finish().path.stat().st_size == 200 << 18
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_connection_that_breaks_during_an_upload_is_a_sentence_and_the_upload_is_not_repeated(a_large_file):
    with fault_server(hangs_up_during_upload) as server, pytest.raises(errors.ConnectionLostError) as refusal:
        client(server.url, retry=RetryPolicy(first_wait=0.01)).start_job("tiny", "liver", file=a_large_file)
    assert is_a_sentence(refusal.value)
    assert server.connections == 1


def test_a_refusal_during_an_upload_is_heard_before_everything_is_sent(a_large_file):
    def refuses(caller: Caller) -> None:
        caller.request(most=1)
        says_body = b'{"detail": "The request is larger than the 8 MB that this server takes."}'
        caller.send(head("413 Too Large", Content_Length=str(len(says_body))) + says_body)
        time.sleep(0.5)

    told: list[int] = []
    with fault_server(refuses) as server, pytest.raises(errors.ServerAnswerError, match="larger than the 8 MB") as refusal:
        client(server.url).run(calls.upload_image("x", a_large_file), progress=lambda done, _: told.append(done))
    assert refusal.value.status == 413
    assert told[-1] < 40 << 20


def test_a_server_that_takes_no_more_of_an_upload_is_given_up(a_large_file):
    def stalls(caller: Caller) -> None:
        caller.request(most=1)
        time.sleep(3)

    with fault_server(stalls) as server, pytest.raises(errors.ServerTimeoutError):
        client(server.url, timeout=0.5).start_job("tiny", "liver", file=a_large_file)


def test_a_file_that_cannot_be_read_is_a_sentence_without_a_server(tmp_path):
    for path in (tmp_path / "nowhere.nii.gz", tmp_path / "folder.nii"):
        if path.suffix == ".nii":
            path.mkdir()
        with pytest.raises(errors.LocalFileError, match=path.name) as refusal:
            client(f"127.0.0.1:{a_closed_port()}").upload_image("x", path)
        assert is_a_sentence(refusal.value)
        assert str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize("change", [b"more", None], ids=["grows", "shrinks"])
def test_a_file_that_changes_while_it_is_sent_is_noticed(tmp_path, change):
    path = tmp_path / "x.nii"
    path.write_bytes(bytes(1000))
    _, blocks = calls.upload_image("x", path).form.blocks()
    path.write_bytes(bytes(1000) + change if change else bytes(10))
    with pytest.raises(errors.LocalFileError, match="changed while it was sent"):
        list(blocks)


# --- stopping --------------------------------------------------------------------------------------------------------------------------


def stopped_after(seconds: float, token: CancelToken, ask: Callable[[], Any]) -> float:
    """How long it took from the wish to stop to TransferCancelledError."""
    moment: list[float] = []
    threading.Timer(seconds, lambda: (moment.append(time.monotonic()), token.cancel())).start()
    with pytest.raises(errors.TransferCancelledError) as stop:
        ask()
    assert is_a_sentence(stop.value)
    return time.monotonic() - moment[0]


def test_cancelling_takes_effect_while_waiting_for_an_answer():
    token = CancelToken()
    with fault_server(silent) as server:
        assert stopped_after(0.2, token, lambda: client(server.url, timeout=30).run(calls.health(), cancel=token)) < AT_ONCE


def test_cancelling_takes_effect_during_an_upload(a_large_file):
    def stalls(caller: Caller) -> None:
        caller.request(most=1)
        time.sleep(2)

    token = CancelToken()
    with fault_server(stalls) as server:
        ask = lambda: client(server.url, timeout=30).start_job("tiny", "liver", file=a_large_file, cancel=token)  # noqa: E731
        assert stopped_after(0.2, token, ask) < AT_ONCE


def test_cancelling_takes_effect_during_a_download_and_leaves_no_file(tmp_path):
    token = CancelToken()
    with fault_server(sends(SENT + WHOLE[:-3000], then="wait")) as server:
        assert stopped_after(0.2, token, lambda: client(server.url, timeout=30).download_result("0123", tmp_path, cancel=token)) < AT_ONCE
    assert everything_in(tmp_path) == []


def test_cancelling_from_the_progress_itself_stops_at_once(a_large_file):
    token, told = CancelToken(), []
    with fault_server(says_json(job_status())) as server, pytest.raises(errors.TransferCancelledError):
        client(server.url).run(
            calls.start_job("tiny", "liver", file=a_large_file), cancel=token, progress=lambda done, _: (told.append(done), token.cancel())
        )
    assert len(told) <= 2


def test_a_progress_that_fails_leaves_no_file(tmp_path):
    with fault_server(sends(SENT + WHOLE)) as server, pytest.raises(ZeroDivisionError):
        client(server.url).download_result("0123", tmp_path, progress=lambda done, total: 1 / 0)
    assert everything_in(tmp_path) == []


# --- trying again ----------------------------------------------------------------------------------------------------------------------

QUICK = RetryPolicy(attempts=3, first_wait=0.05, patience=0.5)


def test_a_question_is_asked_again_when_the_connection_breaks():
    with fault_server(hangs_up, says(HTML, "502 Bad Gateway"), says_json(health())) as server:
        assert client(server.url, retry=QUICK).health().version == "0.1.0"
        assert server.connections == 3


def test_a_question_is_not_asked_for_ever():
    with fault_server(hangs_up) as server, pytest.raises(errors.ConnectionLostError):
        client(server.url, retry=QUICK).health()
    assert server.connections == 3


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


@pytest.mark.parametrize("status", ["400 Bad", "404 No", "409 Not Yet", "410 Gone", "413 Large", "500 Oops", "503 No memory", "507 Full"])
def test_what_would_end_the_same_way_is_not_asked_again(status):
    with fault_server(says_json({"detail": "No."}, status)) as server, pytest.raises(errors.ServerAnswerError):
        client(server.url, retry=QUICK).health()
    assert server.connections == 1


def test_a_full_queue_is_asked_again_when_the_server_says_when():
    refusal = says_json({"detail": "4 requests are waiting."}, "429 Too Many Requests", Retry_After="0.3")
    with fault_server(refusal, says_json(job_status())) as server:
        began = time.monotonic()
        assert client(server.url, retry=QUICK).start_job("tiny", "liver", image="ct").state == "queued"
        assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("after", ["3600", "1", "soon", "-1", "", "9" * 30, "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_server_that_asks_for_too_much_patience_gets_none(after):
    refusal = says_json({"detail": "4 requests are waiting, try again later."}, "429 Too Many Requests", Retry_After=after)
    with fault_server(refusal) as server, pytest.raises(errors.ServerBusyError, match="4 requests") as busy:
        client(server.url, retry=QUICK).start_job("tiny", "liver", image="ct")
    assert server.connections == 1
    assert is_a_sentence(busy.value)


def test_a_date_in_the_past_means_now():
    refusal = says_json({"detail": "Busy."}, "429 No", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")
    with fault_server(refusal, says_json(job_status())) as server:
        assert client(server.url, retry=QUICK).start_job("tiny", "liver", image="ct").id == "0123"


def test_waiting_to_ask_again_can_be_cancelled():
    token = CancelToken()
    with fault_server(says_json({"detail": "Busy."}, "429 No", Retry_After="9")) as server:
        ask = lambda: client(server.url, retry=RetryPolicy()).run(calls.health(), cancel=token)  # noqa: E731
        assert stopped_after(0.2, token, ask) < AT_ONCE


# --- TLS and tokens ---------------------------------------------------------------------------------------------------------------------


def test_a_certificate_of_a_chosen_authority_is_trusted_and_the_token_arrives(tmp_path):
    tls, authority = certificate(tmp_path)
    with fault_server(says_json(health()), tls=tls) as server:
        assert client(server.url, ca_file=authority).handshake().warnings == ()
        assert f"Authorization: Bearer {TOKEN}" in server.requests[0].head


def test_files_travel_by_tls_both_ways(tmp_path, a_large_file):
    tls, authority = certificate(tmp_path)
    body = result_body(random.Random(1).randbytes(3 << 20))
    answer = sends(head(Content_Type=MULTIPART, Content_Length=str(len(body))) + body)
    with fault_server(says_json(job_status()), answer, tls=tls) as server:
        connected = client(server.url, ca_file=authority, timeout=20)
        connected.start_job("tiny", "liver", file=a_large_file)
        assert len(server.requests[0].body) > a_large_file.stat().st_size
        assert connected.download_result("0123", tmp_path).path.stat().st_size == 3 << 20


@pytest.mark.parametrize("host", [None, "another.example.org"], ids=["unknown authority", "another name"])
def test_a_certificate_that_is_not_trusted_stops_everything_before_a_byte_is_sent(tmp_path, host):
    tls, authority = certificate(tmp_path, host=host or "127.0.0.1")
    with fault_server(says_json(health()), tls=tls) as server:
        with pytest.raises(errors.EncryptionError, match="is not trusted") as refusal:
            client(server.url, ca_file=authority if host else None, retry=QUICK).health()
        assert server.requests == []
        assert server.connections == 1
    assert is_a_sentence(refusal.value)


def test_encryption_where_there_is_none_and_none_where_there_is_are_sentences(tmp_path):
    tls, _ = certificate(tmp_path)
    bad_request = lambda caller: caller.send(head("400 Bad Request"))  # noqa: E731 - what web servers say to a handshake
    with fault_server(bad_request) as server, pytest.raises(errors.EncryptionError, match="http://") as refusal:
        client(server.url.replace("http:", "https:")).health()
    assert is_a_sentence(refusal.value)
    with fault_server(says_json(health()), tls=tls) as server, pytest.raises(errors.ClientError) as refusal:
        client(server.url.replace("https:", "http:")).health()
    assert is_a_sentence(refusal.value)


@pytest.mark.parametrize("content", [None, b"this is no certificate"])
def test_a_file_of_authorities_that_cannot_be_read_is_a_sentence(tmp_path, content):
    path = tmp_path / "authority.pem"
    if content:
        path.write_bytes(content)
    with pytest.raises(errors.LocalFileError, match=r"authority\.pem") as refusal:
        client("https://127.0.0.1:1", ca_file=path)
    assert is_a_sentence(refusal.value)


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
