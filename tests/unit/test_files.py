"""A file is the old one or the new one, whatever happens while it is written."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from wordmask.files import PART, PREFIX, remove_leftovers, replace_file, replace_text, sha256_of


def test_the_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "state.json"
    replace_text(path, "old")
    replace_text(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "state.json"
    replace_text(path, "old")

    def write_half() -> None:
        with replace_file(path) as part:
            part.write_text("half of the n")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_a_failing_disk_is_noticed_before_the_old_content_is_replaced(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    replace_text(path, "old")

    def fail(_handle: int) -> None:
        raise OSError("the disk fails")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="fails"):
        replace_text(path, "new")
    assert path.read_text() == "old"


def test_two_writers_do_not_share_a_hidden_file(tmp_path):
    path = tmp_path / "picture.png"
    with (
        replace_file(path, ending=".png", durable=False) as one,
        replace_file(path, ending=".png", durable=False) as other,
    ):
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / f"{PREFIX}0123{PART}").write_text("left")
    (tmp_path / "kept.part").write_text("kept")
    remove_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.part"]


def test_the_digest_is_that_of_the_content(tmp_path: Path):
    path = tmp_path / "weights"
    path.write_bytes(b"x" * 5_000_000)
    seen: list[tuple[int, int]] = []
    assert (
        sha256_of(path, lambda done, size: seen.append((done, size)))
        == hashlib.sha256(b"x" * 5_000_000).hexdigest()
    )
    assert seen[-1] == (5_000_000, 5_000_000)
