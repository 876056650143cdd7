"""Recognises that the memory has run out, and tries again with smaller batches.

Knows torch's errors; not what is computed.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from wordmask.errors import OutOfMemoryError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "unable to allocate",
    "bad allocation",
    "std::bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device or the machine has no memory left.

    On the CPU torch raises a plain RuntimeError, which only its text tells apart.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def with_smaller_batches(attempt: Callable[[int], Result], *, largest: int) -> Result:
    """Call ``attempt(share)`` with share 1, 2, 4... until the memory suffices.

    Args:
        attempt: divides the size of its batches by ``share``.
        largest: size of the largest batch, in items.

    Raises:
        OutOfMemoryError: the memory does not even suffice for batches of one item.
    """
    share = 1
    while True:
        try:
            return attempt(share)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if share >= largest:
                raise OutOfMemoryError(
                    "There is not enough memory for this request, even one slice at a time; ask for fewer "
                    "words, or for a part of the volume with slices."
                ) from None
        share *= 2  # out here, where nothing refers to the failed attempt any more
        logger.warning(
            "The memory ran out; the request is computed again in batches of 1/%d of the size.", share
        )
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def explain_out_of_memory(sentence: str) -> Iterator[None]:
    """Turn running out of memory inside the block into an OutOfMemoryError.

    Args:
        sentence: for people: what the memory does not suffice for, and what needs less of it.
    """
    try:
        yield
    except BaseException as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(sentence) from None
        raise
