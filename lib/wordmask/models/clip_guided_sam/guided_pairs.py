"""What CLIP-Guided SAM's encoder has made of pairs of slice and word, from which masks are drawn.

Knows tensors, slices' keys and frames; not the network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wordmask.data.letterbox import Letterbox
from wordmask.models.base import Hints, SliceKey


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
