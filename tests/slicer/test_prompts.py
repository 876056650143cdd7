"""The text box without Qt: words apart, completion, history, and hints."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from WordMaskLib.client import prompts
from WordMaskLib.client.answers import ModelInfo, Suggestion

from wordmask.words.vocabulary import load_vocabulary, same_text

KNOWN = st.sampled_from([text for entry in load_vocabulary().entries for text in entry.texts])


def suggestion(word: str, matched: str = "", **more: object) -> Suggestion:
    """What the server would answer for an entry of the vocabulary."""
    entry = load_vocabulary().lookup(word)
    assert entry is not None
    row = {
        "word": entry.word,
        "synonyms": list(entry.synonyms),
        "modalities": list(entry.modalities),
        "color": list(entry.color),
    }
    return Suggestion.from_json(
        {**row, "matched": matched or entry.word, "kind": "prefix", "trained": True, **more}
    )


def model(**more: object) -> ModelInfo:
    return ModelInfo.from_json(
        {"name": "tiny", "title": "Tiny", "trained_words": ["liver"], "unknown_words": "refuse", **more}
    )


# --- words apart ---


def test_a_text_is_taken_apart_at_its_separators():
    assert prompts.typed_words(" Liver,hepar ;\nleft  kidney\r\n, ,") == ["Liver", "hepar", "left kidney"]
    assert prompts.typed_words(" , ;") == []


@pytest.mark.parametrize("text", ["Left_Kidney", "left  kidney", "LEFT-KIDNEY", "Left Kidney "])
def test_spellings_of_one_text_are_equal_as_on_the_server(text):
    assert prompts.same_text(text) == same_text(text) == "left kidney"


# --- completion ---


@pytest.mark.parametrize(
    ("text", "word", "query"),
    [
        ("sple|", "sple", "sple"),
        ("liver, sple|", "sple", "sple"),
        ("liver, sp|le, heart", "sple", "sp"),
        ("liver,| sple", "sple", ""),
        ("liv|er, sple", "liver", "liv"),
        ("liver, |", "", ""),
        ("|", "", ""),
        ("left kid|ney", "left kidney", "left kid"),
        ("a;b|;c", "b", "b"),
        ("liver\nhe|", "he", "he"),
        ("  liver  |", "liver", "liver"),
    ],
)
def test_the_word_under_the_cursor_is_found(text, word, query):
    cursor = text.index("|")
    plain = text.replace("|", "")
    found = prompts.word_at(plain, cursor)
    assert (plain[found.start : found.end], found.query) == (word, query)


@pytest.mark.parametrize(
    ("text", "chosen", "becomes"),
    [
        ("sple|", "spleen", "spleen|"),
        ("liver,sple|", "spleen", "liver, spleen|"),
        ("liver, |", "spleen", "liver, spleen|"),
        ("liver, sp|le, heart", "spleen", "liver, spleen|, heart"),
        ("le|ft kidney; heart", "left lung", "left lung|; heart"),
        ("liver\nhe|", "heart", "liver\nheart|"),
    ],
)
def test_a_chosen_word_takes_the_place_of_the_typed_one(text, chosen, becomes):
    replaced, cursor = prompts.replace_word(text.replace("|", ""), text.index("|"), chosen)
    assert f"{replaced[:cursor]}|{replaced[cursor:]}" == becomes


@given(st.lists(KNOWN, min_size=1, max_size=6), st.sampled_from([", ", ",", "; ", "\n"]), st.data())
def test_completing_changes_one_word_and_no_other(words, separator, data):
    text, number = separator.join(words), data.draw(st.integers(0, len(words) - 1))
    start = len(separator.join(words[:number])) + (len(separator) if number else 0)
    replaced, cursor = prompts.replace_word(
        text, start + data.draw(st.integers(0, len(words[number]))), "pancreas"
    )
    assume(cursor > 0)
    assert [word.strip() for word in prompts.SEPARATORS.split(replaced)] == [
        *words[:number],
        "pancreas",
        *words[number + 1 :],
    ]
    assert replaced[:cursor].endswith("pancreas")


@given(st.text(alphabet="ab ,;\n.", max_size=20), st.integers(-5, 30))
def test_any_cursor_in_any_text_finds_a_word_without_separators(text, cursor):
    found = prompts.word_at(text, cursor)
    assert 0 <= found.start <= found.end <= len(text)
    assert not prompts.SEPARATORS.search(text[found.start : found.end])
    assert text[found.start : found.end].startswith(found.query)


# --- history ---


def test_the_history_has_the_latest_first_and_nothing_twice():
    history: list[str] = []
    for text in ("liver", "spleen;heart", "LIVER", "spleen , heart", "", "\x00"):
        history = prompts.remember(history, text)
    assert history == ["spleen, heart", "LIVER"]


@given(st.lists(st.one_of(KNOWN, st.text(max_size=8)), max_size=50), st.integers(1, 10))
def test_the_history_is_bounded_and_survives_settings(texts, limit):
    history: list[str] = []
    for text in texts:
        history = prompts.remember(history, text, limit=limit)
    assert len(history) <= limit
    assert len({same_text(text) for text in history}) == len(history)
    assert prompts.read_history(json.loads(json.dumps(history)), limit=limit) == history


@pytest.mark.parametrize(
    ("kept", "becomes"),
    [
        (None, []),
        ("liver", ["liver"]),
        (7, []),
        (["liver", 3, "\x00", "Liver", "spleen"], ["liver", "spleen"]),
        (("a", "b"), ["a", "b"]),
    ],
)
def test_whatever_settings_hold_becomes_a_history(kept, becomes):
    assert prompts.read_history(kept) == becomes


# --- hints ---


def test_a_word_that_fits_needs_no_hint():
    for word in ("liver", "Hepar", "LIVERS"):
        found = [suggestion("liver", word.lower(), kind="synonym")]
        assert prompts.word_hints(word, found, model(), "CT") == []


def test_an_unknown_word_gets_the_nearest_one_to_choose():
    (hint,) = prompts.word_hints("lver", [suggestion("liver", kind="misspelling")], model(), "CT")
    assert (hint.kind, hint.better) == ("unknown", "liver")
    assert hint.sentence == "'lver' is not in the vocabulary; did you mean 'liver'?"


def test_the_beginning_of_a_word_is_not_the_word():
    (hint,) = prompts.word_hints("liv", [suggestion("liver")])
    assert hint.kind == "unknown"


@pytest.mark.parametrize(
    ("unknown_words", "advice"), [("refuse", "nothing will be marked"), ("segment", "carefully")]
)
def test_a_word_that_nobody_knows_is_told_what_the_model_will_do(unknown_words, advice):
    (hint,) = prompts.word_hints("xyzzy", [], model(unknown_words=unknown_words))
    assert advice in hint.sentence
    assert hint.better == ""


@pytest.mark.parametrize("typed", ["Heart-Spine", "heart-spine", "Heart Spine", "heart_spine"])
def test_a_word_that_was_taught_is_known_in_every_spelling(typed):
    assert prompts.word_hints(typed, [], model(trained_words=["heart spine"])) == []


@pytest.mark.parametrize(
    ("unknown_words", "advice"),
    [("refuse", "nothing will be marked"), ("segment", "check its mask carefully")],
)
def test_a_word_that_is_not_in_the_training_is_told(unknown_words, advice):
    (hint,) = prompts.word_hints(
        "gallbladder", [suggestion("gallbladder", trained=False)], model(unknown_words=unknown_words), "CT"
    )
    assert hint.kind == "untrained"
    assert hint.sentence.startswith("The model Tiny was not trained on 'gallbladder'")
    assert advice in hint.sentence


@pytest.mark.parametrize(
    ("word", "modality", "is_told"),
    [
        ("skin lesion", "CT", True),
        ("skin lesion", "XC", False),
        ("polyp", "ES", False),
        ("polyp", "picture", False),
        ("spleen", "US", False),
        ("spleen", "picture", False),
        ("spleen", "DX", True),
        ("liver", "ct", False),
        ("liver", "OP", True),
        ("liver", "", False),
        ("liver", "PT", True),
    ],
)
def test_a_word_for_another_kind_of_image_is_told(word, modality, is_told):
    hints = prompts.word_hints(word, [suggestion(word)], model(), modality)
    assert [hint.kind for hint in hints] == (["modality"] if is_told else [])
    assert all(
        f"{word!r} is usually segmented in" in hint.sentence and hint.sentence.endswith(".") for hint in hints
    )
