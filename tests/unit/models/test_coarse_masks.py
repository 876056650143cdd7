"""Saliency maps to prompts for SAM.

The split against k-means and Otsu by others, components and boxes against plain loops.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wordmask.models.coarse_masks import boxes, coarse_masks, components, points, split_two_classes

GREYS = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)))
FEW_GREYS = arrays(
    np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.sampled_from([0, 3, 90, 91, 255])
)
MASKS = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def as_map(greys):
    """Grey levels 0..255 as one saliency map [1, h, w] in 0..1."""
    return torch.from_numpy(greys.astype(np.float32) / 255)[None]


def within(greys, mask):
    """Sum of squares around the mean of each class, written down as it is defined."""
    values = greys.astype(np.float64)
    return sum(((values[part] - values[part].mean()) ** 2).sum() for part in (mask, ~mask) if part.any())


def lloyd(greys, rng):
    """k-means with two clusters of one random start: assign, average, until nothing changes.

    The brighter cluster as a mask.
    """
    values = greys.astype(np.float64)
    dark, bright = np.sort(rng.choice(np.unique(values), 2, replace=False))
    while True:
        mask = abs(values - bright) < abs(values - dark)
        centres = values[~mask].mean(), values[mask].mean()
        if centres == (dark, bright):
            return mask
        dark, bright = centres


@settings(deadline=None, max_examples=60)
@given(greys=GREYS | FEW_GREYS)
def test_no_threshold_and_no_restart_of_kmeans_divides_a_map_better(greys):
    if greys.min() == greys.max():
        return
    mask = coarse_masks(as_map(greys))[0].numpy()
    ours = within(greys, mask)
    assert mask.any()
    assert not mask.all()
    assert ours <= min(within(greys, greys > level) for level in range(255)) + 1e-6
    rng = np.random.default_rng(7)
    restarts = [lloyd(greys, rng) for _ in range(30)]
    assert ours <= min(within(greys, restart) for restart in restarts) + 1e-6


def test_the_best_of_many_restarts_of_kmeans_is_the_exact_split_but_for_a_pixel_at_the_border():
    rng = np.random.default_rng(3)
    for _ in range(10):
        blob = np.hypot(
            *np.meshgrid(*(np.linspace(-1, 1, 24) - centre for centre in rng.uniform(-0.5, 0.5, 2)))
        )
        greys = np.clip(255 * np.exp(-4 * blob**2) + rng.normal(0, 20, blob.shape), 0, 255).astype(np.uint8)
        best = min((lloyd(greys, rng) for _ in range(100)), key=lambda mask: within(greys, mask))
        mask = coarse_masks(as_map(greys))[0].numpy()
        assert within(greys, mask) <= within(greys, best) * (1 + 1e-12)
        # In one of these maps all 100 restarts stop one pixel away from the optimum, at a sum of squares
        # 2.5e-5 larger.
        assert (mask != best).sum() <= 1


@settings(deadline=None)
@given(greys=GREYS)
def test_the_split_is_otsus(greys):
    threshold_otsu = pytest.importorskip("skimage.filters").threshold_otsu
    if greys.min() == greys.max():
        return
    otsu = greys > threshold_otsu(greys)
    # Not the masks themselves: skimage counts in float32, and of two splits that are equally good it may take
    # the other.
    assert within(greys, coarse_masks(as_map(greys))[0].numpy()) == pytest.approx(
        within(greys, otsu), rel=1e-4, abs=1e-6
    )


def test_two_plain_classes_are_divided_between_them():
    maps = torch.tensor([[[0.0, 0.2, 0.9, 1.0]], [[0.0, 0.0, 0.0, 0.01]]])
    expected = torch.tensor([[[False, False, True, True]], [[False, False, False, True]]])
    assert torch.equal(coarse_masks(maps), expected)


def test_of_equally_good_thresholds_the_lowest_is_taken():
    greys = np.array([[0, 10, 20]], dtype=np.uint8)
    assert split_two_classes(as_map(greys)).item() == pytest.approx(0.5 / 255)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 1.0 + 1e-6])
@pytest.mark.parametrize("shape", [(1, 1), (5, 4), (0, 3)])
def test_a_constant_map_has_no_foreground(value, shape):
    maps = torch.full((2, *shape), value)
    assert torch.equal(split_two_classes(maps), torch.full((2,), torch.inf))
    assert not coarse_masks(maps).any()


def test_differences_within_one_grey_level_are_no_classes():
    assert not coarse_masks(torch.tensor([[[0.501, 0.502]]])).any()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    levels=st.integers(2, 300),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_a_row_does_not_depend_on_the_other_rows_or_on_their_order(seed, levels, dtype):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(5, 7, 6, generator=generator).pow(3).to(dtype)
    maps[2] = 0.4
    together = split_two_classes(maps, levels)
    assert torch.equal(together, split_two_classes(maps.flip(0), levels).flip(0))
    for row in range(5):
        assert torch.equal(together[[row]], split_two_classes(maps[[row]], levels))
    masks = coarse_masks(maps)
    assert all(torch.equal(masks[[row]], coarse_masks(maps[[row]])) for row in range(5))


def test_no_maps_have_no_masks():
    assert coarse_masks(torch.zeros(0, 4, 4)).shape == (0, 4, 4)


def test_values_on_either_side_of_a_threshold_fall_where_the_histogram_put_them():
    """With two levels the edge is 0.5.

    It belongs to the dark class, the next number above it to the bright one.
    """
    above = np.nextafter(np.float32(0.5), np.float32(1))
    maps = torch.tensor([[[0.0, 0.5, above, 1.0]]])
    assert (maps[0] > split_two_classes(maps, 2)).tolist() == [[False, False, True, True]]


def test_a_fixed_threshold_is_the_same_for_every_map_and_is_exclusive():
    maps = torch.tensor([[[0.1, 0.5, 0.6]], [[0.5, 0.5, 0.5]]])
    expected = torch.tensor([[[False, False, True]], [[False, False, False]]])
    assert torch.equal(coarse_masks(maps, "fixed", 0.5), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coarse_masks(torch.zeros(1, 2, 2), "kmeans"), "no method 'kmeans'.*two_means, fixed"),
        (lambda: coarse_masks(torch.zeros(1, 2, 2), "fixed", 1.5), "from 0 to 1, got 1.5"),
        (lambda: coarse_masks(torch.zeros(1, 2, 2), "fixed", float("nan")), "from 0 to 1, got nan"),
        (lambda: coarse_masks(torch.zeros(2, 2)), r"\[P, h, w\], got torch.float32 \[2, 2\]"),
        (lambda: coarse_masks(torch.zeros(1, 2, 2, dtype=torch.uint8)), "floating-point"),
        (lambda: coarse_masks(torch.full((1, 2, 2), 2.0)), "must lie in 0 to 1"),
        (lambda: coarse_masks(torch.full((1, 2, 2), torch.nan)), "must lie in 0 to 1"),
        (lambda: split_two_classes(torch.zeros(1, 2, 2), 1), "at least 2 grey levels, got 1"),
        (lambda: components(np.zeros((2, 2), bool), np.zeros((2, 3)), most=1), r"got \[2, 2\] and \[2, 3\]"),
        (lambda: components(np.zeros((2, 2), bool), np.zeros((2, 2)), most=0), "At least one component"),
        (lambda: boxes(np.zeros((2, 2), bool)), r"\[C, h, w\], got \[2, 2\]"),
        (lambda: boxes(np.array([[[True]], [[False]]])), "Component 1 has no pixel"),
        (lambda: points(np.zeros((1, 2, 2), bool), 1, 1, 0), r"\[h, w\], got \[1, 2, 2\]"),
        (lambda: points(np.zeros((2, 2), bool), -1, 1, 0), "must not be negative, got -1, 1 and 0"),
        (lambda: points(np.zeros((2, 2), bool), 1, 1, -4), "must not be negative, got 1, 1 and -4"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def flooded(mask):
    """The 8-connected components as sets of (y, x), in raster order of their first pixel, by flooding from
    each.
    """
    left, found = {(int(y), int(x)) for y, x in np.argwhere(mask)}, []
    while left:
        component, border = set(), [min(left)]
        while border:
            y, x = border.pop()
            if (y, x) in left:
                left.remove((y, x))
                component.add((y, x))
                border += [(y + i, x + j) for i, j in itertools.product((-1, 0, 1), repeat=2)]
        found.append(component)
    return found


def pixels(component):
    return {(int(y), int(x)) for y, x in np.argwhere(component)}


@settings(deadline=None)
@given(
    mask=MASKS,
    most=st.integers(1, 5),
    least_area=st.sampled_from([0, 0.05, 0.2]),
    least_confidence=st.sampled_from([0, 0.45]),
)
def test_components_are_the_largest_that_flooding_finds(mask, most, least_area, least_confidence):
    saliency = np.random.default_rng(1).random(mask.shape)
    expected = [
        part
        for part in sorted(
            flooded(mask), key=len, reverse=True
        )  # stable: the earlier of equals stays the earlier
        if len(part) / mask.size >= least_area
        and np.mean([saliency[pixel] for pixel in part]) >= least_confidence
    ]
    found = components(mask, saliency, most=most, least_area=least_area, least_confidence=least_confidence)
    assert found.dtype == bool
    assert found.shape[1:] == mask.shape
    assert [pixels(part) for part in found] == expected[:most]


def test_of_three_equal_components_the_first_two_in_raster_order_stay():
    mask = np.zeros((5, 5), bool)
    mask[4, 0:2] = mask[0, 3:5] = mask[2, 0:2] = True
    found = components(mask, mask.astype(float), most=2)
    assert [pixels(part) for part in found] == [{(0, 3), (0, 4)}, {(2, 0), (2, 1)}]


def test_pixels_that_touch_by_a_corner_are_one_component():
    assert len(components(np.eye(4, dtype=bool), np.eye(4), most=3)) == 1


def test_a_large_faint_component_takes_no_place_from_a_small_bright_one():
    mask = np.array([[1, 1, 1, 0, 1]], dtype=bool)
    saliency = np.array([[0.3, 0.3, 0.3, 0.0, 0.9]])
    found = components(mask, saliency, most=1, least_confidence=0.5)
    assert [pixels(part) for part in found] == [{(0, 4)}]


def test_limits_are_inclusive():
    mask = np.array([[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]], dtype=bool)
    assert len(components(mask, mask * 0.5, most=1, least_area=0.1, least_confidence=0.5)) == 1
    assert len(components(mask, mask * 0.5, most=1, least_area=0.11)) == 0


def test_an_empty_mask_has_no_components_and_no_boxes():
    found = components(np.zeros((4, 5), bool), np.zeros((4, 5)), most=2)
    assert found.shape == (0, 4, 5)
    assert boxes(found).shape == (0, 4)


@given(mask=MASKS)
def test_boxes_touch_the_outermost_pixels(mask):
    parts = components(mask, mask.astype(float), most=4)
    expected = []
    for part in parts:
        found = pixels(part)
        ys, xs = [y for y, _ in found], [x for _, x in found]
        expected.append([min(xs), min(ys), max(xs), max(ys)])
    assert boxes(parts).tolist() == expected


def test_a_component_at_the_border_has_its_box_within_the_map():
    assert boxes(np.ones((1, 3, 5), bool)).tolist() == [[0, 0, 4, 2]]


@settings(deadline=None)
@given(mask=MASKS, positive=st.integers(0, 12), negative=st.integers(0, 12), seed=st.integers(0, 2**64))
def test_points_lie_inside_and_outside_never_twice_and_as_many_as_there_are(mask, positive, negative, seed):
    where, labels = points(mask, positive, negative, seed)
    inside, outside = min(positive, mask.sum()), min(negative, (~mask).sum())
    assert labels.tolist() == [1] * inside + [0] * outside
    assert len({(x, y) for x, y in where.tolist()}) == len(where)
    assert [mask[y, x] for x, y in where] == [True] * inside + [False] * outside


def test_three_pixels_give_three_points_of_the_ten_asked_for():
    mask = np.zeros((6, 6), bool)
    mask[1, 2:5] = True
    where, labels = points(mask, 10, 0, 42)
    assert sorted(where.tolist()) == [[2, 1], [3, 1], [4, 1]]
    assert labels.tolist() == [1, 1, 1]


def test_points_depend_on_the_seed_and_more_of_them_keep_the_first():
    mask = np.zeros((30, 30), bool)
    mask[5:20, 8:25] = True
    where, _ = points(mask, 10, 10, 42)
    assert np.array_equal(points(mask, 10, 10, 42)[0], where)
    assert not np.array_equal(points(mask, 10, 10, 43)[0], where)
    assert np.array_equal(points(mask, 4, 0, 42)[0], where[:4])
    assert np.array_equal(points(mask, 0, 4, 42)[0], where[10:14])


def test_points_are_spread_over_the_component():
    where = np.concatenate([points(np.ones((8, 8), bool), 4, 0, seed)[0] for seed in range(400)])
    times = np.histogram2d(where[:, 0], where[:, 1], bins=8)[0]
    assert times.sum() == 1600
    assert abs(times - 25).max() < 25  # 5 standard deviations of 1600 draws among 64


def test_points_do_not_change_from_one_release_to_the_next():
    """Masks could change silently with numpy; these are Philox's with numpy 1.26."""
    assert points(np.ones((8, 8), bool), 3, 0, 42)[0].tolist() == [[6, 5], [3, 1], [7, 0]]
