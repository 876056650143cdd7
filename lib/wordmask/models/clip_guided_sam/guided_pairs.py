"""What CLIP-Guided SAM's encoder has made of pairs of slice and word, from which masks are drawn.

The last pairs with clicks are kept, so that the next click in a slice costs no encoder.

Knows tensors, slices' keys and frames; not the network.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.models.base import Hints, SliceKey

KEPT = 16  # pairs: 8 MB each at ViT-B


@dataclass(frozen=True, eq=False)
class GuidedPairs:
    """What the mask decoder needs of P pairs besides clicks and boxes; they do not depend on those.

    Attributes:
        embeddings: [P, C, g, g], of SAM, guided by the words.
        maps: [P, S, S], similarity in 0..1 on SAM's input.
        keys: the slice of each pair.
        frame: where SAM's input lies in the slices.
    """

    embeddings: Tensor
    maps: Tensor
    keys: tuple[SliceKey, ...]
    frame: Letterbox

    def only(self, rows: Tensor) -> GuidedPairs:
        """Some of the pairs, by their numbers."""
        keys = tuple(self.keys[row] for row in rows.tolist())
        return GuidedPairs(self.embeddings[rows], self.maps[rows], keys, self.frame)

    def with_masks(self, hints: Hints) -> GuidedPairs:
        """The same pairs, with a mask of the hints instead of the similarity in the slices that have one."""
        if not any(key.index in hints.masks for key in self.keys):
            return self
        maps = self.maps.clone()
        for row, key in enumerate(self.keys):
            if (mask := hints.masks.get(key.index)) is not None:
                pixels = torch.from_numpy(mask.astype(np.float32))[None, None]
                maps[row] = self.frame.to_model(pixels)[0, 0].to(maps)
        return replace(self, maps=maps)

    def detach(self) -> GuidedPairs:
        """The same pairs without gradients."""
        return replace(self, embeddings=self.embeddings.detach(), maps=self.maps.detach())


class RecentPairs:
    """The pairs that were guided last, one by one; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, GuidedPairs] = OrderedDict()

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._kept.clear()

    def get_many(self, keys: Sequence[Hashable], guide: Callable[[list[int]], GuidedPairs]) -> GuidedPairs:
        """Pairs by their keys.

        Args:
            keys: one per pair; pairs of one key are the same.
            guide: computes the pairs at the given places of ``keys``.
        """
        with self._lock:
            found = {key: self._kept[key] for key in keys if key in self._kept}
        missing = [place for place, key in enumerate(keys) if key not in found]
        if missing:
            made = guide(missing)
            for row, place in enumerate(missing):
                found[keys[place]] = made.only(torch.tensor([row])).detach()
        with self._lock:
            for key in keys:
                self._kept[key] = found[key]
                self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        parts = [found[key] for key in keys]
        return GuidedPairs(
            torch.cat([part.embeddings for part in parts]),
            torch.cat([part.maps for part in parts]),
            tuple(key for part in parts for key in part.keys),
            parts[0].frame,
        )
