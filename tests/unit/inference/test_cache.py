"""The feature cache: what is computed once, what is dropped, what happens when threads meet, files break or
the disk is full.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wordmask.inference import cache as cache_module
from wordmask.inference.cache import CacheKey, FeatureCache

SLICE_BYTES = 10 * 4 * 2  # what `a_feature` takes in float16
BIG = 1 << 20
PATIENCE = 120.0  # seconds, after which something hangs


def a_key(index: int) -> CacheKey:
    return CacheKey("d", "axial", index, window="soft_tissue 40/400", encoder="e")


def a_feature(index: int) -> dict[str, Tensor]:
    return {"clip": torch.randn(10, 4, generator=torch.Generator().manual_seed(index))}


class Encoder:
    """Counts what it computes."""

    def __init__(self) -> None:
        self.computed: list[int] = []

    def __call__(self, index: int) -> dict[str, Tensor]:
        self.computed.append(index)
        return a_feature(index)

    def ask(self, cache: FeatureCache, index: int) -> Tensor:
        return cache.get_or_compute(a_key(index), lambda: self(index))["clip"]


@pytest.fixture
def an_encoder() -> Encoder:
    return Encoder()


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_the_second_time_nothing_is_computed(an_encoder):
    cache = FeatureCache(BIG)
    first, second = an_encoder.ask(cache, 3), an_encoder.ask(cache, 3)
    assert an_encoder.computed == [3]
    assert torch.equal(first, second)
    assert (cache.hits, cache.misses, cache.bytes, len(cache)) == (1, 1, SLICE_BYTES, 1)


@pytest.mark.parametrize("field", ["digest", "plane", "index", "window", "encoder"])
def test_every_part_of_the_key_counts(field, tmp_path):
    changed = replace(a_key(3), **{field: 4 if field == "index" else "other"})
    for directory in (None, tmp_path):
        cache = FeatureCache(0 if directory else BIG, directory)
        cache.get_or_compute(a_key(3), lambda: a_feature(3))
        served = cache.get_or_compute(changed, lambda: a_feature(99))["clip"]
        assert torch.equal(served, a_feature(99)["clip"].half())


def test_the_slice_used_longest_ago_is_dropped_first(an_encoder):
    cache = FeatureCache(2 * SLICE_BYTES + 1)
    for index in (1, 2, 1, 3):
        an_encoder.ask(cache, index)
    assert (cache.bytes, len(cache)) == (2 * SLICE_BYTES, 2)
    an_encoder.ask(cache, 1)
    an_encoder.ask(cache, 2)
    assert an_encoder.computed == [1, 2, 3, 2]


def test_what_is_larger_than_the_memory_is_served_and_not_kept(an_encoder):
    cache = FeatureCache(SLICE_BYTES - 1)
    assert torch.equal(an_encoder.ask(cache, 1), an_encoder.ask(cache, 1))
    assert (an_encoder.computed, cache.bytes, len(cache)) == ([1, 1], 0, 0)


def test_a_row_of_a_batch_does_not_hold_on_to_the_batch():
    batch = torch.zeros(64, 10, 4, dtype=torch.float16)
    kept = FeatureCache(BIG).get_or_compute(a_key(1), lambda: {"clip": batch[0]})["clip"]
    assert kept.untyped_storage().nbytes() == SLICE_BYTES


def test_features_are_the_same_when_computed_when_from_memory_and_when_from_disk(tmp_path):
    exact = {
        "x": torch.tensor([1 / 3, -0.0, 1e-6, 70000.0, torch.inf]),
        "y": torch.randn(2, 3),
        "n": torch.tensor(7),
        "b": torch.tensor([True]),
    }
    first = FeatureCache(BIG, tmp_path)
    served = [first.get_or_compute(a_key(1), lambda: exact), first.get_or_compute(a_key(1), dict)]
    served.append(FeatureCache(BIG, tmp_path).get_or_compute(a_key(1), dict))
    for features in served:
        assert {name: tensor.dtype for name, tensor in features.items()} == {
            "x": torch.float32,  # 70000 has no float16
            "y": torch.float16,
            "n": torch.int64,
            "b": torch.bool,
        }
        assert torch.equal(features["y"], exact["y"].half())
        assert all(torch.equal(features[name], exact[name]) for name in ("x", "n", "b"))


def test_many_slices_come_in_order_and_only_the_missing_are_computed_each_once():
    cache = FeatureCache(BIG)
    cache.get_or_compute(a_key(1), lambda: a_feature(1))
    asked: list[list[int]] = []

    def compute(positions: list[int]) -> list[dict[str, Tensor]]:
        asked.append(positions)
        return [a_feature(indices[i]) for i in positions]

    indices = [2, 1, 0, 2, 5]
    served = cache.get_many([a_key(i) for i in indices], compute)
    assert asked == [[0, 2, 4]]
    assert all(
        torch.equal(features["clip"], a_feature(i)["clip"].half())
        for i, features in zip(indices, served, strict=True)
    )
    assert (cache.hits, cache.misses) == (1, 4)


def test_too_few_features_for_the_missing_slices_are_an_error_and_block_nobody():
    cache = FeatureCache(BIG)
    with pytest.raises(ValueError, match="zip"):
        cache.get_many([a_key(1), a_key(2)], lambda _: [a_feature(1)])
    assert torch.equal(
        cache.get_or_compute(a_key(2), lambda: a_feature(2))["clip"], a_feature(2)["clip"].half()
    )


def test_threads_that_want_one_slice_compute_it_once(an_encoder):
    cache = FeatureCache(BIG)
    gate = threading.Barrier(8)

    def work(_: int) -> Tensor:
        gate.wait()
        return cache.get_or_compute(a_key(1), lambda: (time.sleep(0.05), an_encoder(1))[1])["clip"]

    with ThreadPoolExecutor(8) as pool:
        served = list(pool.map(work, range(8)))
    assert an_encoder.computed == [1]
    assert all(torch.equal(tensor, served[0]) for tensor in served)
    assert (cache.hits, cache.misses) == (7, 1)


def test_crossing_requests_of_many_threads_end_and_compute_each_slice_once():
    cache, lock, computed = FeatureCache(BIG), threading.Lock(), []

    def work(shift: int) -> bool:
        indices = [(shift * 7 + i * (1 if shift % 2 else -1)) % 20 for i in range(12)]

        def compute(positions: list[int]) -> list[dict[str, Tensor]]:
            time.sleep(0.002)
            with lock:
                computed.extend(indices[i] for i in positions)
            return [a_feature(indices[i]) for i in positions]

        served = cache.get_many([a_key(i) for i in indices], compute)
        return all(
            torch.equal(f["clip"], a_feature(i)["clip"].half()) for i, f in zip(indices, served, strict=True)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(24), timeout=PATIENCE))
    assert sorted(computed) == list(range(20))


def test_a_failed_computation_reaches_its_caller_and_the_one_who_waited_computes_for_itself(an_encoder):
    cache, begun, fail = FeatureCache(BIG), threading.Event(), threading.Event()

    def failing() -> dict[str, Tensor]:
        begun.set()
        assert fail.wait(PATIENCE)
        raise RuntimeError("cancelled")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get_or_compute, a_key(1), failing)
        assert begun.wait(PATIENCE)
        second = pool.submit(an_encoder.ask, cache, 1)
        time.sleep(0.02)
        assert not second.done()
        fail.set()
        with pytest.raises(RuntimeError, match="cancelled"):
            first.result(timeout=PATIENCE)
        assert torch.equal(second.result(timeout=PATIENCE), a_feature(1)["clip"].half())
    assert an_encoder.computed == [1]


def test_another_process_finds_on_disk_what_the_first_one_computed(tmp_path, an_encoder):
    first = FeatureCache(BIG, tmp_path / "new" / "folder")
    an_encoder.ask(first, 1)
    second = FeatureCache(BIG, tmp_path / "new" / "folder")
    assert first.disk_bytes == second.disk_bytes == files(tmp_path / "new" / "folder")[0].stat().st_size
    assert torch.equal(an_encoder.ask(second, 1), a_feature(1)["clip"].half())
    assert (an_encoder.computed, second.hits, second.misses) == ([1], 1, 0)


def test_files_on_disk_are_for_their_owner_alone(tmp_path, an_encoder):
    an_encoder.ask(FeatureCache(BIG, tmp_path / "features"), 1)
    assert (tmp_path / "features").stat().st_mode & 0o077 == 0
    assert files(tmp_path / "features")[0].stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"not a file of ours " * 100,
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],  # one bit of a value
        lambda data: data.replace(b'"clip"', b'"clap"'),
        lambda data: data.replace(b"[10,4]", b"[4,10]"),
        lambda data: data.replace(b"axial", b"axiaL"),  # a file of another key under this name
        lambda data: data.replace(b"__metadata__", b"__metadatb__"),
    ],
)
def test_a_damaged_file_is_discarded_and_computed_again(tmp_path, an_encoder, damage, caplog):
    an_encoder.ask(FeatureCache(BIG, tmp_path), 1)
    path = files(tmp_path)[0]
    whole = path.read_bytes()
    assert damage(whole) != whole
    path.write_bytes(damage(whole))
    cache = FeatureCache(BIG, tmp_path)
    assert torch.equal(an_encoder.ask(cache, 1), a_feature(1)["clip"].half())
    assert (an_encoder.computed, cache.misses) == ([1, 1], 1)
    assert cache.disk_bytes == len(path.read_bytes()) == len(whole)
    assert torch.equal(an_encoder.ask(FeatureCache(BIG, tmp_path), 1), a_feature(1)["clip"].half())
    assert an_encoder.computed == [1, 1]
    assert "are damaged" in caplog.text
    assert str(tmp_path) not in caplog.text


def test_features_of_another_format_are_computed_again(tmp_path, an_encoder, monkeypatch):
    an_encoder.ask(FeatureCache(BIG, tmp_path), 1)
    monkeypatch.setattr(cache_module, "FORMAT", "next")
    an_encoder.ask(FeatureCache(BIG, tmp_path), 1)
    assert an_encoder.computed == [1, 1]


def test_the_folder_stays_within_its_bytes_and_keeps_what_was_used_last(tmp_path, an_encoder):
    an_encoder.ask(FeatureCache(0, tmp_path), 0)
    size = files(tmp_path)[0].stat().st_size
    cache = FeatureCache(0, tmp_path, max_disk_bytes=4 * size + 10)
    for step, index in enumerate([1, 2, 3, 0]):  # 0 is read again
        for path in files(tmp_path):
            status = path.stat()
            os.utime(path, (status.st_atime, status.st_mtime - 100))  # time goes by
        an_encoder.ask(cache, index)
        assert len(files(tmp_path)) == min(step + 2, 4)
    an_encoder.ask(cache, 4)
    assert cache.disk_bytes == sum(path.stat().st_size for path in files(tmp_path)) <= 4 * size + 10
    before = len(an_encoder.computed)
    an_encoder.ask(cache, 0)
    an_encoder.ask(cache, 4)
    assert len(an_encoder.computed) == before
    an_encoder.ask(cache, 1)
    assert an_encoder.computed[before:] == [1]


def test_files_that_another_process_wrote_count_towards_the_bound(tmp_path, an_encoder):
    bounded = FeatureCache(0, tmp_path, max_disk_bytes=BIG)
    for index in range(5):
        an_encoder.ask(FeatureCache(0, tmp_path), index)
    bounded._disk.max_bytes = 1
    an_encoder.ask(bounded, 9)
    assert files(tmp_path) == []
    assert bounded.disk_bytes == 0


def test_a_full_disk_costs_one_warning_and_no_result(tmp_path, an_encoder, monkeypatch, caplog):
    cache = FeatureCache(BIG, tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(cache_module.os, "replace", full)
        for index in (1, 2, 1):
            assert torch.equal(an_encoder.ask(cache, index), a_feature(index)["clip"].half())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left" in caplog.text
    assert (an_encoder.computed, cache.disk_bytes, os.listdir(tmp_path)) == ([1, 2], 0, [])
    an_encoder.ask(cache, 3)
    assert len(files(tmp_path)) == 1


def test_a_folder_that_cannot_be_made_costs_a_warning_and_no_result(tmp_path, an_encoder, caplog):
    (tmp_path / "a_file").write_text("in the way")
    cache = FeatureCache(BIG, tmp_path / "a_file" / "features")
    assert torch.equal(an_encoder.ask(cache, 1), an_encoder.ask(cache, 1))
    assert an_encoder.computed == [1]
    assert "cannot be used" in caplog.text


def test_leftovers_of_a_process_that_died_are_cleared_and_fresh_ones_left_alone(tmp_path):
    old, fresh = tmp_path / "old.tmp", tmp_path / "fresh.tmp"
    old.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(old, (1, 1))
    FeatureCache(BIG, tmp_path)
    assert os.listdir(tmp_path) == ["fresh.tmp"]


@pytest.mark.parametrize(("memory", "disk"), [(-1, None), (1, -1)])
def test_a_cache_of_less_than_nothing_is_refused(memory, disk):
    with pytest.raises(ValueError, match="must not be negative"):
        FeatureCache(memory, None, disk)
