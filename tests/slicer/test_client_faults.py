"""What the client that waits does with servers that are down, slow, broken or of another kind: a sentence,
and no half of a file.

Scripted servers on 127.0.0.1; the real one is in test_client.py, the transport of the window in
test_qt_transport.py.
"""

from __future__ import annotations

import itertools
import random
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.slicer.fault_server import (
    HTML,
    MULTIPART,
    PATIENCE,
    SENT,
    TOKEN,
    WHOLE,
    Caller,
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
    result_body,
    says,
    says_json,
    sends,
    silent,
    trickles,
)
from WordMaskLib.client import calls, errors
from WordMaskLib.client.answers import Health
from WordMaskLib.client.client import WordMaskClient
from WordMaskLib.client.handshake import Handshake
from WordMaskLib.client.readers import retry_after
from WordMaskLib.client.retry import RetryPolicy
from WordMaskLib.flows.flows import run_waiting
from WordMaskLib.flows.segmenting import shake_hands

ONCE = RetryPolicy(attempts=1)
QUICK = RetryPolicy(attempts=3, first_wait=0.05, patience=0.5)


def client(url: str, **options: Any) -> WordMaskClient:
    return WordMaskClient(url, TOKEN, **{"timeout": PATIENCE, "retry": ONCE, **options})


def outcome(ask: Callable[[], Any]) -> Any:
    """The answer, or the error whose text is the sentence."""
    try:
        return ask()
    except errors.ClientError as error:
        return error


# --- a server that does not answer ---


def test_no_server_is_a_sentence_and_only_a_local_one_is_told_with_a_command():
    with pytest.raises(
        errors.ServerUnreachableError, match=r"No server at .*start it with: wordmask serve --studies FOLDER"
    ) as refusal:
        client(f"127.0.0.1:{a_closed_port()}").run(calls.health())
    assert is_a_sentence(refusal.value)
    with pytest.raises(errors.ServerUnreachableError, match="There is no computer with the name") as refusal:
        client("no-such-machine.invalid").run(calls.health())
    assert is_a_sentence(refusal.value)

    class Elsewhere:
        is_local, is_encrypted = False, True

        def __str__(self) -> str:
            return "https://ct.example.org"

    error = errors.network_error("refused", Elsewhere())
    assert "monailabel" not in str(error)
    assert is_a_sentence(error)


def test_a_server_that_is_silent_or_trickles_its_answer_is_given_up():
    start = head(Content_Length="90000")
    for script in (silent, trickles(start + b" " * 90_000, 0.02, at_once=len(start))):
        with (
            fault_server(script) as server,
            pytest.raises(errors.ServerTimeoutError, match="does not answer") as refusal,
        ):
            client(server.url, timeout=0.4).run(calls.health())
        assert is_a_sentence(refusal.value)


def test_a_slow_file_is_waited_for_as_long_as_it_comes(tmp_path):
    body = result_body(b"voxels")
    answer = head(Content_Type=MULTIPART, Content_Length=str(len(body))) + body
    with fault_server(
        trickles(answer, 0.1, at_once=len(answer) - 32)
    ) as server:  # longer than the time-out, in small steps
        found = client(server.url, timeout=3.0).run(calls.job_result("0123", tmp_path))
    assert found.path.read_bytes() == b"voxels"


# --- a server that answers something else ---

STRANGE: dict[str, tuple[Script, type[errors.ClientError], str]] = {
    "hangs up": (hangs_up, errors.ConnectionLostError, "was closed"),
    "resets": (sends(b"", then="reset"), errors.ConnectionLostError, "was closed"),
    "no HTTP": (sends(b"SSH-2.0-OpenSSH_9.2\r\n"), errors.BadAnswerError, "not answer as a web server"),
    "endless header": (
        sends(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
        errors.BadAnswerError,
        "web server",
    ),
    "half of a head": (sends(b"HTTP/1.1 200 OK\r\nContent-"), errors.BadAnswerError, "answer cannot be read"),
    "half of a body": (
        sends(head(Content_Length="500") + b'{"status"'),
        errors.ConnectionLostError,
        "was closed",
    ),
    "half of a chunk": (
        sends(head(Transfer_Encoding="chunked") + b"100\r\n{"),
        errors.ConnectionLostError,
        "was closed",
    ),
    "chunks without an end": (
        sends(head(Transfer_Encoding="chunked") + b"1\r\n{\r\n"),
        errors.ConnectionLostError,
        "was closed",
    ),
    "a chunk of nonsense": (
        sends(head(Transfer_Encoding="chunked") + b"zz\r\n{}"),
        errors.ConnectionLostError,
        "was closed",
    ),
    "a page": (says(HTML, Content_Type="text/html"), errors.BadAnswerError, "web page"),
    "no JSON": (says("{'status': ok}"), errors.BadAnswerError, "cannot be read"),
    "nothing": (says(""), errors.BadAnswerError, "cannot be read"),
    "a list": (says("[]"), errors.BadAnswerError, "no usable"),
    "another object": (says_json({"status": "ok"}), errors.BadAnswerError, "no usable 'wordmask'"),
    "another type": (says_json({**health(), "models": [1]}), errors.BadAnswerError, "no usable"),
    "deep JSON": (says("[" * 100_000), errors.BadAnswerError, "cannot be read"),
    "compressed": (says(b"\x1f\x8b", Content_Encoding="gzip"), errors.BadAnswerError, "compressed"),
    "500": (
        says("Internal Server Error", "500 Internal Server Error"),
        errors.ServerAnswerError,
        "its log says why",
    ),
    "502 page": (says(HTML, "502 Bad Gateway", Content_Type="text/html"), errors.ServerAnswerError, "proxy"),
    "a trace": (
        says_json({"detail": "Traceback (most recent call last): ..."}, "500 No"),
        errors.ServerAnswerError,
        "its log says why",
    ),
    "our sentence": (
        says_json({"detail": "The disk is full, so nothing was kept"}, "507 Full"),
        errors.ServerAnswerError,
        "disk is full",
    ),
    "422": (
        says_json({"detail": [{"loc": ["query", "limit"], "msg": "no"}]}, "422 No"),
        errors.ServerAnswerError,
        "cannot use limit",
    ),
    "401": (
        says_json({"detail": "Not authenticated"}, "401 Unauthorized"),
        errors.AccessDeniedError,
        "valid token",
    ),
    "403": (
        says_json({"detail": "Needs a role"}, "403 Forbidden"),
        errors.AccessDeniedError,
        "may not do this .*Needs a role",
    ),
    "elsewhere": (says("", "307 Go", Location="/x"), errors.ServerAnswerError, "to another address"),
}


def test_every_strange_answer_is_a_sentence_of_its_kind():
    for name, (script, kind, words) in STRANGE.items():
        with fault_server(script) as server:
            found = outcome(lambda: client(server.url).run(calls.health()))
        assert type(found) is kind, f"{name}: {found!r}"
        assert re.search(words, str(found)), f"{name}: {found}"
        assert is_a_sentence(found), f"{name}: {found}"


@settings(max_examples=25)
@given(
    raw=st.one_of(
        st.binary(max_size=300), st.binary(max_size=300).map(lambda body: head(Content_Length="9") + body)
    )
)
def test_no_bytes_whatever_make_anything_but_an_answer_or_a_sentence(raw):
    with fault_server(sends(raw)) as server:
        found = outcome(lambda: client(server.url).run(calls.health()))
    assert isinstance(found, Health) or is_a_sentence(found), str(found)


def test_a_redirect_is_not_followed_so_another_machine_never_gets_the_token():
    with (
        fault_server(says_json(health())) as thief,
        fault_server(says("", "307 Go", Location=thief.url + "/x")) as server,
    ):
        for call in (calls.health(), calls.start_training("tiny")):
            with pytest.raises(errors.ServerAnswerError, match="to another address") as refusal:
                client(server.url).run(call)
            assert is_a_sentence(refusal.value)
        assert thief.connections == 0


def test_a_proxy_of_the_system_is_not_used(monkeypatch):
    with fault_server(says_json(health())) as proxy, fault_server(says_json(health())) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        client(server.url).run(calls.health())
        assert (proxy.connections, server.connections) == (0, 1)
    assert f"Authorization: Bearer {TOKEN}" in server.requests[0].head


# --- files ---

BROKEN_RESULTS: dict[str, bytes] = {
    "cut in the file": SENT + WHOLE[:-3000],
    "cut in the head of a part": SENT + WHOLE[:70],
    "cut, and nobody says how long it is": head(Content_Type=MULTIPART) + WHOLE[:-30],
    "no boundary at all": head(Content_Type="multipart/form-data", Content_Length="4") + b"abcd",
    "garbage": head(Content_Type=MULTIPART, Content_Length="400") + bytes(range(200)) * 2,
    "a page": head(Content_Type="text/html", Content_Length=str(len(HTML))) + HTML.encode(),
    "JSON alone": head(Content_Type="application/json", Content_Length="2") + b"{}",
    "no JSON": head(Content_Type=MULTIPART) + WHOLE.replace(b'{"label', b"{'label"),
    "no file": head(Content_Type=MULTIPART) + WHOLE.replace(b'name="image"', b'name="other"'),
    "no params": head(Content_Type=MULTIPART) + WHOLE.replace(b'name="params"', b'name="other"'),
    "an empty file": head(Content_Type=MULTIPART) + result_body(b""),
    "two files": head(Content_Type=MULTIPART)
    + WHOLE.replace(b'name="params"', b'name="image"; filename="a.nii"'),
    "a program": head(Content_Type=MULTIPART) + result_body(b"MZ", name="setup.exe"),
    "two words with one value": head(Content_Type=MULTIPART)
    + result_body(b"v", params={"label_names": {"liver": 1, "spleen": 1}}),
}
BROKEN_IMAGES: dict[str, bytes] = {
    "cut": head(Content_Length="100", Content_Disposition='attachment; filename="x.nii.gz"') + b"half",
    "no length": head(Content_Disposition='attachment; filename="x.nii.gz"') + b"who knows how long",
    "no name": head(Content_Length="4") + b"what",
    "a page": head(
        Content_Length=str(len(HTML)),
        Content_Type="text/html",
        Content_Disposition="attachment; filename=x.nii",
    )
    + HTML.encode(),
}


def test_a_file_that_is_not_whole_leaves_none_and_an_older_one_as_it_was(tmp_path):
    (tmp_path / "result.nii.gz").write_bytes(b"older")
    for call, broken in (
        (calls.job_result("0123", tmp_path, "result"), BROKEN_RESULTS),
        (calls.image_file("ct", tmp_path), BROKEN_IMAGES),
    ):
        for name, raw in broken.items():
            with fault_server(sends(raw)) as server:
                found = outcome(lambda: client(server.url).run(call))  # noqa: B023 - called at once
            assert isinstance(found, errors.ClientError), f"{name}: {found!r}"
            assert is_a_sentence(found), f"{name}: {found}"
            assert [path.read_bytes() for path in everything_in(tmp_path)] == [b"older"], name
    with (
        fault_server(sends(SENT + WHOLE)) as server,
        pytest.raises(errors.LocalFileError, match="could not be written") as refusal,
    ):
        client(server.url).run(calls.job_result("0123", tmp_path / "nowhere"))
    assert is_a_sentence(refusal.value)


def test_the_name_that_the_server_gives_a_file_is_never_used(tmp_path):
    folder = tmp_path / "inner" / "folder"
    folder.mkdir(parents=True)
    for name in (
        "../../evil.nii.gz",
        "/etc/evil.nii.gz",
        "..\\evil.nii.gz",
        "evil\x00.nii.gz",
        "a" * 300 + ".nii.gz",
    ):
        body = result_body(b"voxels", name=name)
        with fault_server(
            sends(head(Content_Type=MULTIPART, Content_Length=str(len(body))) + body)
        ) as server:
            found = client(server.url).run(calls.job_result("0123", folder))
        assert found.path == folder / "0123.nii.gz"
        assert [path.name for path in everything_in(tmp_path) if path.is_file()] == ["0123.nii.gz"]


def test_an_id_that_could_be_another_route_is_refused_before_anything_is_sent(tmp_path):
    for job_id in ("../models", "a/b", "..", "", "a b", "a\r\nX: y", "é?"):
        for call in (
            calls.job,
            calls.cancel_job,
            lambda name: calls.job_result(name, tmp_path),
            calls.rollback,
            calls.start_training,
        ):
            with pytest.raises(errors.ClientError, match="not the name of a model or a job"):
                call(job_id)


# --- which server is it ---

PLAIN = {
    "name": "Radiology",
    "version": "0.8.5",
    "models": {},
    "trainers": {},
    "strategies": {},
    "datastore": {"total": 1},
}


def handshake(url: str) -> Handshake:
    asking = client(url)
    return run_waiting(shake_hands(asking.address), asking)


NOT_FOUND = says_json({"detail": "Not Found"}, "404 Not Found")
UNUSABLE: list[
    tuple[Script, Script, type[errors.ClientError], str]
] = [  # what it answers to health and to info
    (
        NOT_FOUND,
        says_json(PLAIN),
        errors.NotAWordMaskServerError,
        "the app 'Radiology', not WordMask; start it with --app",
    ),
    (
        NOT_FOUND,
        says_json({**PLAIN, "name": "WordMask", "version": "0.0"}),
        errors.IncompatibleServerError,
        "0.0, which is too old",
    ),
    (NOT_FOUND, NOT_FOUND, errors.NotAWordMaskServerError, "is not a WordMask server"),
    (
        says(HTML, Content_Type="text/html"),
        says(HTML),
        errors.NotAWordMaskServerError,
        "is not a WordMask server",
    ),
    (says_json(health("0.0.9")), NOT_FOUND, errors.IncompatibleServerError, "too old"),
    (says_json(health("1.2.0")), NOT_FOUND, errors.IncompatibleServerError, "too new .*update the extension"),
    (says_json(health("main")), NOT_FOUND, errors.IncompatibleServerError, "unknown"),
    (says("", "500 Oops"), NOT_FOUND, errors.ServerAnswerError, "log"),
    (says_json({"detail": "Not authenticated"}, "401 No"), NOT_FOUND, errors.AccessDeniedError, "token"),
]


def test_a_server_that_cannot_be_used_is_told_what_it_is_and_a_newer_one_is_used_with_a_warning():
    for health_answer, info_answer, kind, words in UNUSABLE:
        with fault_server(health_answer, info_answer) as server:
            found = outcome(lambda: handshake(server.url))
        assert type(found) is kind, f"{words}: {found!r}"
        assert re.search(words, str(found)), str(found)
        assert is_a_sentence(found), str(found)
    with fault_server(says_json(health("0.2.1"))) as server:
        found = handshake(server.url)
    assert found.version == "0.2.1"
    assert "newer than this module" in found.warnings[0]


# --- uploads ---


@pytest.fixture
def a_large_file(tmp_path: Path) -> Path:
    path = tmp_path / "large.nii"
    with path.open("wb") as file:
        file.truncate(48 << 20)
    return path


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
    upload = calls.start_job("tiny", "liver", file=a_large_file)
    with fault_server(hangs_up_during_upload) as server, pytest.raises(errors.ConnectionLostError) as broken:
        client(server.url, retry=QUICK).run(upload)
    assert is_a_sentence(broken.value)
    assert server.connections == 1, "an upload is not repeated"

    def refuses(caller: Caller) -> None:
        caller.request(most=1)
        body = b'{"detail": "The request is larger than the 8 MB that this server takes."}'
        caller.send(head("413 Too Large", Content_Length=str(len(body))) + body)

    with (
        fault_server(refuses) as server,
        pytest.raises(errors.ServerAnswerError, match="larger than the 8 MB") as refusal,
    ):
        client(server.url).run(upload)
    assert refusal.value.status == 413

    def takes_one_byte(caller: Caller) -> None:
        caller.request(most=1)
        caller.server.over.wait(PATIENCE)

    with fault_server(takes_one_byte) as server, pytest.raises(errors.ServerTimeoutError):
        client(server.url, timeout=0.5).run(upload)


def test_a_file_that_cannot_be_read_or_changes_meanwhile_is_a_sentence(tmp_path):
    (tmp_path / "folder.nii").mkdir()
    for path in (tmp_path / "nowhere.nii.gz", tmp_path / "folder.nii"):
        with pytest.raises(errors.LocalFileError, match=path.name) as refusal:
            client(f"127.0.0.1:{a_closed_port()}").run(calls.upload_image("x", path))
        assert is_a_sentence(refusal.value)
        assert str(tmp_path) not in str(refusal.value)
    path = tmp_path / "x.nii"
    for becomes in (bytes(1004), bytes(10)):
        path.write_bytes(bytes(1000))
        _, blocks = calls.upload_image("x", path).form.blocks()
        path.write_bytes(becomes)
        with pytest.raises(errors.LocalFileError, match="changed while it was being sent"):
            list(blocks)


# --- trying again ---


def test_a_question_is_asked_again_when_the_connection_breaks_and_nothing_that_changes_something():
    with fault_server(hangs_up, says(HTML, "502 Bad Gateway"), says_json(health())) as server:
        assert client(server.url, retry=QUICK).run(calls.health()).version == "0.1.0"
        assert server.connections == 3
    for call, connections in (
        (calls.health(), 3),
        (calls.cancel_job("0123"), 3),
        (calls.start_training("tiny"), 1),
        (calls.stop_training(), 1),
        (calls.rollback("tiny"), 1),
        (calls.next_case(), 1),
        (calls.start_job("tiny", "liver", image="ct"), 1),
    ):
        with fault_server(hangs_up) as server, pytest.raises(errors.ConnectionLostError):
            client(server.url, retry=QUICK).run(call)
        assert server.connections == connections, call.path


def test_an_answer_says_whether_and_when_a_request_is_repeated():
    for status, after, safe, seconds in (
        (502, None, True, 0.05),
        (503, 0.3, True, 0.3),
        (503, None, True, None),
        (429, 0.3, False, 0.3),
        (429, 3600.0, True, None),
        (429, None, False, None),
        (404, None, True, None),
        (500, None, True, None),
    ):
        kind = errors.ServerBusyError if status == 429 else errors.ServerAnswerError
        error = kind(status, "4 requests are waiting.", retry_after=after)
        assert QUICK.wait(error, 1, safe_to_repeat=safe) == seconds, (status, after)
        assert QUICK.wait(error, 3, safe_to_repeat=safe) is None
    for text, seconds in (("0.3", 0.3), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", None), ("-1", None)):
        assert retry_after(text) == seconds


def test_a_full_queue_is_asked_again_when_the_server_says_when_and_that_is_soon():
    full = says_json({"detail": "4 requests are waiting."}, "429 Too Many Requests", Retry_After="0.3")
    with fault_server(full, says_json(job_status())) as server:
        job = client(server.url, retry=QUICK).run(calls.start_job("tiny", "liver", image="ct"))
    assert job.state == "queued"


# --- TLS and tokens ---


def test_files_and_the_token_travel_by_tls_to_a_server_of_a_chosen_authority(tmp_path, a_large_file):
    tls, authority = certificate(tmp_path)
    body = result_body(random.Random(1).randbytes(3 << 20))
    answer = sends(head(Content_Type=MULTIPART, Content_Length=str(len(body))) + body)
    with fault_server(says_json(health()), says_json(job_status()), answer, tls=tls) as server:
        connected = client(server.url, ca_file=authority)
        assert connected.run(calls.health()).version == "0.1.0"
        assert f"Authorization: Bearer {TOKEN}" in server.requests[0].head
        connected.run(calls.start_job("tiny", "liver", file=a_large_file))
        assert len(server.requests[1].body) > a_large_file.stat().st_size
        assert connected.run(calls.job_result("0123", tmp_path)).path.stat().st_size == 3 << 20


def test_encryption_that_cannot_be_trusted_or_is_not_there_stops_everything_before_a_byte_is_sent(tmp_path):
    for host in (None, "another.example.org"):  # an unknown authority, another name
        tls, authority = certificate(tmp_path, host=host or "127.0.0.1")
        with fault_server(says_json(health()), tls=tls) as server:
            with pytest.raises(errors.EncryptionError, match="is not trusted") as refusal:
                client(server.url, ca_file=authority if host else None, retry=QUICK).run(calls.health())
            assert (server.requests, server.connections) == ([], 1)
        assert is_a_sentence(refusal.value)
    with fault_server(says_json(health()), tls=tls) as server, pytest.raises(errors.ClientError) as refusal:
        client(server.url.replace("https:", "http:")).run(calls.health())
    assert is_a_sentence(refusal.value)
    bad_request = lambda caller: caller.send(head("400 Bad Request"))  # noqa: E731 - what web servers say to a handshake
    with (
        fault_server(bad_request) as server,
        pytest.raises(errors.EncryptionError, match="http://") as refusal,
    ):
        client(server.url.replace("http:", "https:")).run(calls.health())
    assert is_a_sentence(refusal.value)
    (tmp_path / "none.pem").write_bytes(b"this is no certificate")
    for name in ("none.pem", "gone.pem"):
        with pytest.raises(errors.LocalFileError, match=name) as unread:
            client("https://127.0.0.1:1", ca_file=tmp_path / name)
        assert is_a_sentence(unread.value)


def test_a_token_is_in_no_repr_and_in_no_error():
    with fault_server(says(f"echo {TOKEN}", "500 No")) as server:
        connected = client(server.url)
        assert TOKEN not in repr(connected)
        with pytest.raises(errors.ClientError) as refusal:
            connected.run(calls.health())
        assert TOKEN not in str(refusal.value) + repr(refusal.value)
    for token in ("two\r\nX-Injected: yes", "with space", "ünicode", "\x00"):
        with pytest.raises(errors.AddressError) as refused:
            WordMaskClient("http://127.0.0.1:1", token)
        assert token not in str(refused.value)
