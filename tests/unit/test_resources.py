"""Configurations are found wherever WordMask is installed from, and a wrong name is answered with the nearest
right one.
"""

from __future__ import annotations

import pytest
import yaml

from wordmask.errors import RequestError, UnknownModelError
from wordmask.resources import config_names, look_up, read_config, suggest


def test_a_preset_is_read():
    assert "tiny" in config_names("models", "simple_vilmedsam")
    assert yaml.safe_load(read_config("models", "simple_vilmedsam", "tiny.yaml"))["clip"]


def test_a_folder_that_does_not_exist_has_no_names():
    assert config_names("models", "no_such_model") == []


def test_a_known_name_is_returned_and_a_wrong_one_explained():
    assert look_up("bone", ["lung", "bone"], "window", RequestError) == "bone"
    with pytest.raises(
        UnknownModelError,
        match=r"^There is no strategy 'randm'\. Did you mean 'random'\? Strategies: first, random\.$",
    ):
        look_up("randm", ["first", "random"], "strategy", UnknownModelError)


def test_a_long_wrong_name_is_cut():
    with pytest.raises(RequestError) as refusal:
        look_up("x" * 10_000, ["lung"], "window", RequestError)
    assert len(str(refusal.value)) < 200


def test_nothing_is_suggested_when_nothing_is_near():
    assert suggest("zebra", ["lung", "liver"]) == ""
