"""Forms and multipart answers, cut anywhere and with any bytes in them."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.slicer.fault_server import result_body
from WordMaskLib.client.multipart import (
    FilePart,
    Form,
    MultipartError,
    MultipartParser,
    TextPart,
    file_name_in,
    safe_file_name,
)


class Collected:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, str | None, bytes]] = []
        self.ended = 0

    def start(self, name: str, file_name: str | None) -> None:
        self.parts.append((name, file_name, b""))

    def write(self, content: bytes) -> None:
        name, file_name, before = self.parts[-1]
        self.parts[-1] = (name, file_name, before + content)

    def end(self) -> None:
        self.ended += 1


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Data in pieces of these sizes, again and again."""
    pieces, at, number = [], 0, 0
    while at < len(data):
        size = sizes[number % len(sizes)] if sizes else len(data)
        pieces.append(data[at : at + size])
        at, number = at + size, number + 1
    return pieces


def parse(body: bytes, sizes: list[int], boundary: str = "b0") -> Collected:
    sink = Collected()
    parser = MultipartParser(f"multipart/form-data; boundary={boundary}", sink)
    for piece in cut(body, sizes):
        parser.feed(piece)
    parser.finish()
    return sink


TRICKY = st.lists(
    st.sampled_from(
        [
            b"\r",
            b"\n",
            b"\r\n",
            b"--",
            b"\r\n--",
            b"b0",
            b"\r\n--b",
            b"\r\n--b0x",
            b"--b0--",
            b"\x00",
            b"voxels",
        ]
    ),
    max_size=20,
)


@given(
    file=st.one_of(st.binary(max_size=300), TRICKY.map(b"".join)),
    sizes=st.lists(st.integers(1, 40), max_size=5),
)
def test_a_file_comes_out_as_it_went_in_however_the_bytes_are_cut(file, sizes):
    if b"\r\n--b0\r\n" in b"\r\n" + file + b"\r\n" or b"\r\n--b0--" in b"\r\n" + file:
        return  # then it is a boundary
    sink = parse(result_body(file), sizes)
    assert sink.parts[1] == ("image", "x.nii.gz", file)
    assert json.loads(sink.parts[0][2])["label_names"] == {"liver": 1}
    assert sink.ended == 2


@given(
    body=st.one_of(st.binary(max_size=200), TRICKY.map(b"".join)),
    sizes=st.lists(st.integers(1, 40), max_size=3),
)
def test_any_bytes_are_parts_or_refused(body, sizes):
    with contextlib.suppress(MultipartError):
        parse(body, sizes)


@given(keep=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 40), max_size=3))
def test_a_body_that_ends_early_is_never_taken_for_a_whole_one(keep, sizes):
    whole = result_body(b"\r\n--voxels" * 10).rstrip()
    with pytest.raises(MultipartError):
        parse(whole[: keep % len(whole)], sizes)


def test_what_goes_round_a_body_does_not_matter():
    sink = parse(
        b"a preamble\r\n" + result_body(b"voxels").replace(b"--b0\r\n", b"--b0 \t\r\n") + b"an epilogue", [3]
    )
    assert [part[2] for part in sink.parts[1:]] == [b"voxels"]


def test_heads_and_parts_without_an_end_are_refused():
    with pytest.raises(MultipartError, match="too long"):
        parse(b"--b0\r\nX: " + b"x" * 20_000, [])
    with pytest.raises(MultipartError, match="too many"):
        parse(b"--b0\r\n\r\n\r\n" * 40, [])


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", 'multipart/form-data; boundary=""', "multipart/form-data; boundary=ü"],
)
def test_a_missing_boundary_is_refused(content_type):
    with pytest.raises(MultipartError, match="boundary"):
        MultipartParser(content_type, Collected())


@given(st.binary(max_size=2000), st.text(max_size=50))
def test_what_the_form_writes_is_what_the_parser_reads(content, text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        form = Form((TextPart("params", text), FilePart("file", path, "image.nii.gz")))
        length, blocks = form.blocks()
        body = b"".join(blocks)
    assert len(body) == length
    sink = Collected()
    parser = MultipartParser(form.content_type, sink)
    parser.feed(body)
    parser.finish()
    assert sink.parts == [("params", None, text.encode()), ("file", "image.nii.gz", content)]


@given(st.text(max_size=200))
def test_a_file_name_for_a_header_is_plain(name):
    safe = safe_file_name(name)
    assert 0 < len(safe) <= 100
    assert safe.isascii()
    assert not set(safe) & set('/\\"\r\n:')
    assert not safe.startswith(".")


def test_file_names_are_read_in_both_spellings():
    assert file_name_in('attachment; filename="ct 1.nii.gz"') == "ct 1.nii.gz"
    assert file_name_in("attachment; filename*=utf-8''b%C3%BCcher.nii.gz") == "bücher.nii.gz"
    assert file_name_in("") == ""
