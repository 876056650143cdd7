"""Where model pixels lie in the original slice. Coordinates: pixel i covers [i, i + 1)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wordmask.data.letterbox import Letterbox

ALIGNS = ("center", "top_left", "stretch")
sides = st.integers(20, 90)


def a_ramp(height: int, width: int) -> torch.Tensor:
    """[1, height, width], linear in both axes: bilinear lookups reproduce it exactly away from the edges."""
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return (2 * ys / height + 3 * xs / width)[None]


@pytest.mark.parametrize("align", ALIGNS)
@settings(max_examples=30, deadline=None)
@given(height=sides, width=sides)
def test_a_map_of_model_coordinates_comes_back_as_original_coordinates(align, height, width):
    frame = Letterbox.fit((height, width), (64, 64), align)
    cells = (torch.arange(64) + 0.5).expand(64, 64)
    xs, ys = (cells - frame.offset[1]) / frame.scale[1], (cells.T - frame.offset[0]) / frame.scale[0]
    back_x, back_y = frame.to_original(torch.stack([xs, ys]))
    margin = 1 + int(1 / min(frame.scale))  # lookups at the edge of the model's square are held constant
    inside = (slice(margin, height - margin), slice(margin, width - margin))
    torch.testing.assert_close(
        back_x[inside], (torch.arange(width) + 0.5).expand(height, width)[inside], atol=2e-3, rtol=0
    )
    torch.testing.assert_close(
        back_y[inside], (torch.arange(height) + 0.5)[:, None].expand(height, width)[inside], atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("align", ALIGNS)
@pytest.mark.parametrize("size", [(64, 64), (48, 64), (64, 40), (31, 57), (200, 113)])
def test_a_slice_that_goes_to_the_model_and_back_lies_where_it_was(align, size):
    frame = Letterbox.fit(size, (64, 64), align)
    ramp = a_ramp(*size)
    back = frame.to_original(frame.to_model(ramp[None])[0])[0]
    margin = 2 * max(1, round(1 / min(frame.scale)))
    inside = (slice(margin, -margin), slice(margin, -margin))
    pixel = 1 / min(frame.scale)  # rounding the slice's place to whole model pixels costs at most half of one
    allowed = 0.5 * pixel * (2 / size[0] + 3 / size[1]) + 1e-3
    assert (back - ramp[0])[inside].abs().max() <= allowed


def test_the_slice_keeps_its_aspect_and_padding_is_exactly_zero():
    wide = torch.full((1, 3, 20, 40), 0.7)
    centred = Letterbox.fit((20, 40), (64, 64), "center").to_model(wide)[0, 0]
    top_left = Letterbox.fit((20, 40), (64, 64), "top_left").to_model(wide)[0, 0]
    stretched = Letterbox.fit((20, 40), (64, 64), "stretch").to_model(wide)[0, 0]
    assert [row for row in range(64) if centred[row].any()] == list(range(16, 48))
    assert [row for row in range(64) if top_left[row].any()] == list(range(32))
    assert stretched.all()
    for image in (centred, top_left, stretched):
        torch.testing.assert_close(image[image != 0], torch.full_like(image[image != 0], 0.7))


def test_valid_is_where_the_slice_is_shown():
    valid = Letterbox.fit((20, 40), (64, 64), "center").valid()
    assert valid.sum() == 32 * 64
    assert not valid[:16].any()


def test_a_coarse_grid_covers_the_same_square():
    frame = Letterbox.fit((100, 100), (64, 64), "stretch")
    coarse = torch.zeros(1, 4, 4)
    coarse[0, 1, 2] = 1
    fine = frame.to_original(coarse, mode="nearest")[0]
    assert fine.sum() == 25 * 25
    assert fine[25:50, 50:75].all()


def test_points_go_to_the_model_pixel_that_shows_them():
    frame = Letterbox.fit((20, 40), (64, 64), "center")
    slice_ = torch.zeros(1, 1, 20, 40)
    slice_[0, 0, 3, 30] = 1
    shown = frame.to_model(slice_)[0, 0]
    row, column = divmod(int(shown.argmax()), 64)
    x, y = frame.points_to_model(torch.tensor([30.5, 3.5])).tolist()
    assert abs(x - (column + 0.5)) <= 1
    assert abs(y - (row + 0.5)) <= 1


@settings(max_examples=30, deadline=None)
@given(height=sides, width=sides)
def test_a_map_of_one_frame_is_found_again_in_another(height, width):
    centred = Letterbox.fit((height, width), (56, 56), "center")
    top_left = Letterbox.fit((height, width), (80, 80), "top_left")
    cells = (torch.arange(14) + 0.5) * 4  # model pixels of the centred frame at the centres of a 14 x 14 grid
    xs = ((cells - centred.offset[1]) / centred.scale[1]).expand(14, 14)
    looked_up = centred.resample(xs[None], top_left, (20, 20))[0]
    expected = ((torch.arange(20) + 0.5) * 4 - top_left.offset[1]) / top_left.scale[1]
    edge = 3 / min(centred.scale)  # half a cell of the coarser grid, where lookups are held constant
    inside = (expected > edge) & (expected < width - edge)
    first_row = looked_up[0]
    torch.testing.assert_close(first_row[inside], expected[inside], atol=2e-3, rtol=0)


def test_a_resampled_map_is_zero_in_the_other_frames_padding():
    stretched = Letterbox.fit((20, 40), (64, 64), "stretch")
    top_left = Letterbox.fit((20, 40), (64, 64), "top_left")
    looked_up = stretched.resample(torch.ones(2, 8, 8), top_left, (16, 16))
    assert (looked_up[:, :8] == 1).all()
    assert (looked_up[:, 8:] == 0).all()


@pytest.mark.parametrize("align", ALIGNS)
def test_a_batch_equals_its_maps_done_one_at_a_time(align):
    torch.manual_seed(0)
    frame = Letterbox.fit((33, 47), (24, 24), align)
    maps = torch.randn(3, 24, 24)
    torch.testing.assert_close(
        frame.to_original(maps), torch.cat([frame.to_original(one[None]) for one in maps])
    )
    images = torch.rand(3, 2, 33, 47)
    torch.testing.assert_close(
        frame.to_model(images), torch.cat([frame.to_model(one[None]) for one in images])
    )


@pytest.mark.parametrize("align", ALIGNS)
def test_extreme_shapes_neither_crash_nor_vanish(align):
    for size in ((1, 1), (1, 50), (50, 1), (3, 1000)):
        frame = Letterbox.fit(size, (32, 32), align)
        shown = frame.to_model(torch.ones(1, 1, *size))
        assert shown.shape == (1, 1, 32, 32), size
        assert shown.max() == pytest.approx(1), size
        assert frame.to_original(shown[0]).shape == (1, *size)
