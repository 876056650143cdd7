"""The images that were read last, so that a click does not wait for a file to be unpacked again.

Knows files and volumes; not requests.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from wordmask.data.volumes import Volume, read_volume

KEPT = 2  # images
MOST_BYTES = 1 << 30  # of all of them; a larger image is not kept


class RecentVolumes:
    """Reads images, and keeps the last ones; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int, int], Volume] = OrderedDict()

    def read(self, path: Path, *, max_voxels: int) -> Volume:
        """An image, read again only if its file has changed.

        Args:
            path: of a file, or a folder with a DICOM series, which is always read again.
            max_voxels: how many are accepted.

        Raises:
            VolumeError, TooLargeError, OutOfMemoryError: as `read_volume`.
        """
        if not path.is_file():
            return read_volume(path, max_voxels=max_voxels)
        status = path.stat()
        key = (str(path), status.st_mtime_ns, status.st_size)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        volume = read_volume(path, max_voxels=max_voxels)
        with self._lock:
            self._kept[key] = volume
            while len(self._kept) > KEPT or sum(one.array.nbytes for one in self._kept.values()) > MOST_BYTES:
                self._kept.popitem(last=False)
        return volume
