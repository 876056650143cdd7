"""Sentences about a structure, written from its mask."""

from __future__ import annotations

import numpy as np
import pytest

from wordmask.encoders.tiny_tokenizer import token_ids_of
from wordmask.learning.prompt_styles import SENTENCE_WORDS, describe, look_at


def ellipse(centre, radii, size=(60, 90)):
    ys, xs = np.mgrid[: size[0], : size[1]]
    return ((ys - centre[0]) / radii[0]) ** 2 + ((xs - centre[1]) / radii[1]) ** 2 <= 1


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (ellipse((10, 15), (4, 4)), "one small round polyp in the upper left of the image"),
        (ellipse((30, 45), (6, 12)), "one medium oval polyp in the center of the image"),
        (ellipse((50, 75), (2, 12)), "one medium elongated polyp in the lower right of the image"),
        (ellipse((8, 45), (3, 3)), "one small round polyp in the upper part of the image"),
        (ellipse((30, 10), (18, 9)), "one large oval polyp in the left of the image"),
        (
            ellipse((30, 20), (5, 5)) | ellipse((30, 70), (4, 4)),
            "two medium round polyp in the center of the image",
        ),
    ],
)
def test_count_size_shape_and_place_are_those_of_the_mask(mask, words):
    assert describe("polyp", mask, "original") == words


def test_styles_say_less_more_or_what_is_wrong():
    mask = ellipse((10, 15), (4, 4))
    assert describe("polyp", mask, "bare") == "polyp"
    assert describe("polyp", mask, "missing_location") == "one small round polyp"
    more = describe("polyp", mask, "overdescriptive")
    assert more == (
        "one small round polyp in the upper left of the image, which covers about 1 percent of what is shown"
    )
    wrong = describe("polyp", mask, "contradictory")
    assert wrong == "several large elongated polyp in the lower right of the image"


def test_specks_are_not_counted_and_a_line_has_a_shape():
    mask = ellipse((30, 45), (6, 6))
    mask[0, 0] = True
    assert look_at(mask).count == "one"
    line = np.zeros((20, 20), bool)
    line[10, 3:15] = True
    assert look_at(line).shape == "elongated"
    assert look_at(np.eye(1, dtype=bool)).shape == "round"


def test_an_absent_structure_is_not_given_away():
    empty = np.zeros((8, 8), bool)
    for style in ("bare", "original", "missing_location", "overdescriptive", "contradictory"):
        assert describe("polyp", empty, style) == "polyp"


def test_a_small_text_table_can_hold_every_word_of_the_sentences():
    known = token_ids_of([*SENTENCE_WORDS, "polyp"])
    for seed in range(40):
        random = np.random.default_rng(seed)
        mask = ellipse(random.uniform(5, 55, 2), random.uniform(2, 30, 2))
        for style in ("original", "overdescriptive", "contradictory"):
            assert token_ids_of([describe("polyp", mask, style)]) <= known
