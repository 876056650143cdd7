"""The sentences that stand for a word, and what loading refuses."""

from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wordmask.errors import PromptError, RequestError
from wordmask.words.prompt_sets import is_sentence, load_prompt_sets, read_prompt_sets, sentences
from wordmask.words.prompts import parse_prompts
from wordmask.words.vocabulary import Modality, load_vocabulary

SETS = ("P0", "P1", "P2", "P3", "P4", "P5")
TYPED = "a bean-shaped organ to the left of the spine"


def a_prompt(text):
    (prompt,) = parse_prompts(text)
    return prompt


def some_sets(**changes):
    """YAML of a small collection that loads, with some keys changed."""
    return yaml.safe_dump(
        {
            "sets": {"P0": {"title": "the bare word", "text": "word"}},
            "images": {"any": "an image"},
            "class_name": "{image} of {word}",
            "descriptions": {"liver": ["The liver is large."], "nevus": ["A nevus is brown."]},
            "kinds": {"skin lesion": ["nevus"]},
        }
        | changes
    )


@pytest.fixture
def the_sets():
    return load_prompt_sets()


def test_the_sets_have_the_papers_names(the_sets):
    assert tuple(the_sets.sets) == SETS


def test_at_least_15_words_have_several_descriptions(the_sets):
    assert sum(len(described) >= 2 for described in the_sets.descriptions.values()) >= 15
    asked_for = {
        "liver",
        "spleen",
        "left kidney",
        "right kidney",
        "lung",
        "heart",
        "polyp",
        "skin lesion",
        "breast tumor",
        "brain tumor",
    }
    assert asked_for <= set(the_sets.descriptions)


def test_descriptions_are_sentences_that_name_the_thing_and_fit_a_text_encoder(the_sets):
    for word, described in the_sets.descriptions.items():
        assert len(set(described)) == len(described), word
        for sentence in described:
            assert word in sentence.lower(), sentence  # plurals too: "lungs"
            assert sentence[0].isupper(), sentence
            assert sentence.endswith("."), sentence
            assert sentence.isascii(), sentence
            assert len(sentence.split()) <= 30, sentence  # well below the 77 tokens of the shortest context


def test_no_description_names_a_modality(the_sets):
    """One sentence serves all modalities of a word.

    The released prompts say "mammogram" to ultrasound images.
    """
    named = {
        "ct",
        "mr",
        "mri",
        "tomography",
        "ultrasound",
        "sonogram",
        "x-ray",
        "radiograph",
        "mammogram",
        "endoscopy",
        "scan",
    }
    for described in the_sets.descriptions.values():
        for sentence in described:
            assert not named & set(sentence.lower().rstrip(".").replace(",", "").split()), sentence


@pytest.mark.parametrize(
    ("word", "beside", "never"),
    [
        ("left kidney", "spleen", "liver"),
        ("right kidney", "liver", "spleen"),
        ("left lung", "two lobes", "three lobes"),
        ("right lung", "three lobes", "two lobes"),
    ],
)
def test_left_and_right_are_those_of_the_patient(the_sets, word, beside, never):
    described = the_sets.descriptions[word]
    assert all(sentence.startswith(f"The {word} ") for sentence in described)
    assert beside in " ".join(described)
    assert never not in " ".join(described)


def test_every_modality_has_a_name(the_sets):
    assert set(the_sets.images) == {"any", *get_args(Modality)}


def test_the_bare_word_is_spelled_as_in_the_vocabulary():
    assert sentences(a_prompt("Hepar"), "P0") == ("hepar",)


@pytest.mark.parametrize(
    ("typed", "modality", "expected"),
    [
        ("hepar", "CT", "a CT image showing liver"),
        ("liver", "US", "an ultrasound image showing liver"),
        ("liver", None, "a medical image showing liver"),  # CT, MR or US: nobody said
        ("melanoma", None, "a dermoscopy image showing melanoma"),  # looked for in no other
        ("pancreatic duct", "MR", "an MR image showing pancreatic duct"),
        ("pancreatic duct", None, "a medical image showing pancreatic duct"),
    ],
)
def test_class_names_say_the_modality_where_it_is_known(typed, modality, expected):
    assert sentences(a_prompt(typed), "P1", modality=modality) == (expected,)


def test_a_synonym_has_the_descriptions_of_its_word(the_sets):
    assert sentences(a_prompt("breast lesion"), "P4") == the_sets.descriptions["breast tumor"]


@pytest.mark.parametrize("name", ["P2", "P3"])
def test_a_single_description_is_the_first(the_sets, name):
    assert sentences(a_prompt("spleen"), name) == the_sets.descriptions["spleen"][:1]
    assert (
        sentences(a_prompt("benign breast tumor"), name) == the_sets.descriptions["benign breast tumor"][:1]
    )


@pytest.mark.parametrize("name", ["P4", "P5"])
def test_an_ensemble_has_all_descriptions(the_sets, name):
    assert sentences(a_prompt("spleen"), name) == the_sets.descriptions["spleen"]


def test_the_ensemble_of_kinds_has_the_descriptions_of_every_kind_and_takes_no_sides(the_sets):
    benign, malignant = (
        the_sets.descriptions["benign breast tumor"],
        the_sets.descriptions["malignant breast tumor"],
    )
    assert sentences(a_prompt("breast tumor"), "P5") == benign + malignant
    assert sentences(a_prompt("breast tumor"), "P4") == the_sets.descriptions["breast tumor"]
    assert sentences(a_prompt("breast tumor"), "P3") == sentences(a_prompt("breast tumor"), "P2")


@pytest.mark.parametrize("name", ["P2", "P3", "P4", "P5"])
@pytest.mark.parametrize("typed", ["trachea", "pancreatic duct", "lower pole of left kidney"])
def test_a_word_without_a_description_is_asked_for_by_itself(typed, name):
    assert sentences(a_prompt(typed), name) == (typed,)


@pytest.mark.parametrize("name", SETS)
def test_a_typed_sentence_is_used_as_typed(name):
    assert is_sentence(a_prompt(TYPED))
    assert sentences(a_prompt(TYPED), name, modality="CT") == (TYPED,)


def test_long_names_of_the_vocabulary_are_no_sentences():
    assert not any(is_sentence(a_prompt(text)) for text in load_vocabulary().texts() if "," not in text)


@given(
    typed=st.text("aeilnrst' ", min_size=1, max_size=40) | st.sampled_from(load_vocabulary().texts()),
    name=st.sampled_from(SETS),
)
def test_whatever_is_typed_has_at_least_one_sentence(typed, name):
    try:
        prompts = parse_prompts(typed)
    except PromptError:
        return
    for prompt in prompts:
        found = sentences(prompt, name)
        assert found
        assert all(found)
        assert len(found) == 1 or name in ("P4", "P5")


@pytest.mark.parametrize("name", ["P6", "p2", ""])
def test_another_set_is_refused_with_the_list(name):
    with pytest.raises(RequestError, match=r"no prompt set.*P0 \(the bare word\), P1"):
        sentences(a_prompt("liver"), name)


def test_a_small_collection_loads():
    assert read_prompt_sets(some_sets()).describe("skin lesion", kinds=True) == ("A nevus is brown.",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"descriptions": {"lever": ["A lever is long."]}, "kinds": {}}, "'lever' is described"),
        ({"descriptions": {"hepar": ["The liver is large."]}, "kinds": {}}, "'hepar' is described"),
        (
            {"kinds": {"skin lesion": ["melanoma"]}},
            "'melanoma' is a kind of 'skin lesion', but it has no description",
        ),
        ({"kinds": {"scratch": ["nevus"]}}, "'scratch' is described"),
        ({"descriptions": {"liver": []}, "kinds": {}}, "at least 1 item"),
        ({"descriptions": {"liver": [" "]}, "kinds": {}}, "at least 1 character"),
        ({"images": {"CT": "a CT image"}}, "add one as 'any'"),
        ({"images": {"any": "an image", "PET": "a PET image"}}, "PET"),
        ({"sets": {"P0": {"title": "the bare word", "text": "wrod"}}}, "wrod"),
        ({"sets": {"P0": {"title": "the bare word", "text": "word", "ensembel": True}}}, "ensembel"),
        ({"sentences": {}}, "sentences"),
    ],
)
def test_a_collection_that_is_wrong_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        read_prompt_sets(some_sets(**change))
