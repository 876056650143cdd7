"""Voxels and pixels that the tests of image files share."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.volume_files import GRID


@pytest.fixture
def grey_values():
    return np.random.default_rng(1).integers(0, 1200, GRID.shape).astype(np.int16)


@pytest.fixture
def hounsfield_units():
    values = np.full((8, 16, 16), -1000, dtype=np.int16)
    values[:, 3:13, 3:13] = np.random.default_rng(2).integers(-120, 200, (8, 10, 10))
    return values


@pytest.fixture
def a_colour_picture():
    return np.random.default_rng(3).integers(0, 256, (7, 9, 3)).astype(np.uint8)
