"""The parts of the client that need no server: addresses, multipart, and answers, with whatever people and
servers may write.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.slicer.fault_server import health, job_status, result_body
from WordMaskLib.client import answers, calls, errors, job_answers
from WordMaskLib.client.addresses import ServerAddress, repair_address
from WordMaskLib.client.multipart import (
    FilePart,
    Form,
    MultipartError,
    MultipartParser,
    TextPart,
    file_name_in,
    safe_file_name,
)

# --- addresses ---


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


# --- multipart ---


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


@pytest.mark.parametrize("name", ["CT 1.5 mm.nii.gz", "MR.2024.01.02.nii", "ü.NRRD", "a.b.png"])
def test_only_the_real_ending_of_a_file_is_sent(tmp_path, name):
    form = calls.upload_image("x", tmp_path / name).form
    assert form is not None
    assert form.parts[1].file_name in ("image.nii.gz", "image.nii", "image.nrrd", "image.png")


@pytest.mark.parametrize("name", ["scan", "scan.exe", "scan.gz", ".nii.gz.zip"])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    with pytest.raises(errors.ClientError, match="not an image file"):
        calls.start_job("tiny", "liver", file=tmp_path / name)


@pytest.mark.parametrize(
    "names", [{}, {"liver": 0}, {"liver": 1, "spleen": 1}, {"liver": -1}, {"liver": True}, {"liver": 1.0}]
)
def test_a_label_map_without_proper_names_is_not_submitted(tmp_path, names):
    with pytest.raises(errors.ClientError, match="a name for each of its values"):
        calls.submit_label("x", tmp_path / "labels.nii.gz", names)


@pytest.mark.parametrize("image_and_file", [("", None), ("ct", Path("x.nii"))])
def test_a_job_is_about_one_image(image_and_file):
    image, file = image_and_file
    with pytest.raises(errors.ClientError, match="choose one"):
        calls.start_job("tiny", "liver", image=image, file=file)


# --- answers ---

SUGGESTION = {
    "word": "liver",
    "matched": "hepar",
    "kind": "synonym",
    "synonyms": ["hepar"],
    "trained": None,
    "modalities": ["CT"],
}
NEXT = {
    "case": "ct",
    "strategy": "first",
    "words": ["liver"],
    "reason": "The first.",
    "score": None,
    "preview": job_status(),
}
EXAMPLES: list[tuple[Any, Any]] = [
    (
        answers.ServerInfo.from_json,
        {"name": "WordMask", "models": {"a": {}}, "datastore": {"total": 3, "completed": 1}},
    ),
    (answers.Health.from_json, health()),
    (
        answers.ModelInfo.from_json,
        {"name": "a", "trained_words": ["liver"], "versions": [{"number": 1, "served": True, "card": {}}]},
    ),
    (
        answers.Suggestion.from_json,
        {**SUGGESTION, "color": [1, 2, 3], "code": {"scheme": "SCT", "value": "1", "meaning": "x"}},
    ),
    (
        answers.images_from_json,
        {"objects": {"ct": {"image": {"ext": ".nii", "info": {}}, "labels": {"final": {"ext": ".nii"}}}}},
    ),
    (job_answers.JobStatus.from_json, job_status("running", done=3, seconds=1.5)),
    (
        job_answers.JobResult.from_json,
        {"label_names": {"liver": 1}, "statistics": {"liver": {"voxels": 4, "presence": 0.5}}},
    ),
    (
        job_answers.TrainingState.from_json,
        {"state": "running", "done": 1, "total": 4, "dice": 0.5, "loss": None},
    ),
    (
        job_answers.NextCase.from_json,
        {**NEXT, "skipped": [{"case": "x", "reason": "y"}], "scores": {"unlabelled": 3}},
    ),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places_in(found: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return [path, *(place for key, value in inner for place in places_in(value, (*path, key)))]


@pytest.mark.parametrize(("read", "example"), EXAMPLES, ids=lambda value: getattr(value, "__qualname__", ""))
@given(data=st.data())
def test_an_answer_with_anything_in_any_place_is_read_or_refused(read, example, data):
    read(example)
    place = data.draw(st.sampled_from(places_in(example)))
    changed = json.loads(json.dumps(example))
    if not place:
        changed = data.draw(JSON)
    else:
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = data.draw(JSON)
    with contextlib.suppress(ValueError):
        read(changed)


def test_what_is_left_of_a_job_is_estimated_from_its_pace():
    running = job_answers.JobStatus.from_json(job_status("running", done=2, total=10, seconds=4.0))
    assert running.seconds_left == 16.0
    waiting = job_answers.JobStatus.from_json(job_status())
    assert waiting.seconds_left is None
    assert not waiting.final


def test_a_training_tells_means_while_it_runs_and_a_table_at_its_end():
    running = job_answers.TrainingState.from_json({"state": "running", "dice": 0.5, "dice_before": 0.4})
    report = {
        "state": "done",
        "dice": {"liver": 0.7},
        "mean": 0.7,
        "dice_before": {},
        "mean_before": None,
        "version": 3,
    }
    done = job_answers.TrainingState.from_json(report)
    assert (running.dice, running.dice_before) == (0.5, 0.4)
    assert (done.dice, done.dice_before, done.version) == (0.7, None, 3)


@given(st.text())
def test_what_a_server_says_becomes_one_printable_line_or_nothing(text):
    sentence = errors.as_sentence(text)
    assert "\n" not in sentence
    assert len(sentence) <= errors.LONGEST_SENTENCE + 1
    assert not sentence or sentence[-1] in ".!?…"


def test_every_failure_of_a_transport_has_a_sentence():
    address = repair_address("localhost")
    for kind in ("refused", "closed", "unknown host", "timeout", "certificate", "no tls", "tls", "another"):
        assert str(errors.network_error(kind, address)).endswith(".")
