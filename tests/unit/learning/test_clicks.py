"""Simulated clicks: where a person clicks next, and how clicks follow one another."""

from __future__ import annotations

import numpy as np
import torch

from wordmask.learning.clicks import corrective_clicks, next_click


def area(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (20, 30)) -> np.ndarray:
    """A mask with rectangles (top, left, bottom, right), the last two excluded."""
    mask = np.zeros(size, bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def test_without_an_error_there_is_no_click():
    mask = area((2, 3, 8, 9))
    assert next_click(mask, mask) is None
    assert next_click(area(), area()) is None


def test_the_middle_of_the_largest_error_is_clicked_with_its_sign():
    truth = area((2, 2, 7, 7), (10, 20, 13, 23))
    assert next_click(area(), truth) == (4, 4, True)
    found = area((2, 2, 7, 7), (12, 3, 19, 10))  # a part is missed, and a larger one is false
    assert next_click(found, truth) == (6, 15, False)
    assert next_click(area((2, 2, 7, 7)), truth) == (21, 11, True)


def test_the_click_lies_inside_a_ring_and_away_from_the_edge_of_the_image():
    ring = area((2, 2, 17, 17)) & ~area((4, 4, 13, 13))
    x, y, missed = next_click(area(), ring)
    assert missed
    assert ring[y, x]
    assert next_click(area(), area((0, 0, 5, 30))) == (2, 2, True)


def test_touching_corners_do_not_join_errors():
    truth = area((0, 0, 4, 4), (4, 4, 8, 8), (10, 10, 15, 15))
    assert next_click(area(), truth) == (12, 12, True)


def test_of_equal_errors_the_missed_one_is_clicked_and_then_the_first():
    assert next_click(area((1, 1, 4, 4)), area((12, 20, 15, 23))) == (21, 13, True)
    assert next_click(area(), area((12, 20, 15, 23), (2, 20, 5, 23))) == (21, 3, True)


def test_clicks_follow_what_was_drawn_after_the_clicks_before():
    truth = torch.from_numpy(np.stack([area((2, 2, 7, 7)), area((2, 2, 7, 7)), area()]))
    seen = []

    def draw(places: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append((places.clone(), labels.clone()))
        masks = truth.clone()
        masks[0] |= torch.from_numpy(area((10, 10, 19, 19)))  # the first click of the first pair goes wrong
        return masks

    start = torch.zeros_like(truth)
    places, labels = corrective_clicks(draw, start, truth, torch.tensor([2, 3, 2]))
    assert labels.tolist() == [[1, 0, -1], [1, -1, -1], [-1, -1, -1]]
    assert places[0].tolist() == [[4, 4], [14, 14], [0, 0]]
    assert [len(number[0][0]) for number in seen] == [1, 2]
    assert seen[0][1].tolist() == [[1], [1], [-1]]


def test_no_click_is_made_where_none_is_wanted():
    truth = torch.from_numpy(area((2, 2, 7, 7))[None])
    places, labels = corrective_clicks(lambda *_: truth, ~truth, truth, torch.tensor([0]))
    assert (places.shape, labels.shape) == ((1, 0, 2), (1, 0))
