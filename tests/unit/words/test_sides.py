"""Names of labels and typed words with a side, wherever it stands."""

from __future__ import annotations

import pytest

from wordmask.errors import PromptError
from wordmask.words.prompts import parse_name, parse_prompts
from wordmask.words.sides import exchange_sides, is_side, put_side_first
from wordmask.words.vocabulary import opposite_word


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("kidney, left", "left kidney"),
        ("kidney, right", "right kidney"),
        ("Left, Kidney", "left kidney"),
        ("kidney_left", "left kidney"),
        ("Kidney (L)", "left kidney"),
        ("lung R", "right lung"),
        ("Neoplasm, Primary", "neoplasm primary"),
        ("tumor; rim", "tumor rim"),
        ("tumor\nrim", "tumor rim"),
        ("hippocampus_left", "hippocampus left"),
    ],
)
def test_the_name_of_a_label_is_one_structure(name, key):
    assert parse_name(name).key == key


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("kidney, left", ["left kidney"]),
        ("kidney, left, right; liver", ["left kidney", "right kidney", "liver"]),
        ("lung, L; spleen", ["left lung", "spleen"]),
        ("liver, left kidney", ["liver", "left kidney"]),
    ],
)
def test_a_side_that_is_typed_after_a_comma_belongs_to_the_word_before(typed, keys):
    assert [prompt.key for prompt in parse_prompts(typed)] == keys


@pytest.mark.parametrize("read", [parse_name, parse_prompts])
@pytest.mark.parametrize("text", ["Left", "right", "L", "left, right"])
def test_a_side_alone_is_not_a_structure(read, text):
    with pytest.raises(PromptError, match="is a side without a structure"):
        read(text)


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("left kidney", "right kidney"),
        ("kidney left", "right kidney"),
        ("hippocampus left", "hippocampus right"),
        ("rib left 1", "rib right 1"),
        ("lung upper lobe left", "lung upper lobe right"),
        ("upper lobe of left lung", "upper lobe of right lung"),
        ("hippocampus l", "hippocampus r"),
        ("Niere links", "Niere rechts"),
        ("linke Niere", "rechte Niere"),
        ("rein gauche", "rein droite"),
        ("rein droit", "rein gauche"),
    ],
)
def test_a_mirrored_structure_is_that_of_the_other_side(word, other):
    assert opposite_word(word) == other


@pytest.mark.parametrize("word", ["liver", "cleft palate", "bright spot", "vertebra L1", "plural"])
def test_words_that_only_contain_the_letters_have_no_side(word):
    assert opposite_word(word) is None
    assert exchange_sides(word) is None
    assert put_side_first(word) is None
    assert not is_side(word)
