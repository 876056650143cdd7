"""What the HTTP client makes of the server's answers, and of a server that does not come up."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from requests_toolbelt import MultipartEncoder

from wordmask.demo.client import AppClient, ServerError, free_port, parse_answer, running_server


@pytest.mark.parametrize(
    "content", [b"", b"\r\n", b"\n\n", b"--", b"\x1f\x8b\r\n--\r\n\r\n\x00\xff\r", bytes(range(256)) * 9]
)
def test_a_file_in_an_answer_arrives_byte_for_byte(content: bytes) -> None:
    """MONAI Label builds its answers with this encoder."""
    encoder = MultipartEncoder(
        fields={
            "params": (None, json.dumps({"label_names": {"liver": 1}}), "application/json"),
            "image": ("labels.nii.gz", io.BytesIO(content), "application/gzip"),
        }
    )
    fields, file, name = parse_answer({"content-type": encoder.content_type}, encoder.to_string())
    assert fields == {"label_names": {"liver": 1}}
    assert (file, name) == (content, "labels.nii.gz")


def test_an_answer_may_be_json_alone_or_a_file_alone() -> None:
    assert parse_answer({"content-type": "application/json"}, b'{"a": 1}') == ({"a": 1}, None, None)
    head = {"content-type": "application/gzip", "content-disposition": 'attachment; filename="mask.nii.gz"'}
    assert parse_answer(head, b"\x1f\x8b") == ({}, b"\x1f\x8b", "mask.nii.gz")


def test_a_server_that_cannot_start_is_reported_with_its_reason_and_the_end_of_its_log(
    tmp_path: Path,
) -> None:
    with (
        pytest.raises(
            ServerError, match=r"(?s)before it was ready\. There is no studies folder .*\n.*is starting"
        ),
        running_server(tmp_path / "app", tmp_path / "studies", log=tmp_path / "log"),
    ):
        pass


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ServerError, match="is the server running") as refusal:
        AppClient(f"http://127.0.0.1:{free_port()}").info()
    assert refusal.value.status is None
