"""DHN-NCE: against the written formula in plain loops, its gradient, and how the released code's loss differs
from it.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from open_clip import ClipLoss
from torch import Tensor

from wordmask.learning.clip_tuning.dhn_nce import dhn_nce, info_nce

TEMPERATURE, BETA = 0.6, 0.15


def random_pairs(count: int, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, count, width, dtype=torch.float64, generator=generator)
    return image, text


def cosines_of(image: Tensor, text: Tensor) -> list[list[float]]:
    return [[float(i @ t / (i.norm() * t.norm())) for t in text] for i in image]


def one_way(s: list[list[float]], temperature: float, beta: float) -> float:
    """methods.md 2.2, the paper's L_v->t, term by term; s[i][j]: cosine of image i and text j."""
    count, total = len(s), 0.0
    for i in range(count):
        others = [j for j in range(count) if j != i]
        normaliser = sum(math.exp(beta * s[i][k] / temperature) for k in others)
        weights = {j: (count - 1) * math.exp(beta * s[i][j] / temperature) / normaliser for j in others}
        total += -s[i][i] / temperature + math.log(
            sum(math.exp(s[i][j] / temperature) * weights[j] for j in others)
        )
    return total / count


def written(s: list[list[float]], temperature: float, beta_image: float, beta_text: float) -> float:
    turned = [list(column) for column in zip(*s, strict=True)]
    return one_way(s, temperature, beta_image) + one_way(turned, temperature, beta_text)


def released(s: Tensor, temperature: float, beta: float) -> Tensor:
    """One direction of the released code's loss, from its five differences in methods.md 2.2.

    s: cosines [B, B].
    """
    count = len(s)
    own = torch.eye(count, dtype=torch.bool)
    zero = torch.zeros_like(s)
    positive = torch.where(own, s / temperature, zero).exp()  # 1: off the diagonal exp(0), on it the pair
    negative = torch.where(own, zero, s / temperature).exp()  # 1: on the diagonal exp(0)
    normaliser = negative.sum(1)  # 2: no beta in the exponent, and the diagonal is in it as exp(0)
    # Difference 3: row i's weights divide column i; 5: N = B - 1.
    weights = (count - 1) * torch.where(own, zero, beta * s / temperature).exp() / normaliser
    return -(positive / (negative * weights)).log().mean()  # 1: over all B x B entries


def a_batch_with(s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Image [B, 2B] and text [B, 2B], all of length 1, with the cosines s, and the length left over in each
    image [B].

    Text j is the axis j; image i has s_i on these axes and the rest of its length on axis B + i, which it has
    to itself. So moving text j along axis B + i changes s_ij alone, by that rest: the gradient to the text is
    the gradient to each cosine.
    """
    count = len(s)
    rest = (1 - s.square().sum(1)).sqrt()
    assert not rest.isnan().any()
    return (
        torch.cat([s, torch.diag(rest)], 1),
        torch.cat([torch.eye(count), torch.zeros(count, count)], 1).to(s.dtype),
        rest,
    )


def gradient_to_cosines(s: Tensor, **settings: float) -> Tensor:
    """d dhn_nce / d s_ij, [B, B], by autograd through the embeddings."""
    image, text, rest = a_batch_with(s)
    text.requires_grad_()
    dhn_nce(image, text, **settings).backward()
    assert text.grad is not None
    return text.grad[:, len(s) :].T / rest[:, None]


@pytest.fixture
def cosines_with_a_hard_negative() -> Tensor:
    """B = 16; every pair at 0.4, unrelated ones within 0.05 of 0, and text 1 at 0.9 to image 0."""
    s = 0.05 * (2 * torch.rand(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) - 1)
    s.fill_diagonal_(0.4)
    s[0, 1] = 0.9
    return s


@pytest.mark.parametrize("count", [2, 3, 16])
@pytest.mark.parametrize(
    ("temperature", "beta_image", "beta_text"), [(0.6, 0.15, 0.15), (0.07, 0.0, 1.5), (1.0, 0.3, 0.0)]
)
def test_it_is_the_written_formula(count, temperature, beta_image, beta_text):
    image, text = random_pairs(count)
    loss = dhn_nce(image, text, temperature=temperature, beta_image=beta_image, beta_text=beta_text)
    assert loss.item() == pytest.approx(
        written(cosines_of(image, text), temperature, beta_image, beta_text), rel=1e-10
    )


def test_the_papers_numbers_are_the_defaults():
    image, text = random_pairs(5)
    assert torch.equal(
        dhn_nce(image, text), dhn_nce(image, text, temperature=0.6, beta_image=0.15, beta_text=0.15)
    )


def test_beta_of_0_leaves_the_decoupled_loss_whose_denominator_lacks_the_pair_itself():
    image, text = random_pairs(6)
    s = np.array(cosines_of(image, text)) / TEMPERATURE
    others = np.exp(s) * (1 - np.eye(6))
    expected = np.mean(np.log(others.sum(1)) - np.diag(s)) + np.mean(np.log(others.sum(0)) - np.diag(s))
    assert dhn_nce(image, text, beta_image=0, beta_text=0).item() == pytest.approx(expected, rel=1e-12)


def test_images_and_texts_change_places_with_their_betas():
    image, text = random_pairs(7)
    there = dhn_nce(image, text, beta_image=0.1, beta_text=0.9)
    back = dhn_nce(text, image, beta_image=0.9, beta_text=0.1)
    assert there.item() == pytest.approx(back.item(), rel=1e-12)
    assert there.item() != pytest.approx(dhn_nce(text, image, beta_image=0.1, beta_text=0.9).item(), rel=1e-6)


def test_the_order_of_the_pairs_does_not_matter():
    image, text = random_pairs(9)
    order = torch.tensor([4, 8, 0, 2, 1, 7, 3, 6, 5])
    assert dhn_nce(image[order], text[order]).item() == pytest.approx(dhn_nce(image, text).item(), rel=1e-12)


@pytest.mark.parametrize("loss", [dhn_nce, lambda image, text: info_nce(image, text, 0.6)])
def test_the_length_of_embeddings_does_not_matter(loss):
    image, text = random_pairs(4)
    assert loss(image * torch.tensor([[0.1], [3], [50], [1]]), 7 * text).item() == pytest.approx(
        loss(image, text).item(), rel=1e-12
    )


def test_the_gradient_to_embeddings_is_that_of_finite_differences():
    image, text = random_pairs(4, width=3)
    assert torch.autograd.gradcheck(dhn_nce, (image.requires_grad_(), text.requires_grad_()))


def test_every_cosine_has_the_gradient_of_the_written_formula(cosines_with_a_hard_negative):
    s = cosines_with_a_hard_negative
    found, step = gradient_to_cosines(s), 1e-6
    for i, j in [(0, 1), (0, 0), (1, 1), (3, 9), (0, 7), (5, 1)]:
        up, down = s.clone(), s.clone()
        up[i, j] += step
        down[i, j] -= step
        slope = (
            written(up.tolist(), TEMPERATURE, BETA, BETA) - written(down.tolist(), TEMPERATURE, BETA, BETA)
        ) / (2 * step)
        assert found[i, j].item() == pytest.approx(slope, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("temperature", [0.6, 0.07])
def test_the_hardest_negative_is_pushed_away_and_the_hardest_more_than_any_other(
    cosines_with_a_hard_negative, temperature
):
    s = cosines_with_a_hard_negative
    gradient = gradient_to_cosines(s, temperature=temperature)
    own = torch.eye(16, dtype=torch.bool)
    assert (gradient[own] < 0).all()  # descent brings pairs together
    assert gradient[0, 1] > 0
    assert gradient[0, 1] == gradient[~own].max()
    for row in range(16):
        others = torch.where(own[row], -2.0, s[row])
        assert gradient_to_cosines(s, temperature=temperature, beta_text=0)[row, others.argmax()] > 0


def test_a_step_down_the_gradient_moves_the_hard_negative_away_by_measure(cosines_with_a_hard_negative):
    image, text, _ = a_batch_with(cosines_with_a_hard_negative)
    image.requires_grad_()
    before = dhn_nce(image, text)
    before.backward()
    moved = torch.nn.functional.normalize(image.detach() - 0.5 * image.grad, dim=1)
    assert (moved @ text.T)[0, 1] < 0.9
    assert dhn_nce(moved, text) < before


def test_the_released_loss_pulls_a_hard_negative_closer_where_the_papers_pushes_it_away(
    cosines_with_a_hard_negative,
):
    s = cosines_with_a_hard_negative.clone().requires_grad_()
    (released(s, TEMPERATURE, BETA) + released(s.T, TEMPERATURE, BETA)).backward()
    # methods.md 2.2, item 4: (1 + beta) / (B^2 tau) less the softmax share / (B tau), in each direction.
    negatives = (s.detach() / TEMPERATURE).fill_diagonal_(0)
    shares = negatives.softmax(1)[0, 1] + negatives.softmax(0)[0, 1]
    expected = (2 * (1 + BETA) / 16**2 - shares / 16) / TEMPERATURE
    assert s.grad[0, 1].item() == pytest.approx(expected.item(), rel=1e-9)
    assert s.grad[0, 1] < -0.02
    assert gradient_to_cosines(s.detach())[0, 1] > 0.05


def test_the_released_loss_still_pushes_an_easy_negative_away(cosines_with_a_hard_negative):
    s = cosines_with_a_hard_negative.clone().requires_grad_()
    released(s, TEMPERATURE, BETA).backward()
    assert s.grad[0, 2] > 0


@pytest.mark.parametrize("temperature", [1.0, 1e-2, 1e-4])
def test_it_stays_finite_at_temperatures_where_exponentials_do_not(temperature):
    image, text = (part.float().requires_grad_() for part in random_pairs(8))
    loss = dhn_nce(image, text, temperature=temperature)
    loss.backward()
    assert loss.isfinite()
    assert image.grad.isfinite().all()
    assert loss.item() == pytest.approx(
        dhn_nce(image.double(), text.double(), temperature=temperature).item(), rel=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    image, text = (part.to(dtype) for part in random_pairs(8))
    expected = dhn_nce(image.double(), text.double()).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dhn_nce(image, text)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_info_nce_is_the_loss_of_open_clip():
    image, text = (torch.nn.functional.normalize(part, dim=1) for part in random_pairs(6))
    expected = ClipLoss()(image, text, logit_scale=1 / 0.07)
    assert info_nce(image, text, 0.07).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("loss", [dhn_nce, info_nce])
@pytest.mark.parametrize(
    ("image", "text", "temperature", "message"),
    [
        (torch.ones(1, 4), torch.ones(1, 4), 0.6, "at least 2 pairs.*got 1"),
        (torch.ones(0, 4), torch.ones(0, 4), 0.6, "at least 2 pairs.*got 0"),
        (torch.ones(3, 4), torch.ones(2, 4), 0.6, r"\[3, 4\] and \[2, 4\]"),
        (torch.ones(3, 4, 1), torch.ones(3, 4, 1), 0.6, r"must both be \[B, E\]"),
        (torch.ones(3, 4), torch.ones(3, 4), 0.0, "above 0, got 0.0"),
        (torch.ones(3, 4), torch.ones(3, 4), math.nan, "above 0, got nan"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(loss, image, text, temperature, message):
    with pytest.raises(ValueError, match=message):
        loss(image, text, temperature=temperature)


@pytest.mark.parametrize("beta", [-0.1, math.nan])
def test_a_negative_beta_is_refused(beta):
    image, text = random_pairs(3)
    for name in ("beta_image", "beta_text"):
        with pytest.raises(ValueError, match="at least 0"):
            dhn_nce(image, text, **{name: beta})
