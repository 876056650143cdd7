"""Removes specks in three dimensions from a mask that was made slice by slice.

An organ is one piece, so small separate pieces are not part of it. The published methods stay unchanged, and
this step can be switched off (`VolumeSegmenter(clean=False)`). Knows numpy and scipy; not words, models or
geometry.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Of the largest piece: removes specks, keeps the smaller kidney and a second lesion of a quarter of the
# diameter.
MINIMUM_FRACTION = 0.02

# Pieces that share a corner are one, because thin vessels run diagonally through slices.
TOUCHING = ndimage.generate_binary_structure(3, 3)


def drop_specks(mask: NDArray[np.bool_], *, minimum_fraction: float = MINIMUM_FRACTION) -> NDArray[np.bool_]:
    """A copy of a mask without its small pieces.

    Args:
        mask: [n, h, w].
        minimum_fraction: a piece with a smaller share of the largest piece's voxels is removed.
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
