"""Pictures of a tuning on the disk, and the batches of an epoch.

Knows pairs, pixels and seeds; not models. Twenty thousand pictures of CLIP's size are 3 GB: they are kept as
bytes in one file that the system pages in and out.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from wordmask.data.letterbox import Letterbox
from wordmask.errors import DiskFullError
from wordmask.files import replace_file
from wordmask.learning.captions import ImageCaption, read_pictures
from wordmask.progress import CancelToken

Bytes = NDArray[np.uint8]


def store_pictures(
    path: Path,
    pairs: Sequence[ImageCaption],
    size: int,
    windows: Sequence[str],
    report: Callable[[int, int], None],
    cancel: CancelToken,
) -> Bytes:
    """Prepare each picture for CLIP: the whole of it, centred in a square, as uint8 in a file.

    The file appears whole or not at all; one that is there already is used as it is.

    Args:
        path: the file.
        pairs: the pictures.
        size: pixels of a side of the square.
        windows: of CT that the weights know; empty: any.
        report: called with the pictures that are done and their number.
        cancel: its ``cancel()`` ends the work with CancelledError.

    Returns:
        [N, 3, size, size] uint8.

    Raises:
        VolumeError: an image cannot be used; the message names its entry.
        DiskFullError: the file cannot be written.
    """
    if not path.exists():
        try:
            # Written, not mapped: a full disk is then an error and not the end of the process.
            with replace_file(path) as part, part.open("wb") as file:
                npy.write_array_header_1_0(
                    file, {"descr": "|u1", "fortran_order": False, "shape": (len(pairs), 3, size, size)}
                )
                for number, picture in enumerate(read_pictures(pairs, windows)):
                    cancel.check()
                    report(number, len(pairs))
                    file.write(_fit_into_square(picture, size).tobytes())
        except OSError as error:
            raise DiskFullError(
                f"The pictures of this tuning cannot be stored ({error.strerror}); "
                f"{len(pairs) * 3 * size * size >> 20} MB are needed."
            ) from error
    pictures: Bytes = np.load(path, mmap_mode="r")
    return pictures


def _fit_into_square(picture: NDArray[np.float32], size: int) -> Bytes:
    frame = Letterbox.fit((picture.shape[1], picture.shape[2]), (size, size), "center")
    square = frame.to_model(torch.from_numpy(picture)[None])[0]
    return (square * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def epoch_batches(
    captions: Sequence[Hashable], pictures: Sequence[Hashable], *, batch: int, seed: int, epoch: int
) -> list[list[int]]:
    """Rows of each batch of an epoch; captions and pictures of a batch are all different.

    Equal ones would be false negatives of each other. The captions that are left most often go first, so that
    batches are as large as possible. When a single caption is left over, its remaining rows wait for another
    epoch, and each epoch draws which ones. The result depends on seed and epoch alone, so that a resumed run
    continues as if nothing had happened.

    Args:
        captions: what row i says.
        pictures: what row i shows.
        batch: rows at most.
        seed: of the training.
        epoch: from 0.
    """
    random = np.random.default_rng((seed, epoch))
    waiting: dict[Hashable, list[int]] = {}
    for row in random.permutation(len(captions)).tolist():
        waiting.setdefault(captions[row], []).append(row)
    heap = [(-len(rows), turn, caption) for turn, (caption, rows) in enumerate(waiting.items())]
    heapq.heapify(heap)
    batches: list[list[int]] = []
    while len(heap) > 1:
        taken = _one_batch(heap, waiting, pictures, batch)
        if len(taken) < 2:
            break
        batches.append(taken)
    return [batches[place] for place in random.permutation(len(batches))]


def _one_batch(
    heap: list[tuple[int, int, Hashable]],
    waiting: dict[Hashable, list[int]],
    pictures: Sequence[Hashable],
    batch: int,
) -> list[int]:
    """Takes rows out of ``waiting``, and puts captions that have more of them back onto the heap."""
    taken: list[int] = []
    shown: set[Hashable] = set()
    again: list[tuple[int, int, Hashable]] = []
    while heap and len(taken) < batch:
        left, turn, caption = heapq.heappop(heap)
        if pictures[waiting[caption][-1]] in shown:
            again.append((left, turn, caption))
            continue
        row = waiting[caption].pop()
        taken.append(row)
        shown.add(pictures[row])
        if waiting[caption]:
            again.append((left + 1, turn, caption))
    for entry in again:
        heapq.heappush(heap, entry)
    return taken
