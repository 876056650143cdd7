"""The client trusts only the certificates that a person chose, and gives its token to one server alone."""

from __future__ import annotations

import random

import pytest
from tests.slicer.fault_server import (
    MULTIPART,
    QUICK,
    TOKEN,
    certificate,
    client,
    fault_server,
    head,
    health,
    is_a_sentence,
    job_status,
    result_body,
    says,
    says_json,
    sends,
)
from WordMaskLib.client import calls, errors
from WordMaskLib.client.client import WordMaskClient


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
