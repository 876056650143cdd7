"""A cache of the features of slices, so that the next word costs only what depends on the word.

What the cache returns never depends on where it was kept: features are rounded to float16 before their first
use, and a key holds everything that they depend on. Knows keys, tensors by name, bytes and one folder; not
models, volumes or words.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from wordmask.files import replace_file

logger = logging.getLogger(__name__)

Features = dict[str, Tensor]
# Part of every file: raise it when the content of the files changes, and old files are computed again.
FORMAT = "1"
SUFFIX = ".safetensors"
FRESH = 3600.0  # seconds: a temporary file older than this belongs to a process that died


@dataclass(frozen=True)
class CacheKey:
    """All that the features of one slice depend on.

    Attributes:
        digest: of the volume's voxels and geometry.
        plane: along which the volume is cut.
        index: of the slice along this plane.
        window: how grey values became 0..1, with level and width, because a window's name alone could later
            mean another window.
        encoder: fingerprint of architecture and weights.
    """

    digest: str
    plane: str
    index: int
    window: str | None
    encoder: str


Found = dict[CacheKey, Features]
Running = dict[CacheKey, "Future[Features | None]"]


class FeatureCache:
    """A byte-bounded store of features that drops the least recently used ones first.

    Features are on the CPU, floating point rounded to float16 (float32 where a value would not fit); do not
    change them in place. A folder that cannot be used, a full disk or a damaged file costs a warning in the
    log and time, never a result. Every method may be called from any thread.

    Args:
        max_bytes: bound in memory.
        directory: also keep features there, for the next process.
        max_disk_bytes: bound in this folder; None for no bound.

    Raises:
        ValueError: a bound is negative.

    Example:
        >>> cache = FeatureCache(2 * 1024**3)
        >>> hidden = cache.get_or_compute(key, lambda: {"clip": clip.head(pixels, layer)[0]})["clip"].float()
    """

    def __init__(
        self, max_bytes: int, directory: str | Path | None = None, max_disk_bytes: int | None = None
    ) -> None:
        if max_bytes < 0 or (max_disk_bytes is not None and max_disk_bytes < 0):
            raise ValueError(
                f"The bounds of a cache must not be negative, got {max_bytes} bytes in memory and "
                f"{max_disk_bytes} on disk."
            )
        self.max_bytes = max_bytes
        self.bytes = 0  # in memory now
        # Served without computing: from memory, from disk, or from a computation that another thread had
        # begun.
        self.hits = 0
        self.misses = 0  # computed
        self._lock = threading.Lock()
        self._kept: OrderedDict[CacheKey, Features] = OrderedDict()
        self._running: dict[CacheKey, Future[Features | None]] = {}
        self._disk = None if directory is None else _Folder(Path(directory), max_disk_bytes)

    def __len__(self) -> int:
        """How many slices are in memory."""
        return len(self._kept)

    @property
    def disk_bytes(self) -> int:
        """Bytes in the folder, as far as this process knows; 0 without a folder."""
        return 0 if self._disk is None else self._disk.bytes

    def statistics(self) -> dict[str, int]:
        """Figures of this process for monitoring.

        Returns:
            bytes (in memory), max_bytes, disk_bytes, slices (in memory), hits (served) and misses (computed).
        """
        with self._lock:
            return {
                "bytes": self.bytes,
                "max_bytes": self.max_bytes,
                "disk_bytes": self.disk_bytes,
                "slices": len(self._kept),
                "hits": self.hits,
                "misses": self.misses,
            }

    def get_or_compute(self, key: CacheKey, compute: Callable[[], Mapping[str, Tensor]]) -> Features:
        """Return the features of one slice, computed by ``compute`` if they are not there; see `get_many`."""
        return self.get_many([key], lambda _: [compute()])[0]

    def get_many(
        self, keys: Sequence[CacheKey], compute_missing: Callable[[list[int]], Sequence[Mapping[str, Tensor]]]
    ) -> list[Features]:
        """Return the features of many slices, in the order of the keys.

        Args:
            keys: of the slices.
            compute_missing: gets the positions in ``keys`` of missing features and returns as many features.
                It is called at most once for a key, also when several threads ask for that key at the same
                time: the others wait. It must not ask this cache for any of these keys. An exception reaches
                its own caller only; threads that waited compute the features themselves.
        """
        position: dict[CacheKey, int] = {}
        for i, key in enumerate(keys):
            position.setdefault(key, i)
        found: Found = {}
        while wanted := [key for key in position if key not in found]:
            mine, theirs = self._claim(wanted, found)
            # Own work first, then waiting: two threads that each need what the other computes cannot block
            # each other.
            if mine:
                found |= self._fulfil(
                    mine, lambda missing: compute_missing([position[key] for key in missing])
                )
            for key, future in theirs.items():
                features = future.result()
                if features is not None:  # else its owner failed, and the next round claims it
                    found[key] = features
                    with self._lock:
                        self.hits += 1
        return [dict(found[key]) for key in keys]

    def _claim(self, wanted: Iterable[CacheKey], found: Found) -> tuple[Running, Running]:
        """Put the features that are in memory into ``found``.

        Returns:
            The keys that this thread must provide, and those that another thread is about to provide.
        """
        mine: Running = {}
        theirs: Running = {}
        with self._lock:
            for key in wanted:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    self.hits += 1
                    found[key] = self._kept[key]
                elif key in self._running:
                    theirs[key] = self._running[key]
                else:
                    mine[key] = self._running[key] = Future()
        return mine, theirs

    def _fulfil(
        self, mine: Running, compute: Callable[[list[CacheKey]], Sequence[Mapping[str, Tensor]]]
    ) -> Found:
        """Read features from disk or compute them, keep them, and hand them to waiting threads.

        Waiting threads get None for features that could not be computed.
        """
        ready: Found = {}
        try:
            if self._disk is not None:
                ready = {key: features for key in mine if (features := self._disk.read(key)) is not None}
            missing = [key for key in mine if key not in ready]
            with self._lock:
                self.hits += len(ready)
                self.misses += len(missing)
            if missing:
                computed = {
                    key: _compact(features) for key, features in zip(missing, compute(missing), strict=True)
                }
                ready |= computed
                if self._disk is not None:
                    self._disk.write(computed)
        finally:
            with self._lock:
                for key in mine:
                    del self._running[key]
                    if key in ready:
                        self._keep(key, ready[key])
            for key, future in mine.items():
                future.set_result(ready.get(key))
        return ready

    def _keep(self, key: CacheKey, features: Features) -> None:
        """Put one slice into memory and drop those used longest ago; call it with the lock held."""
        self._kept[key] = features
        self.bytes += _size(features)
        while self.bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.bytes -= _size(dropped)


class _Folder:
    """One file per slice, written whole or not at all, checked when read; several processes may share it."""

    def __init__(self, path: Path, max_bytes: int | None) -> None:
        self.path, self.max_bytes = path, max_bytes
        self.bytes = 0
        self._lock = threading.Lock()
        self._complained = False
        try:
            # Features are derived from patients' images, so only the owner may read them.
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._clear_leftovers()
            self.bytes = sum(size for _, _, size in self._files())
        except OSError as error:
            self._complain("cannot be used", error)

    def read(self, key: CacheKey) -> Features | None:
        """Return the features that were written for a key; None when there are none.

        A damaged file is removed.
        """
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._complain("cannot be read", error)
            return None
        try:
            features = _decode(key, data)
        except (SafetensorError, ValueError) as error:
            logger.warning(
                "The cached features in %s are damaged (%s); they are computed again.", path.name, error
            )
            self._remove(path, len(data))
            return None
        # The time of the last use decides what is dropped first; a read-only folder works, too.
        with suppress(OSError):
            os.utime(path)
        return features

    def write(self, found: Found) -> None:
        """Write features; raises nothing, because a folder that fails must not lose the features."""
        try:
            for key, features in found.items():
                self._replace(self._path(key), _encode(key, features))
        except OSError as error:
            self._complain("cannot be written", error)
        else:
            self._complained = False
        if self.max_bytes is not None and self.bytes > self.max_bytes:
            self._shrink(self.max_bytes)

    def _path(self, key: CacheKey) -> Path:
        return self.path / (hashlib.sha256(_key_text(key).encode()).hexdigest() + SUFFIX)

    def _replace(self, path: Path, data: bytes) -> None:
        with replace_file(path, durable=False) as part:
            part.touch(mode=0o600)  # features of patients are private
            part.write_bytes(data)
            old = path.stat().st_size if path.exists() else 0
        with self._lock:
            self.bytes += len(data) - old

    def _files(self) -> list[tuple[float, Path, int]]:
        """(time of last use, path, size) of every file of all processes, longest unused first."""
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    try:
                        status = entry.stat()
                    except FileNotFoundError:  # another process dropped it just now
                        continue
                    found.append((status.st_mtime, Path(entry.path), status.st_size))
        return sorted(found)

    def _shrink(self, limit: int) -> None:
        """Remove the files used longest ago, down to nine tenths of the limit.

        The tenth is room for the next writes, so that not every write lists the folder.
        """
        try:
            files = self._files()
            with self._lock:
                self.bytes = sum(size for _, _, size in files)
            for _, path, size in files:
                if self.bytes <= 0.9 * limit:
                    break
                self._remove(path, size)
        except OSError as error:
            self._complain("cannot be cleaned", error)

    def _remove(self, path: Path, size: int) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._complain("cannot be cleaned", error)
            return
        with self._lock:
            self.bytes -= size

    def _clear_leftovers(self) -> None:
        for path in self.path.glob("*.tmp"):
            with suppress(FileNotFoundError):  # another process that starts now clears them too
                if time.time() - path.stat().st_mtime > FRESH:
                    path.unlink()

    def _complain(self, what: str, error: OSError) -> None:
        """Warn once instead of for every slice; again when the folder has worked in between."""
        if not self._complained:
            logger.warning(
                "The folder for cached features %s (%s); missing features are computed again.",
                what,
                error.strerror,
            )
        self._complained = True


def _compact(features: Mapping[str, Tensor]) -> Features:
    """Copies on the CPU, so that a row does not keep its whole batch in memory; floating point as float16."""
    return {
        name: _half(tensor.detach()).to("cpu", copy=True).contiguous() for name, tensor in features.items()
    }


def _half(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    half = tensor.to(torch.float16)
    # A hidden state may hold single values above 65504, which would become infinite in float16: such a tensor
    # is kept in float32.
    return half if bool((half.isfinite() | ~tensor.isfinite()).all()) else tensor.to(torch.float32)


def _size(features: Features) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in features.values())


def _key_text(key: CacheKey) -> str:
    return json.dumps(asdict(key), sort_keys=True)


def _labels(key: CacheKey, features: Features) -> dict[str, str]:
    """A file's metadata: whose features these are, and a checksum, because safetensors has none."""
    checksum = 0
    for name in sorted(features):
        tensor = features[name]
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return {"format": FORMAT, "key": _key_text(key), "crc32": f"{checksum:08x}"}


def _encode(key: CacheKey, features: Features) -> bytes:
    return save(features, metadata=_labels(key, features))


def _decode(key: CacheKey, data: bytes) -> Features:
    """Read a file's content; SafetensorError or ValueError: `_encode` did not write it for this key."""
    features = load(data)
    # Valid JSON, or `load` would have raised.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if header.get("__metadata__") != _labels(key, features):
        raise ValueError("its checksum or key differs")
    return features
