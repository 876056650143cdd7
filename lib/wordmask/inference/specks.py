"""What three dimensions add to a mask that was made slice by slice.

An organ is one piece, specks are not part of it.

Knows numpy and scipy; not words, models or geometry. Nothing of the published methods is changed by it, and
it can be switched off (`VolumeSegmenter(clean=False)`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# of the largest piece: removes specks, keeps the smaller kidney and a second lesion of a quarter of the
# diameter
MINIMUM_FRACTION = 0.02

TOUCHING = ndimage.generate_binary_structure(
    3, 3
)  # pieces that share a corner are one: thin vessels run diagonally through slices


def drop_specks(mask: NDArray[np.bool_], *, minimum_fraction: float = MINIMUM_FRACTION) -> NDArray[np.bool_]:
    """A copy of a mask [n, h, w] without the pieces that have less than ``minimum_fraction`` of the largest
    one's voxels.
    """
    kept = np.zeros_like(mask)
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return kept
    box = boxes[0]
    pieces, count = ndimage.label(mask[box], structure=TOUCHING)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    large = np.concatenate([[False], sizes >= minimum_fraction * sizes.max()])  # piece 0 is the background
    kept[box] = large[pieces]
    return kept
