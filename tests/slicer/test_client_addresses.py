"""Addresses, with whatever people type and paste."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from WordMaskLib.client import errors
from WordMaskLib.client.addresses import ServerAddress, repair_address


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("http://0.0.0.0:8000/", "http://127.0.0.1:8000"),
        ("localhost", "http://localhost:8000"),
        ("  http://localhost:8000  ", "http://localhost:8000"),
        ("http://localhost : 8000 /", "http://localhost:8000"),
        ("http:/localhost:8000", "http://localhost:8000"),
        ("http//localhost:8000", "http://localhost:8000"),
        ("HTTP://LocalHost:8000", "http://localhost:8000"),
        ("http:\\\\localhost:8000\\", "http://localhost:8000"),
        ("<http://localhost:8000>", "http://localhost:8000"),
        ("http://localhost:8000/docs", "http://localhost:8000"),
        ("http://localhost:8000/docs#/Infer", "http://localhost:8000"),
        ("http://localhost:8000/info/", "http://localhost:8000"),
        ("localhost:8000/wordmask/jobs/7?output=json", "http://localhost:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("[::]:8000", "http://[::1]:8000"),
        ("ct.example.org", "http://ct.example.org:8000"),
        ("ct.example.org:443", "https://ct.example.org"),
        ("https://ct.example.org", "https://ct.example.org"),
        ("https://ct.example.org:8443/", "https://ct.example.org:8443"),
        ("https://example.org/wordmask/", "https://example.org/wordmask"),
        ("https://example.org/wordmask/wordmask/health", "https://example.org/wordmask"),
        ("https://example.org/a/b/info/", "https://example.org/a/b"),
        ("wordmask_server:8000", "http://wordmask_server:8000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_what_people_type_and_paste_becomes_an_address(typed, meant):
    assert str(repair_address(typed)) == meant


@pytest.mark.parametrize(
    "typed",
    [
        *(
            "",
            "  ",
            "hello world",
            "ftp://x",
            "file:///etc/passwd",
            "http://",
            "https://:8000",
            ":8000",
            "a:b",
            "a:0",
            "a:65536",
            "1.2.3",
        ),
        *(
            "256.1.1.1",
            "a..b",
            "-a.b",
            "http://x/../y",
            "http://x/%2e%2e",
            "ö" * 80,
            "x" * 300,
            "fe80::1%eth0",
            "http://x/a b",
            "a\x00b",
        ),
    ],
)
def test_nonsense_is_refused_with_a_sentence_and_an_example(typed):
    with pytest.raises(errors.AddressError, match=r"http://127\.0\.0\.1:8000") as refusal:
        repair_address(typed)
    assert str(refusal.value).endswith(".")
    assert str(refusal.value).isprintable()


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(errors.AddressError, match="a password") as refusal:
        repair_address("http://reader:hunter2@example.org")
    assert "hunter2" not in str(refusal.value)


HOSTS = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda ip: f"[{ip}]"),
    st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,5}){0,2}", fullmatch=True),
)


PIECES = st.sampled_from(
    [
        "http",
        "https",
        ":",
        "/",
        "//",
        "[",
        "]",
        "::",
        ".",
        "..",
        "localhost",
        "8000",
        "docs",
        "wordmask",
        "@",
        "?",
    ]
)


@given(
    st.sampled_from(["http", "https"]),
    HOSTS,
    st.integers(1, 65535),
    st.sampled_from(["", "/", "/docs", "/info/ "]),
)
def test_a_good_address_keeps_its_scheme_host_and_port(scheme, host, port, slash):
    found = repair_address(f"{scheme}://{host}:{port}{slash}")
    assert (found.scheme, found.port, found.prefix) == (scheme, port, "")
    if host not in ("0.0.0.0", "[::]"):
        assert found == repair_address(f" {scheme.upper()}://{host}:{port}")


@given(
    st.one_of(
        st.text(max_size=60), st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=10).map("".join)
    )
)
def test_any_text_is_refused_with_a_sentence_or_repaired_for_good(text):
    try:
        found = repair_address(text)
    except errors.AddressError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert refusal.endswith(".")
        assert refusal.isprintable()
        return
    assert repair_address(str(found)) == found
    assert found.host not in ("0.0.0.0", "::")
    assert str(found).isascii()
    assert str(found).isprintable()
    assert found.url("/info/").endswith(f"{found.prefix}/info/")


def test_only_this_machine_is_local():
    assert all(repair_address(text).is_local for text in ("localhost", "127.0.0.1", "127.3.2.1", "::1"))
    assert not any(
        repair_address(text).is_local for text in ("192.168.1.2", "example.org", "localhost.example.org")
    )


def test_a_query_is_quoted():
    url = ServerAddress("http", "x", 8000, "/p").url("/datastore/image", [("image", "a/b c&d=ü")])
    assert url == "http://x:8000/p/datastore/image?image=a%2Fb%20c%26d%3D%C3%BC"
