"""The vocabulary that ships, and what loading refuses."""

import itertools

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wordmask.data.windows import load_windows
from wordmask.words.vocabulary import (
    LEFT,
    RIGHT,
    Code,
    load_vocabulary,
    opposite_word,
    read_vocabulary,
    same_text,
)

TEXTS = load_vocabulary().texts()

# Words that people ask for in one breath; their colours lie side by side in one picture.
ASKED_TOGETHER = (
    (
        "liver",
        "spleen",
        "left kidney",
        "right kidney",
        "stomach",
        "pancreas",
        "gallbladder",
        "aorta",
        "spine",
        "liver tumor",
    ),
    (
        "left lung",
        "right lung",
        "heart",
        "aorta",
        "trachea",
        "spine",
        "esophagus",
        "lung nodule",
        "pleural effusion",
    ),
    ("brain tumor", "edema", "necrosis", "enhancing tumor", "brain"),
    ("polyp", "instruments", "mucosa"),
    ("skin lesion", "melanoma", "nevus"),
    ("breast tumor", "benign breast tumor", "malignant breast tumor"),
)

A_LIVER = {"word": "liver", "category": "anatomy", "color": [200, 100, 50], "modalities": ["CT"]}


def a_vocabulary(*entries):
    return yaml.safe_dump({"entries": list(entries)})


@pytest.fixture
def the_vocabulary():
    return load_vocabulary()


def test_there_are_at_least_120_words_of_all_kinds_of_image(the_vocabulary):
    assert len(the_vocabulary.entries) >= 120
    for modality in ("CT", "MR", "US", "X-ray", "endoscopy", "dermoscopy"):
        assert sum(modality in entry.modalities for entry in the_vocabulary.entries) >= 5, modality


def test_every_word_has_another_name(the_vocabulary):
    assert [entry.word for entry in the_vocabulary.entries if len(entry.texts) < 2] == []


@pytest.mark.parametrize(
    ("typed", "word"),
    [
        ("hepar", "liver"),
        ("ren", "kidney"),
        ("pulmo", "lung"),
        ("vesica urinaria", "bladder"),
        ("LIVER", "liver"),
        ("lungs", "lung"),
        ("left_kidney", "left kidney"),
        ("Kidney  left", "left kidney"),
        ("ground-glass opacity", "ground glass opacity"),
        ("oesophagus", "esophagus"),
        ("brain tumour", "brain tumor"),
        ("oedema", "edema"),
        ("hepatic tumors", "liver tumor"),
        ("breast mass", "breast tumor"),
        ("naevi", "nevus"),
        ("foetal head", "fetal head"),
        ("Barrett\u2019s oesophagus", "barrett's esophagus"),
    ],
)
def test_a_thing_is_found_by_any_of_its_names(the_vocabulary, typed, word):
    assert the_vocabulary.lookup(typed).word == word


def test_a_side_is_another_thing(the_vocabulary):
    kidney, left, right = (the_vocabulary.lookup(word) for word in ("kidney", "left kidney", "right kidney"))
    assert kidney.code == left.code == right.code == Code("SCT", "64033007", "Kidney")
    assert (kidney.modifier, left.modifier, right.modifier) == (None, LEFT, RIGHT)
    assert len({kidney.color, left.color, right.color}) == 3


def test_every_left_has_its_right_with_the_same_code(the_vocabulary):
    for entry in the_vocabulary.entries:
        if entry.side == "left":
            other = the_vocabulary.lookup(entry.word.replace("left", "right"))
            # The left atrial appendage is segmented, the right one is not; the lobes of the lungs differ in
            # number.
            if other is not None:
                assert (other.side, other.code) == ("right", entry.code), entry.word


def test_a_lesion_in_an_organ_names_the_organ(the_vocabulary):
    tumor = the_vocabulary.lookup("liver tumor")
    assert (tumor.code.value, tumor.region.value) == ("108369006", "10200004")
    assert tumor.category_code == Code("SCT", "49755003", "Morphologically Altered Structure")


def test_one_code_has_one_meaning(the_vocabulary):
    meanings = {}
    for entry in the_vocabulary.entries:
        for code in filter(None, (entry.code, entry.region)):
            assert meanings.setdefault(code.value, code.meaning) == code.meaning


def test_codes_are_snomed_identifiers_with_a_valid_check_digit(the_vocabulary):
    # Verhoeff's check digit ends every SNOMED CT identifier (SNOMED CT Technical Implementation Guide): a
    # mistyped digit shows.
    for entry in the_vocabulary.entries:
        for code in filter(None, (entry.code, entry.region, entry.modifier, entry.category_code)):
            assert verhoeff(code.value) == 0, f"{entry.word}: {code}"


def verhoeff(digits):
    """0 for a number that ends with its own check digit (dihedral group D5)."""

    def multiply(a, b):
        if a < 5:
            return (a + b) % 5 + 5 * (b >= 5) if b < 5 else 5 + (a + b - 5) % 5
        return 5 + (a - 5 - b) % 5 if b < 5 else (a - b) % 5

    turn = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
    check = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(position % 8):
            value = turn[value]
        check = multiply(check, value)
    return check


def test_the_check_digit_test_itself_notices_a_wrong_digit():
    assert verhoeff("10200004") == 0
    assert all(verhoeff(f"1020000{digit}") for digit in range(10) if digit != 4)
    assert verhoeff("12000004")  # two neighbours exchanged


def test_all_colours_differ_and_those_seen_together_differ_clearly(the_vocabulary):
    def distance(one, other):
        return sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5

    assert min(distance(a.color, b.color) for a, b in itertools.combinations(the_vocabulary.entries, 2)) >= 8
    for words in ASKED_TOGETHER:
        for one, other in itertools.combinations(words, 2):
            assert distance(the_vocabulary.lookup(one).color, the_vocabulary.lookup(other).color) >= 24, (
                one,
                other,
            )


def test_no_colour_is_the_grey_that_means_no_colour_in_slicer(the_vocabulary):
    assert (127, 127, 127) not in the_vocabulary.colors
    assert all(max(color) >= 90 for color in the_vocabulary.colors)


def test_texts_are_every_name_once(the_vocabulary):
    assert {"liver", "hepar", "livers", "liver tumour"} <= set(TEXTS)
    assert (
        len(TEXTS)
        == len({same_text(text) for text in TEXTS})
        == sum(len(entry.texts) for entry in the_vocabulary.entries)
    )


def test_suggestions_begin_with_words_then_other_names_then_misspellings(the_vocabulary):
    kinds = [suggestion.kind for suggestion in the_vocabulary.suggest("ren", limit=50)]
    assert kinds[0] == "synonym"  # "ren" itself is the kidney's Latin name, and the very text comes first
    assert kinds[1:] == sorted(kinds[1:], key=["prefix", "synonym", "misspelling"].index)
    assert {"prefix", "synonym"} <= set(kinds)


@pytest.mark.parametrize(
    ("query", "word", "kind"),
    [
        ("spl", "spleen", "prefix"),
        ("kidney", "kidney", "prefix"),
        ("LEFT-K", "left kidney", "prefix"),
        ("hep", "liver", "synonym"),
        ("livr", "liver", "misspelling"),
        ("lnug", "lung", "misspelling"),
        ("gallblader", "gallbladder", "misspelling"),
        ("oesofagus", "esophagus", "misspelling"),
        ("rigth kidny", "right kidney", "misspelling"),
    ],
)
def test_a_prefix_and_a_misspelling_find_the_word(the_vocabulary, query, word, kind):
    assert (word, kind) in {
        (suggestion.word, suggestion.kind) for suggestion in the_vocabulary.suggest(query, limit=12)
    }


def test_any_part_of_a_word_may_be_begun(the_vocabulary):
    assert {"left kidney", "right kidney"} <= {
        suggestion.word for suggestion in the_vocabulary.suggest("kidn")
    }
    assert all(" idney" not in f" {suggestion.matched}" for suggestion in the_vocabulary.suggest("idney"))


def test_nothing_is_suggested_for_nothing_and_for_noise(the_vocabulary):
    assert the_vocabulary.suggest("") == the_vocabulary.suggest("  ") == the_vocabulary.suggest("xqzwv") == []
    assert the_vocabulary.suggest("liver", limit=0) == []


@given(query=st.text(max_size=20) | st.sampled_from(TEXTS), limit=st.integers(0, 15))
def test_suggestions_are_few_known_and_never_repeated(query, limit):
    found = load_vocabulary().suggest(query, limit)
    assert len(found) <= limit
    assert len({suggestion.word for suggestion in found}) == len(found)
    for suggestion in found:
        assert load_vocabulary().lookup(suggestion.matched).word == suggestion.word


@given(text=st.sampled_from(TEXTS))
def test_every_name_is_its_own_first_suggestion(text):
    assert load_vocabulary().suggest(text)[0].word == load_vocabulary().lookup(text).word


@given(text=st.text(max_size=40))
def test_same_text_changes_nothing_the_second_time(text):
    assert same_text(same_text(text)) == same_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": [1, 2, 3]}, "Extra inputs"),
        ({"color": [1, 2, 300]}, "less than or equal to 255"),
        ({"color": [1, 2]}, "Field required"),
        ({"modalities": []}, "at least 1"),
        ({"modalities": ["XR"]}, "X-ray"),
        ({"side": "up"}, "left"),
        ({"category": "organ"}, "anatomy"),
        ({"word": "  "}, "at least 1 character"),
        ({"code": {"value": "12", "meaning": "Liver"}}, "pattern"),
        ({"code": {"value": 10200004, "meaning": "Liver"}}, "string"),
        ({"code": {"value": "10200004", "meaning": "Liver", "scheme": "SRT"}}, "Extra inputs"),
        ({"synonyms": ["Liver"]}, "twice"),
        ({"synonyms": ["hepar"], "plurals": ["Hepar"]}, "twice"),
    ],
)
def test_loading_refuses_a_wrong_entry(change, message):
    with pytest.raises(ValidationError, match=message):
        read_vocabulary(a_vocabulary(A_LIVER | change))


def test_loading_refuses_two_entries_with_one_name_or_one_colour():
    spleen = {"word": "spleen", "category": "anatomy", "color": [1, 2, 200], "modalities": ["CT"]}
    assert len(read_vocabulary(a_vocabulary(A_LIVER, spleen)).entries) == 2
    with pytest.raises(
        ValidationError, match="'LIVER' is in the vocabulary twice: for 'liver' and for 'spleen'"
    ):
        read_vocabulary(a_vocabulary(A_LIVER, spleen | {"synonyms": ["LIVER"]}))
    with pytest.raises(ValidationError, match="'liver' and 'spleen' have the same colour"):
        read_vocabulary(a_vocabulary(A_LIVER, spleen | {"color": A_LIVER["color"]}))


@pytest.mark.parametrize("text", ["", "entries: []", "[]", "entries: {liver: {}}"])
def test_loading_refuses_what_is_no_list_of_entries(text):
    with pytest.raises(ValidationError):
        read_vocabulary(text)


def test_every_window_of_the_vocabulary_exists():
    assert {entry.window for entry in load_vocabulary().entries if entry.window} <= set(load_windows())


def test_words_without_a_side_have_no_opposite():
    assert opposite_word("left kidney") == "right kidney"
    assert opposite_word("right lung") == "left lung"
    assert opposite_word("liver") is None
    assert opposite_word("left") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("please find the big heart", ["heart"]),
        ("Liver tumor and left-kidney", ["liver tumor", "left kidney"]),
        ("Leber", []),
        ("", []),
    ],
)
def test_the_structures_in_a_sentence_are_found(text, words):
    assert load_vocabulary().find_in(text) == words
