"""Files that the client receives and sends: whole or not at all, never in memory as a whole, and a sentence
for each that breaks on its way.
"""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from tests.slicer.fault_server import (
    HTML,
    MULTIPART,
    PATIENCE,
    QUICK,
    SENT,
    WHOLE,
    Caller,
    a_closed_port,
    client,
    everything_in,
    fault_server,
    hangs_up_during_upload,
    head,
    is_a_sentence,
    outcome,
    result_body,
    sends,
    trickles,
)
from WordMaskLib.client import calls, errors

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


def test_a_slow_file_is_waited_for_as_long_as_it_comes(tmp_path):
    body = result_body(b"voxels")
    answer = head(Content_Type=MULTIPART, Content_Length=str(len(body))) + body
    with fault_server(
        trickles(answer, 0.1, at_once=len(answer) - 32)
    ) as server:  # longer than the time-out, in small steps
        found = client(server.url, timeout=3.0).run(calls.job_result("0123", tmp_path))
    assert found.path.read_bytes() == b"voxels"


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
