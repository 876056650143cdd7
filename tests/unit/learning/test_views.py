"""Views of a slice: repeatable, and never with a left kidney where a right one is."""

from __future__ import annotations

import torch

from wordmask.learning.views import make_view

GENERATOR = torch.Generator().manual_seed(1)
IMAGE = torch.rand(3, 24, 30, generator=GENERATOR)
LEFT = torch.zeros(24, 30)
LEFT[5:12, 2:9] = 1
RIGHT = torch.zeros(24, 30)
RIGHT[5:12, 20:27] = 1


def test_view_0_is_the_slice_itself():
    view = make_view(IMAGE, {"liver": LEFT}, key="k", number=0, mirror=True)
    assert torch.equal(view.image, IMAGE)
    assert torch.equal(view.masks["liver"], LEFT)


def test_the_same_key_gives_the_same_view_and_another_key_another():
    one, same, other = (
        make_view(IMAGE, {"liver": LEFT}, key=key, number=1, mirror=True) for key in ("k", "k", "l")
    )
    assert torch.equal(one.image, same.image)
    assert torch.equal(one.masks["liver"], same.masks["liver"])
    assert one.image.shape != other.image.shape or not torch.equal(one.image, other.image)


def test_image_and_mask_move_together():
    bright = LEFT[None].repeat(3, 1, 1)
    for number in range(1, 12):
        view = make_view(bright, {"liver": LEFT}, key="k", number=number, mirror=True)
        grey, mask = view.image.mean(0), view.masks["liver"]
        assert grey.shape == mask.shape
        assert torch.corrcoef(torch.stack([grey.flatten(), mask.flatten()]))[0, 1] > 0.7


def test_a_mirror_exchanges_left_and_right_and_leaves_out_what_has_no_other_side():
    """The mean column of a mask tells whether a view was mirrored, for small turns alone are allowed besides
    (mirror is off).
    """
    both, alone = (
        {"left kidney": LEFT, "right kidney": RIGHT, "liver": LEFT},
        {"left kidney": LEFT, "liver": LEFT},
    )
    mirrored = 0
    for number in range(1, 30):
        view = make_view(IMAGE, both, key="k", number=number, mirror=True)
        lonely = make_view(IMAGE, alone, key="k", number=number, mirror=True)
        same_place = torch.equal(view.masks["left kidney"], view.masks["liver"])
        was_mirrored = "left kidney" not in lonely.masks
        mirrored += was_mirrored
        # Mirrored: the left kidney's mask is the right one's, mirrored, and not the liver's.
        assert same_place != was_mirrored
    assert 5 < mirrored < 25


def test_without_mirror_nothing_is_turned_over():
    for number in range(1, 10):
        view = make_view(IMAGE, {"left kidney": LEFT}, key="k", number=number, mirror=False)
        columns = view.masks["left kidney"].sum(0)
        assert (columns * torch.arange(30)).sum() / columns.sum() < 13
