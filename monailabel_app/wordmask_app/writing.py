"""The volume that was asked for, as a file. Knows segmentations and formats; not jobs, not HTTP."""

from __future__ import annotations

from pathlib import Path

from wordmask.result import Segmentation
from wordmask.volumes import write_label_map, write_scalar_map
from wordmask_app.requests import InferRequest


def write_result(segmentation: Segmentation, asked: InferRequest, path: Path) -> Path:
    """Write what was asked for to ``path``, whose ending says how; the file is removed when writing fails (VolumeError, OSError)."""
    try:
        if asked.output_volume == "labels":
            write_label_map(path, segmentation.labels, segmentation.geometry, compress=asked.compress, dtype=asked.dtype)
        else:
            (values,) = segmentation.maps[asked.output_volume].values()  # one word: InferRequest sees to it
            write_scalar_map(path, values, segmentation.geometry, compress=asked.compress)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path
