"""Which of the real volumes every run looks at."""

from __future__ import annotations

import pytest

COUNT = 20  # volumes in index.json; those of pool/ are for training
# Each orientation that occurs, CT and MR, with the fewest voxels; --slow takes the others, too.
_CHOSEN = {
    3: "brain, y flipped",
    4: "hippocampus, x and y flipped",
    12: "CT",
    13: "MR",
    17: "spine, axes turned",
    19: "CT, flipped",
}
VOLUMES = [
    pytest.param(number, id=_CHOSEN.get(number), marks=() if number in _CHOSEN else pytest.mark.slow)
    for number in range(COUNT)
]
