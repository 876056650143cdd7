"""Maps of (slice, word) pairs and what they cost, side by side for two ways of making them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Measured:
    """Maps by pair, and what they cost.

    Seconds on the wall, and seconds of the processor, in which other work does not count.
    """

    maps: dict[int, Tensor] = field(default_factory=dict)
    wall: float = 0.0
    processor: float = 0.0

    def add(self, pairs: Iterable[int], work: Callable[[], Iterable[Tensor]]) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        maps = list(work())
        self.wall, self.processor = (
            self.wall + time.perf_counter() - wall,
            self.processor + time.process_time() - processor,
        )
        self.maps |= dict(zip(pairs, maps, strict=True))

    def row(self, name: str, ours: Measured) -> str:
        wall, processor = self.wall / len(self.maps), self.processor / len(self.maps)
        text = (
            f"  {name:<24}{len(self.maps):3} pairs {wall:7.2f} s per pair, {processor:7.2f} s of the "
            "processor"
        )
        return (
            text
            if self is ours
            else f"{text}, {wall / (ours.wall / len(ours.maps)):.1f} and {self.times(ours):.1f} times ours"
        )

    def times(self, ours: Measured) -> float:
        return self.processor / len(self.maps) / (ours.processor / len(ours.maps))


def least_correlation(ours: Measured, theirs: Measured) -> float:
    return min(
        torch.corrcoef(torch.stack([ours.maps[pair], flat]))[0, 1].item()
        for pair, flat in theirs.maps.items()
    )
