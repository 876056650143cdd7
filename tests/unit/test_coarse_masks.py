"""Splitting maps and taking objects apart, against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.filters import threshold_otsu

from wordmask.coarse_masks import LEVELS, coarse_masks, coarse_objects, split_two_classes

GREY = arrays.arrays(np.uint8, (7, 9), elements=st.integers(0, 255))


def squares(values: np.ndarray, mask: np.ndarray) -> float:
    """Sum of squares within both classes."""
    return sum(float(((part - part.mean()) ** 2).sum()) for part in (values[mask], values[~mask]) if part.size)


def lloyd(values: np.ndarray, generator: np.random.Generator) -> float:
    """Two-means from two random values of the data, to its end."""
    centres = generator.choice(values, 2, replace=False).astype(float)
    for _ in range(100):
        mask = np.abs(values - centres[1]) < np.abs(values - centres[0])
        if mask.all() or not mask.any():
            break
        centres = np.array([values[~mask].mean(), values[mask].mean()])
    return squares(values, mask)


@given(GREY)
def test_the_split_is_the_best_of_many_restarts_and_otsus(grey):
    if grey.min() == grey.max():
        return
    maps = torch.from_numpy(grey.astype(np.float64) / (LEVELS - 1))[None]
    mask = coarse_masks(maps)[0].numpy()
    values, generator = grey.astype(float), np.random.default_rng(0)
    own = squares(values, mask)
    assert mask.any()
    assert not mask.all()
    assert own <= min(lloyd(values.ravel(), generator) for _ in range(30)) + 1e-6
    assert own == pytest.approx(squares(values, grey > threshold_otsu(grey)), rel=1e-9, abs=1e-6)


def test_a_constant_map_has_no_object_and_a_map_is_split_by_itself():
    torch.manual_seed(3)
    maps = torch.cat([torch.zeros(1, 5, 6), torch.ones(1, 5, 6), torch.rand(2, 5, 6)])
    assert not coarse_masks(maps)[:2].any()
    assert torch.equal(split_two_classes(maps)[2:], split_two_classes(maps[2:]))
    assert torch.equal(coarse_masks(maps, fixed=0.3), maps > 0.3)


def test_objects_are_the_largest_parts_and_never_more_than_asked_for():
    mask = np.zeros((8, 10), bool)
    mask[0:2, 0:2] = mask[2, 2] = True  # touches at a corner: one object of 5
    mask[5:7, 0:2] = mask[5:7, 5:7] = True  # two of 4
    saliency = np.where(mask, 0.6, 0.1).astype(np.float32)
    saliency[5:7, 5:7] = 0.9
    found = coarse_objects(mask, saliency, most=2)
    assert [one.area for one in found] == [5, 4]
    assert [one.box for one in found] == [(0, 0, 2, 2), (0, 5, 1, 6)]
    assert len(coarse_objects(mask, saliency, most=9)) == 3
    assert [one.box for one in coarse_objects(mask, saliency, most=9, least_confidence=0.7)] == [(5, 5, 6, 6)]
    assert [one.area for one in coarse_objects(mask, saliency, most=9, least_area=5 / 80)] == [5]
    assert coarse_objects(np.zeros_like(mask), saliency, most=2) == []


def test_points_lie_inside_or_outside_and_are_the_same_for_the_same_key():
    mask = np.zeros((6, 7), bool)
    mask[2, 3:6] = True
    (one,) = coarse_objects(mask, mask.astype(np.float32), most=1)
    inside, outside = one.draw_points(10, 4), one.draw_points(10, 4, inside=False)
    assert sorted(map(tuple, inside.tolist())) == [(3, 2), (4, 2), (5, 2)]  # fewer pixels than points
    assert len(outside) == 10
    assert not any(mask[y, x] for x, y in outside)
    np.testing.assert_array_equal(outside, one.draw_points(10, 4, inside=False))
    assert one.draw_points(0, 4).shape == (0, 2)
