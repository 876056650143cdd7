"""Batches of one fixed shape in which every item has a fixed row.

Why: on a CPU the last digit of a result depends on the shape of a batch and on the row in it (vectorised
``sigmoid`` and ``softplus`` treat the elements left over at the end of a loop with other instructions: 6e-8
seen, enough to flip a pixel at a threshold). So a batch always has the same shape, unused rows repeat an
item, and the row of an item follows from the item alone. Whatever else is computed, cached or skipped can
then change the speed, never a number.

Knows the features of the segmenter contract; not volumes, models or requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from zlib import crc32

import torch
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.models.base import PromptFeatures, SliceFeatures, SliceKey

T = TypeVar("T")
# What the cache keeps of one slice: the model's tensors without the batch axis, and its frames.
StoredSlice = dict[str, Tensor]

FRAME_PREFIX = "frame:"


@dataclass(frozen=True)
class Batch(Generic[T]):
    """One batch of a fixed number of rows.

    Attributes:
        items: one per row.
        wanted: the rows that were asked for; the others are padding.
    """

    items: tuple[T, ...]
    wanted: tuple[int, ...]


def fixed_batches(items: Sequence[T], *, size: int, row: Callable[[T], int]) -> Iterator[Batch[T]]:
    """Put every item once into row ``row(item) % size`` of a batch of ``size`` rows.

    Items of one row keep their order. There are as many batches as the fullest row needs, so the rows should
    be spread evenly.
    """
    queues: list[deque[T]] = [deque() for _ in range(size)]
    for item in items:
        queues[row(item) % size].append(item)
    while any(queues):
        taken = {r: queue.popleft() for r, queue in enumerate(queues) if queue}
        padding = next(iter(taken.values()))
        yield Batch(tuple(taken.get(r, padding) for r in range(size)), tuple(taken))


def pair_row(slice_index: int, word: str) -> int:
    """The row of a (slice, word) pair before the modulo.

    Neighbouring slices and different words get different rows.
    """
    return slice_index + crc32(word.encode())


def store_slice(features: SliceFeatures, row: int) -> StoredSlice:
    """One row of encoded slices as the cache keeps it, on the CPU.

    Frames are kept as the bits of their eight float64 numbers, because the cache rounds floating-point
    tensors to float16.
    """
    stored = {name: tensor[row].detach().cpu() for name, tensor in features.tensors.items()}
    for branch, frame in features.frames.items():
        numbers = torch.tensor(
            [*frame.original, *frame.model, *frame.scale, *frame.offset], dtype=torch.float64
        )
        stored[FRAME_PREFIX + branch] = numbers.view(torch.int64)
    return stored


def join_slices(
    stored: Sequence[StoredSlice], keys: Sequence[SliceKey], device: torch.device
) -> SliceFeatures:
    """Join stored slices to one batch on ``device``, floating-point tensors as float32."""
    tensors = {}
    for name in stored[0]:
        if not name.startswith(FRAME_PREFIX):
            # Some slices of a batch may be float16 and others float32.
            rows = [item[name] for item in stored]
            if rows[0].is_floating_point():
                rows = [row.float() for row in rows]
            tensors[name] = torch.stack(rows).to(device)
    frames = {
        name.removeprefix(FRAME_PREFIX): _frame(bits)
        for name, bits in stored[0].items()
        if name.startswith(FRAME_PREFIX)
    }
    return SliceFeatures(tuple(keys), tensors, frames)


def _frame(bits: Tensor) -> Letterbox:
    height, width, model_height, model_width, scale_y, scale_x, offset_y, offset_x = bits.view(
        torch.float64
    ).tolist()
    return Letterbox(
        (int(height), int(width)),
        (int(model_height), int(model_width)),
        (scale_y, scale_x),
        (offset_y, offset_x),
    )


def join_prompts(words: Sequence[PromptFeatures]) -> PromptFeatures:
    """Join features of single words to one batch; every tensor has the words along its first axis."""
    prompts = tuple(prompt for word in words for prompt in word.prompts)
    tensors = {name: torch.cat([word.tensors[name] for word in words]) for name in words[0].tensors}
    return PromptFeatures(prompts, tensors, torch.cat([word.known for word in words]))
