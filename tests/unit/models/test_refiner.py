"""The refiner: what a new one does, what it depends on, and that a version keeps it."""

import pytest
import torch

from wordmask.models.simple_vilmedsam.refiner import Refiner

WIDTH = 5


@pytest.fixture
def a_taught_refiner():
    torch.manual_seed(0)
    refiner = Refiner(WIDTH).eval()
    torch.nn.init.normal_(refiner.head.weight)
    return refiner


def inputs(pairs=3, side=32):
    generator = torch.Generator().manual_seed(1)
    sizes = ((pairs, 3, side, side), (pairs, 1, side, side), (pairs, WIDTH))
    return [torch.rand(size, generator=generator) for size in sizes]


def test_a_new_refiner_changes_nothing():
    pixels, logits, word = inputs()
    assert torch.equal(Refiner(WIDTH)(pixels, logits, word), logits)


@pytest.mark.parametrize(
    ("changed", "matters"), [(0, True), (1, False), (2, True)], ids=["pixels", "logits", "word"]
)
def test_its_correction_goes_by_pixels_and_the_word_and_never_by_the_logits(
    a_taught_refiner, changed, matters
):
    given = inputs()
    other = [torch.flip(tensor, (-1,)) if place == changed else tensor for place, tensor in enumerate(given)]
    corrections = [a_taught_refiner(*each) - each[1] for each in (given, other)]
    assert torch.allclose(*corrections, atol=1e-3) is not matters


def test_a_row_depends_on_itself_alone(a_taught_refiner):
    given = inputs()
    together = a_taught_refiner(*given)
    for row in range(3):
        alone = a_taught_refiner(*[tensor[row : row + 1] for tensor in given])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-3, rtol=1e-4)


def test_it_draws_at_the_size_of_the_published_decoder(a_taught_refiner):
    assert a_taught_refiner(*inputs(1, 256)).shape == (1, 1, 256, 256)
