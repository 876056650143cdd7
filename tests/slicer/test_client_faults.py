"""What the client does with servers that are down, slow, broken, or another thing altogether: a sentence, and
no half of a file.

Scripted servers on 127.0.0.1; the real one is in test_client.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
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
    Script,
    a_closed_port,
    everything_in,
    fault_server,
    hangs_up,
    head,
    health,
    is_a_sentence,
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
from WordMaskLib.client.transport import RetryPolicy

ONCE = RetryPolicy(attempts=1)


def client(url: str, **options: Any) -> WordMaskClient:
    return WordMaskClient(url, TOKEN, **{"timeout": PATIENCE, "retry": ONCE, **options})


def outcome(ask: Callable[[], Any]) -> Any:
    """The answer, or the error whose text is the sentence."""
    try:
        return ask()
    except errors.ClientError as error:
        return error


# --- a server that does not answer ---


def test_no_server_is_a_sentence_that_says_how_to_start_one():
    with pytest.raises(
        errors.ServerUnreachableError, match=r"No server at .*start it with: wordmask serve --studies FOLDER"
    ) as refusal:
        client(f"127.0.0.1:{a_closed_port()}").handshake()
    assert is_a_sentence(refusal.value)


def test_no_server_on_another_machine_is_not_answered_with_a_command_for_this_one():
    with pytest.raises(errors.ServerUnreachableError, match="No machine has the name") as refusal:
        client("no-such-machine.invalid").health()
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
    for script in (silent, trickles(start, 0.1), trickles(start + b" " * 90_000, 0.02, at_once=len(start))):
        with (
            fault_server(script) as server,
            pytest.raises(errors.ServerTimeoutError, match="does not answer") as refusal,
        ):
            client(server.url, timeout=0.4).health()
        assert is_a_sentence(refusal.value)


def test_a_slow_file_is_waited_for_as_long_as_it_comes(tmp_path):
    body = result_body(b"voxels")
    answer = head(Content_Type=MULTIPART, Content_Length=str(len(body))) + body
    with fault_server(
        trickles(answer, 0.1, at_once=len(answer) - 32)
    ) as server:  # longer than the time-out, in small steps
        found = client(server.url, timeout=3.0).download_result("0123", tmp_path)
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
    "elsewhere": (
        says("", "307 Go", Location="http://127.0.0.2:1/x"),
        errors.BadAnswerError,
        "another machine",
    ),
    "elsewhere strangely": (
        says("", "302 Go", Location="http://[x/"),
        errors.BadAnswerError,
        "address that cannot be read",
    ),
    "in a circle": (says("", "307 Go", Location="/wordmask/health"), errors.BadAnswerError, "circle"),
}


def test_every_strange_answer_is_a_sentence_of_its_kind():
    for name, (script, kind, words) in STRANGE.items():
        with fault_server(script) as server:
            found = outcome(client(server.url).health)
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
        found = outcome(client(server.url).health)
    assert isinstance(found, Health) or is_a_sentence(found), str(found)


def test_a_redirect_on_the_same_server_is_followed_for_questions_and_another_machine_never_gets_the_token():
    with fault_server(says("", "307 Go", Location="/elsewhere"), says_json(health())) as server:
        assert client(server.url).health().version == "0.1.0"
        assert server.requests[1].line == "GET /elsewhere HTTP/1.1"
    with (
        fault_server(says_json(health())) as thief,
        fault_server(says("", "307 Go", Location=thief.url + "/x")) as server,
    ):
        with pytest.raises(errors.BadAnswerError):
            client(server.url).health()
        assert thief.connections == 0
    with (
        fault_server(says("", "307 Go", Location="/train/x")) as server,
        pytest.raises(errors.ServerAnswerError) as refusal,
    ):
        client(server.url).start_training("tiny")
    assert is_a_sentence(refusal.value)
    assert server.connections == 1


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
    for download, broken in (
        (lambda it: it.download_result("0123", tmp_path, "result"), BROKEN_RESULTS),
        (lambda it: it.download_image("ct", tmp_path), BROKEN_IMAGES),
    ):
        for name, raw in broken.items():
            with fault_server(sends(raw)) as server:
                found = outcome(lambda: download(client(server.url)))  # noqa: B023 - called at once
            assert isinstance(found, errors.ClientError), f"{name}: {found!r}"
            assert is_a_sentence(found), f"{name}: {found}"
            assert [path.read_bytes() for path in everything_in(tmp_path)] == [b"older"], name
    with (
        fault_server(sends(SENT + WHOLE)) as server,
        pytest.raises(errors.LocalFileError, match="could not be written") as refusal,
    ):
        client(server.url).download_result("0123", tmp_path / "nowhere")
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
            found = client(server.url).download_result("0123", folder)
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
            with pytest.raises(errors.ClientError, match="no name of a model or a job"):
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
    (NOT_FOUND, NOT_FOUND, errors.NotAWordMaskServerError, "is no WordMask server"),
    (
        says(HTML, Content_Type="text/html"),
        says(HTML),
        errors.NotAWordMaskServerError,
        "is no WordMask server",
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
            found = outcome(client(server.url).handshake)
        assert type(found) is kind, f"{words}: {found!r}"
        assert re.search(words, str(found)), str(found)
        assert is_a_sentence(found), str(found)
    with fault_server(says_json(health("0.2.1"))) as server:
        found = client(server.url).handshake()
    assert found.version == "0.2.1"
    assert "newer than this module" in found.warnings[0]
