"""Normal noise that belongs to a (slice, word) pair and a step, never to a place in a batch.

The numbers are drawn on the CPU, so that every device gets the same noise. Knows keys made of text, numbers
and dataclasses of them; not models, images or devices.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Noise(Protocol):
    """A source of noise for the bottleneck; tests inject their own."""

    def __call__(self, pair_keys: Sequence[Hashable], step: int) -> Tensor:
        """Standard normal noise for each pair, [P, replicas, tokens, width], float32.

        Args:
            pair_keys: P keys.
            step: counted from 0; every step has noise of its own.
        """
        ...


def key_text(key: object) -> str:
    """A text for a key, the same for equal keys in every process.

    ``repr`` is not used, because an enum and its plain text value are equal, but print differently.

    Args:
        key: text, integers, None, and tuples or dataclasses of these.

    Raises:
        TypeError: another type, whose text could change from one run to the next.
    """
    if isinstance(key, str):
        return (
            f"{len(key)}:{str.__str__(key)}"  # with its length, so that different tuples never give one text
        )
    if key is None or isinstance(key, int | np.integer):
        return "none" if key is None else f"i{int(key)}"
    if dataclasses.is_dataclass(key) and not isinstance(key, type):
        return key_text(tuple(getattr(key, field.name) for field in dataclasses.fields(key)))
    if isinstance(key, tuple):
        return "(" + ",".join(key_text(part) for part in key) + ")"
    raise TypeError(
        f"A noise key consists of text, integers, tuples and dataclasses of these; got {type(key).__name__}."
    )


class KeyedNoise:
    """Standard normal noise from a counter-based generator (Philox 4x64).

    The key of the generator is (seed, pair key), its counter the step; a pair key is (slice key, the word's
    text). One pair's numbers do not depend on the other pairs of the call, on the number of replicas drawn
    after them, or on the thread. There is no state: calling it twice gives the same numbers.

    Args:
        seed: of all noise.
        replicas: noise samples per pair and step.
        tokens: 1 + grid * grid, with the class token.
        width: channels.

    Raises:
        ValueError: a size is below 1.
    """

    def __init__(self, seed: int, replicas: int, tokens: int, width: int) -> None:
        if min(replicas, tokens, width) < 1:
            raise ValueError(
                f"Noise needs at least one replica, token and channel, got {(replicas, tokens, width)}."
            )
        self.seed, self.shape = seed, (replicas, tokens, width)

    def __call__(self, pair_keys: Sequence[Hashable], step: int) -> Tensor:
        """Noise [P, replicas, tokens, width], float32, on the CPU.

        Args:
            pair_keys: P keys.
            step: counted from 0.
        """
        drawn = np.empty((len(pair_keys), *self.shape), dtype=np.float32)
        for row, key in zip(drawn, pair_keys, strict=True):
            digest = hashlib.sha256(key_text((self.seed, key)).encode()).digest()
            # The highest word of the counter, so that the draws of two steps never overlap.
            bits = np.random.Philox(key=int.from_bytes(digest[:16], "little"), counter=[0, 0, 0, step])
            np.random.Generator(bits).standard_normal(dtype=np.float32, out=row)
        return torch.from_numpy(drawn)
