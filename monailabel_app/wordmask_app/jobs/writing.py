"""The volume that was asked for, as a file. Knows segmentations and formats; not jobs, not HTTP."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordmask.data.geometry import Geometry
from wordmask.data.volumes import write_label_map, write_scalar_map
from wordmask.errors import DiskFullError, VolumeError
from wordmask.inference.result import Segmentation
from wordmask_app.jobs.requests import InferRequest

LEAST_ROOM = 1 << 20  # bytes; with less, a failure to write is one of space


def write_result(segmentation: Segmentation, request: InferRequest, path: Path) -> Path:
    """Write the requested volume to ``path``, whose ending decides the format.

    Raises:
        VolumeError: writing failed; the file is removed.
        DiskFullError: likewise, because the disk is full.
    """
    with _or_nothing(path):
        if request.output_volume == "labels":
            write_label_map(
                path,
                segmentation.labels,
                segmentation.geometry,
                compress=request.compress,
                dtype=request.dtype,
            )
        else:
            (values,) = segmentation.maps[request.output_volume].values()  # one word: InferRequest sees to it
            write_scalar_map(path, values, segmentation.geometry, compress=request.compress)
    return path


def write_part(path: Path, labels: NDArray[np.uint8], geometry: Geometry) -> None:
    """Write a label map [k, j, i] of a part of an image; raises as `write_result`."""
    with _or_nothing(path):
        write_label_map(path, labels, geometry)


@contextmanager
def _or_nothing(path: Path) -> Iterator[None]:
    """Remove the file when writing it fails, and say so when the reason is the disk."""
    try:
        yield
    except BaseException as error:
        path.unlink(missing_ok=True)
        # ITK does not say why it failed.
        no_room = isinstance(error, VolumeError) and shutil.disk_usage(path.parent).free < LEAST_ROOM
        if no_room or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
            raise DiskFullError(
                "The server's disk is full, so nothing was kept; free some space and send the request again."
            ) from None
        raise
