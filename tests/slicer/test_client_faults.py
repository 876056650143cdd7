"""What the client that waits does with servers that are down, slow, broken or of another kind: a sentence.

Scripted servers on 127.0.0.1; the real one is in test_client.py, the transport of the window in
test_qt_transport.py.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.slicer.fault_server import (
    HTML,
    QUICK,
    Script,
    a_closed_port,
    client,
    fault_server,
    hangs_up,
    head,
    health,
    is_a_sentence,
    job_status,
    outcome,
    says,
    says_json,
    sends,
    silent,
    trickles,
)
from WordMaskLib.client import calls, errors
from WordMaskLib.client.answers import Health
from WordMaskLib.client.handshake import Handshake
from WordMaskLib.client.readers import retry_after
from WordMaskLib.flows.flows import run_waiting
from WordMaskLib.flows.segmenting import shake_hands

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
