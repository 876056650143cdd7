"""The cyclic learning rate against numbers that were worked out by hand, and which networks join the
ensemble.
"""

from __future__ import annotations

import pytest
import torch

from wordmask.errors import RequestError
from wordmask.learning.weak.recipe import WeakRecipe


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 0.01),
        (1, 0.0099849987),
        (100, 0.0084866615),
        (160, 0.0075643442),
        (199, 0.0075643442),
        (200, 0.01),
        (360, 0.0075643442),
        (400, 0.01),
        (599, 0.0075643442),
    ],
)
def test_the_rate_is_that_of_the_released_code(epoch, rate):
    """600 epochs in 3 cycles, gamma 0.8.

    After 160 epochs of a cycle it is 0.01 * (440 / 600) ** 0.9 and stays.
    """
    assert WeakRecipe.load("paper").rate_in(epoch) == pytest.approx(rate, rel=1e-7)


def test_one_cycle_with_gamma_1_is_the_polynomial_rate_of_torch():
    recipe = WeakRecipe.load("paper", epochs=50, cycles=1, gamma=1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=recipe.rate)
    poly = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=50, power=0.9)
    for epoch in range(50):
        assert recipe.rate_in(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        poly.step()


def test_the_last_networks_of_every_cycle_are_members():
    recipe = WeakRecipe.load("paper")
    assert [epoch for epoch in range(600) if recipe.is_member(epoch)] == [
        *range(190, 200),
        *range(390, 400),
        *range(590, 600),
    ]


def test_the_paper_is_as_published():
    recipe = WeakRecipe.load("paper")
    assert (recipe.epochs, recipe.cycles, recipe.save_last, recipe.iterations, recipe.gamma) == (
        600,
        3,
        10,
        250,
        0.8,
    )
    assert (recipe.rate, recipe.weight_decay, recipe.threshold) == (0.01, 3e-5, 0.5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cycles": 7}, "600 epochs cannot be divided into 7 cycles"),
        ({"save_last": 201}, "save_last is 201, but a cycle has 200 epochs"),
        ({"epoch": 3}, "Did you mean 'epochs'"),
        ({"threshold": 1}, "'threshold'"),
    ],
)
def test_a_wrong_number_is_named(changes, sentence):
    with pytest.raises(RequestError, match=sentence):
        WeakRecipe.load("paper", **changes)


def test_recipes_are_found_by_their_names():
    assert WeakRecipe.names() == ["paper", "small", "smoke"]
    for name in WeakRecipe.names():
        assert WeakRecipe.load(name).name == name
    with pytest.raises(RequestError, match="Did you mean 'small'"):
        WeakRecipe.load("smal")


@pytest.mark.parametrize("setting", ["name", "cls"])
def test_no_setting_takes_the_place_of_an_argument(setting):
    with pytest.raises(RequestError, match=f"The setting '{setting}' of recipe 'small' cannot be"):
        WeakRecipe.load("small", **{setting: "x"})
