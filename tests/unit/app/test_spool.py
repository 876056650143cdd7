"""The folder for files of requests: one server only, bounded, and empty after a crash."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from wordmask.errors import RequestError, TooLargeError
from wordmask_app.jobs.spool import Spool


def test_a_second_server_is_refused_until_the_first_one_ends(tmp_path: Path):
    first, second = Spool(tmp_path / "spool", upload_bytes=100), Spool(tmp_path / "spool", upload_bytes=100)
    first.claim()
    with pytest.raises(RequestError, match="Another server"):
        second.claim()
    first.release()
    second.claim()


def test_what_a_dead_server_left_is_removed_at_the_start(tmp_path: Path):
    dead = Spool(tmp_path / "spool", upload_bytes=100)
    left = dead.keep(io.BytesIO(b"abc"), ".nii")
    Spool(tmp_path / "spool", upload_bytes=100).claim()
    assert not left.exists()


def test_an_upload_is_kept_as_it_came_for_the_owner_only(tmp_path: Path):
    spool = Spool(tmp_path / "spool", upload_bytes=100)
    path = spool.keep(io.BytesIO(b"abc"), ".nii.gz")
    assert path.read_bytes() == b"abc"
    assert path.name.endswith(".nii.gz")
    assert path.stat().st_mode & 0o077 == spool.folder.stat().st_mode & 0o077 == 0


def test_one_upload_and_all_together_are_bounded(tmp_path: Path):
    spool = Spool(tmp_path / "spool", upload_bytes=100)
    with pytest.raises(TooLargeError):
        spool.keep(io.BytesIO(b"0" * 101), ".nii")
    kept = [spool.keep(io.BytesIO(b"0" * 100), ".nii") for _ in range(2)]
    with pytest.raises(TooLargeError):
        spool.keep(io.BytesIO(b"0"), ".nii")
    kept[0].unlink()
    spool.keep(io.BytesIO(b"0" * 100), ".nii")
    assert len(list(spool.folder.glob("upload-*"))) == 2
