"""Typed words -> Prompt: what is kept, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordmask.errors import PromptError
from wordmask.words.prompts import LEAST_COLOR_DISTANCE, LONGEST_TEXT, MOST_WORDS, parse_prompts
from wordmask.words.sides import is_side
from wordmask.words.vocabulary import LEFT, Code, load_vocabulary, same_text


def words(text):
    return [prompt.word for prompt in parse_prompts(text)]


@pytest.mark.parametrize(
    "text",
    [
        "left kidney; right kidney\nspleen",
        "left kidney,right kidney,spleen",
        "  left kidney ,, ; right kidney;\r\n spleen.\n",
        "left  kidney\rright\u00a0kidney\nspleen",
        ["left kidney", "right kidney", "spleen"],
        ["left kidney, right kidney", "", "spleen;"],
        ("left kidney", "right kidney\nspleen"),
    ],
)
def test_commas_semicolons_lines_and_lists_separate_words(text):
    assert words(text) == ["left kidney", "right kidney", "spleen"]


def test_a_word_stays_as_it_was_typed():
    assert words("Left Kidney, T-cell lymphoma (node), Meckel's diverticulum, L5, nævus") == [
        "Left Kidney",
        "T-cell lymphoma (node)",
        "Meckel's diverticulum",
        "L5",
        "nævus",
    ]


def test_an_accent_typed_as_two_characters_becomes_one():
    assert words("Me\u0301nie\u0300re") == ["M\u00e9ni\u00e8re"]


def test_a_known_word_brings_what_the_vocabulary_knows():
    (prompt,) = parse_prompts("Kidney left")
    assert (prompt.word, prompt.entry) == ("Kidney left", "left kidney")
    assert (prompt.code, prompt.modifier) == (Code("SCT", "64033007", "Kidney"), LEFT)
    assert prompt.color == load_vocabulary().lookup("left kidney").color
    assert prompt.window == "soft_tissue"


def test_a_latin_word_also_brings_the_plain_one_but_not_itself():
    (prompt,) = parse_prompts("Hepar")
    assert prompt.synonyms[0] == "liver"
    assert "hepar" not in prompt.synonyms
    (plural,) = parse_prompts("livers")
    assert plural.synonyms[:2] == ("liver", "hepar")


def test_an_unknown_word_is_allowed_and_gets_a_colour_of_its_own():
    (prompt,) = parse_prompts("flux capacitor")
    assert (prompt.word, prompt.synonyms, prompt.entry) == ("flux capacitor", (), None)
    assert (prompt.code, prompt.modifier, prompt.window) == (None, None, None)
    assert prompt.color not in load_vocabulary().colors


def test_a_generated_colour_is_the_same_in_every_run_and_every_request():
    # The number itself: Python's own hash() would differ from one process to the next.
    assert parse_prompts("flux capacitor")[0].color == FLUX_CAPACITOR
    assert parse_prompts("liver, Flux  Capacitor")[1].color == FLUX_CAPACITOR


FLUX_CAPACITOR = (36, 208, 110)


def is_a_word(text: str) -> bool:
    return bool(text.strip()) and not is_side(text)


@given(word=st.text("abcdefghijklmnopqrstuvwxyz ", min_size=1, max_size=30).filter(is_a_word))
def test_a_generated_colour_is_visible_and_far_from_the_vocabulary(word):
    (prompt,) = parse_prompts(word)
    if prompt.entry is None:
        assert all(0 <= channel <= 255 for channel in prompt.color)
        assert max(prompt.color) >= 128
        for taken in load_vocabulary().colors:
            assert (
                sum((a - b) ** 2 for a, b in zip(prompt.color, taken, strict=True)) >= LEAST_COLOR_DISTANCE**2
            )


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("liver, liver", ["liver"]),
        ("Liver, LIVER, liver", ["Liver"]),
        ("liver, hepar", ["liver"]),
        ("hepar, liver, spleen", ["hepar", "spleen"]),
        ("lung, lungs", ["lung"]),
        ("gizmo, Gizmo, GIZMO", ["gizmo"]),
        ("left_kidney, left kidney", ["left_kidney"]),
        ("kidney, left kidney", ["kidney", "left kidney"]),
    ],
)
def test_the_same_thing_twice_is_kept_once_as_typed_first(text, kept):
    assert words(text) == kept


@pytest.mark.parametrize("text", ["", "   ", ",;\n", ".", [], [""], [",", " "], ()])
def test_nothing_is_refused(text):
    with pytest.raises(PromptError, match=r"^No word was given; .*\.$"):
        parse_prompts(text)


def test_up_to_256_characters_are_read():
    assert words("a" * LONGEST_TEXT) == ["a" * LONGEST_TEXT]
    with pytest.raises(PromptError, match=r"257 characters .* at most 256"):
        parse_prompts("a" * (LONGEST_TEXT + 1))
    with pytest.raises(PromptError, match="300 characters"):
        parse_prompts(["liver", "b" * 300])


def test_up_to_32_words_are_read():
    many = [f"w{number}" for number in range(MOST_WORDS + 1)]
    assert len(parse_prompts(many[:-1])) == MOST_WORDS
    assert len(parse_prompts([*many[:-1], "W0"])) == MOST_WORDS
    with pytest.raises(PromptError, match="More than 32 words"):
        parse_prompts(",".join(many))
    with pytest.raises(PromptError, match="More than 32 words"):
        parse_prompts(many)


@pytest.mark.parametrize(
    "character",
    [
        "\x00",
        "\x07",
        "\x1b",
        "\t",
        "\x7f",
        "\x85",
        "\u200b",
        "\u202e",
        "\ufeff",
        "\u2028",
        "\ud800",
        "\ue000",
    ],
)
def test_control_characters_are_refused_by_number(character):
    with pytest.raises(PromptError, match=f"U\\+{ord(character):04X}"):
        parse_prompts(f"liver{character}, spleen")


@pytest.mark.parametrize(
    "word",
    [
        "печень",
        "肝臓",
        "ἧπαρ",
        "כבד",
        "كبد",
        "liver肝",
        "l\u0456ver",  # a Cyrillic letter that looks like an i
        "٣ ribs",
        "liver 🫀",
        "½ lung",
        "µ-lesion",
        "liver?",
        "<b>liver</b>",
        "a|b",
    ],
)
def test_what_the_text_encoders_cannot_read_is_refused(word):
    with pytest.raises(PromptError, match="cannot read; use Latin letters"):
        parse_prompts(f"spleen, {word}")


@pytest.mark.parametrize("word", ["123", "-", "()", "1.5"])
def test_a_word_without_a_letter_is_refused(word):
    with pytest.raises(PromptError, match="contains no letter"):
        parse_prompts(f"liver, {word}")


@pytest.mark.parametrize(
    "text",
    [
        None,
        5,
        b"liver",
        {"liver": 1},
        {"liver"},
        iter(["liver"]),
        ["liver", None],
        [["liver"]],
        [b"liver"],
        [3],
    ],
)
def test_what_is_no_text_is_refused(text):
    with pytest.raises(PromptError, match=r"must be a text"):
        parse_prompts(text)


def test_every_refusal_is_one_sentence_that_can_be_printed():
    for text in ("", "a" * 300, "\ud800", "\u0001", "я" * 256, "1" * 256, [f"w{n}" for n in range(40)], None):
        with pytest.raises(PromptError) as caught:
            parse_prompts(text)
        message = str(caught.value)
        message.encode()
        assert message.endswith(".")
        assert "\n" not in message
        assert len(message) < 250


readable = st.text(
    st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"], max_codepoint=0x24F)
    | st.sampled_from(",;\n .-'()"),
    max_size=80,
)
anything = st.text(st.characters(), max_size=300)
a_request = (
    readable
    | anything
    | st.lists(readable | anything | st.sampled_from(load_vocabulary().texts()), max_size=40)
)


@given(text=a_request)
def test_a_request_is_understood_or_refused_with_a_prompt_error(text):
    try:
        prompts = parse_prompts(text)
    except PromptError:
        return
    assert 1 <= len(prompts) <= MOST_WORDS
    assert len({same_text(prompt.word) for prompt in prompts}) == len(prompts)
    assert len({prompt.entry for prompt in prompts if prompt.entry}) == sum(
        prompt.entry is not None for prompt in prompts
    )
    for prompt in prompts:
        assert prompt.word == prompt.word.strip()
        assert prompt.word.isprintable()
        assert any(letter.isalpha() for letter in prompt.word)


@given(
    text=readable
    | st.lists(st.sampled_from(load_vocabulary().texts()), min_size=1, max_size=8).map(", ".join)
)
def test_parsing_the_parsed_words_gives_the_same_prompts(text):
    try:
        prompts = parse_prompts(text)
    except PromptError:
        return
    assert parse_prompts([prompt.word for prompt in prompts]) == prompts
    assert parse_prompts("\n".join(prompt.word for prompt in prompts)) == prompts
    assert [parse_prompts(prompt.word)[0] for prompt in prompts] == prompts


@given(names=st.lists(st.sampled_from(load_vocabulary().texts()), min_size=1, max_size=6))
def test_what_a_word_gets_does_not_depend_on_its_neighbours(names):
    together = {prompt.word: prompt for prompt in parse_prompts(names)}
    for word, prompt in together.items():
        assert parse_prompts(word) == [prompt]


@pytest.mark.parametrize(
    ("spellings", "key", "text"),
    [
        (("Heart-Spine", "heart-spine", "Heart Spine", "heart_spine"), "heart spine", "heart spine"),
        (("Left-Kidney", "left_kidney", "LEFT KIDNEY"), "left kidney", "left kidney"),
        (("Livers", "liver"), "liver", None),
    ],
)
def test_spellings_of_one_word_have_one_key_and_one_text(spellings, key, text):
    prompts = [parse_prompts(typed)[0] for typed in spellings]
    assert {prompt.key for prompt in prompts} == {key}
    assert text is None or {prompt.text for prompt in prompts} == {text}


@given(text=st.sampled_from(load_vocabulary().texts()))
def test_a_text_of_the_vocabulary_is_read_by_the_encoder_as_the_vocabulary_spells_it(text):
    assert parse_prompts(text.upper().replace(" ", "_"))[0].text == text


@pytest.mark.parametrize("text", ["left kidney, right", "kidney L, R", "Niere links; rechts"])
def test_a_side_after_a_word_with_a_side_is_refused(text):
    with pytest.raises(PromptError, match="has a side already; write each structure with its side"):
        parse_prompts(text)
