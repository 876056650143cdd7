"""Several processes that train one model together, each on a device of its own.

Knows torch.distributed and batch norms; not models, not data. Without a process group there is one rank, and
nothing here costs anything.
Gradients are added by hand and not by DistributedDataParallel, because a trainee is called with rows, and its
parts are used outside `forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Sampler

Value = TypeVar("Value")
STATISTICS = ("running_mean", "running_var")


class Ranks:
    """This process among those that train together.

    Attributes:
        number: of this process, from 0.
        count: of all processes.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.number, self.count = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    @property
    def leads(self) -> bool:
        """Whether this is the one that validates, reports and publishes."""
        return self.number == 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Every tensor becomes its sum over all ranks, in place."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """What every rank has of a tensor, by rank."""
        if self.count == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(found, tensor)
        return found

    def broadcast_from_leader(self, make: Callable[[], Value]) -> Value:
        """What the leading rank makes; the others make nothing and wait for it."""
        if self.count == 1:
            return make()
        box = [make() if self.leads else None]
        dist.broadcast_object_list(box, src=0)
        return cast(Value, box[0])


class Share(Sampler[list[Any]]):
    """The batches of this rank: one of every ``count``, empty where the last round has fewer.

    Together, the ranks see the batches in the order of one rank.
    """

    def __init__(self, batches: Sampler[list[Any]], ranks: Ranks) -> None:
        self.batches, self.ranks = batches, ranks

    def __iter__(self) -> Iterator[list[Any]]:
        every = list(self.batches)
        for first in range(0, len(every), self.ranks.count):
            yield next(iter(every[first + self.ranks.number : first + self.ranks.count]), [])


class RunningStatistics:
    """Keeps batch norms as if one process had seen the batches of all ranks one after the other.

    One batch with statistics s turns r into (1 - m) r + m s, m being the momentum; so what a rank made of the
    common r is enough.
    """

    def __init__(self, module: nn.Module, ranks: Ranks) -> None:
        self.ranks = ranks
        norms = [part for part in module.modules() if isinstance(part, _BatchNorm)] if ranks.count > 1 else []
        self._norms = [(norm, norm.momentum) for norm in norms if norm.momentum is not None]
        self._common = self._copies()

    def join(self, active: int) -> None:
        """After a round in which the first ``active`` ranks had a batch."""
        for (norm, momentum), common in zip(self._norms, self._common, strict=True):
            for name in STATISTICS:
                own = getattr(norm, name)
                joined, *others = self.ranks.gather(own)[:active]
                for other in others:
                    joined = other + (1 - momentum) * (joined - common[name])
                own.copy_(joined)
        self._common = self._copies()

    def _copies(self) -> list[dict[str, Tensor]]:
        return [{name: getattr(norm, name).clone() for name in STATISTICS} for norm, _ in self._norms]
