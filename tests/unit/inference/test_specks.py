"""Specks go, organs stay."""

from __future__ import annotations

import numpy as np

from wordmask.inference.specks import drop_specks


def a_mask(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros((12, 40, 40), dtype=bool)
    for box in boxes:
        mask[box] = True
    return mask


ORGAN = (slice(2, 9), slice(5, 20), slice(5, 20))  # 1575 voxels


def test_a_speck_far_from_the_organ_is_dropped():
    speck = (slice(5, 6), slice(35, 37), slice(35, 37))
    np.testing.assert_array_equal(drop_specks(a_mask(ORGAN, speck)), a_mask(ORGAN))


def test_a_second_organ_of_half_the_size_stays():
    both = a_mask(ORGAN, (slice(2, 6), slice(25, 37), slice(25, 37)))
    np.testing.assert_array_equal(drop_specks(both), both)


def test_a_lesion_that_is_the_only_thing_stays_however_small():
    lesion = a_mask((slice(3, 4), slice(8, 9), slice(8, 9)))
    np.testing.assert_array_equal(drop_specks(lesion), lesion)


def test_pieces_that_touch_at_a_corner_across_slices_are_one():
    mask = a_mask(ORGAN)
    mask[9, 20, 20] = True  # touches the organ's corner voxel (8, 19, 19) only
    np.testing.assert_array_equal(drop_specks(mask), mask)


def test_the_limit_is_a_fraction_of_the_largest_piece():
    mask = a_mask(
        (slice(0, 1), slice(0, 10), slice(0, 10)), (slice(5, 6), slice(20, 22), slice(20, 25))
    )  # 100 and 10 voxels
    assert drop_specks(mask, minimum_fraction=0.1).sum() == 110
    assert drop_specks(mask, minimum_fraction=0.11).sum() == 100


def test_an_empty_mask_stays_empty_and_the_argument_is_not_changed():
    assert not drop_specks(a_mask()).any()
    mask = a_mask(ORGAN, (slice(11, 12), slice(0, 1), slice(0, 1)))
    before = mask.copy()
    drop_specks(mask)
    np.testing.assert_array_equal(mask, before)
