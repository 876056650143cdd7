"""Values of a label map against the names that come with it: learned as they are meant, or refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wordmask.learning.cases import Case, cases_from_json
from wordmask.words.labels import LabelError

VALUES = np.zeros((16, 24), np.uint8)
VALUES[2:8, 3:12], VALUES[9:14, 10:20] = 1, 2
MASK = (VALUES > 0).astype(np.uint8)


def a_case(folder: Path, label: np.ndarray, words, name: str = "label.png", **options) -> Case:
    Image.fromarray(np.zeros((*label.shape, 3), np.uint8)).save(folder / "image.png")
    Image.fromarray(label).save(folder / name)
    return Case("photo", folder / "image.png", folder / name, words, **options)


@pytest.mark.parametrize(
    ("label", "words", "cause"),
    [
        (MASK * 255, {"polyp": (1,)}, "The mask is 0 and 255: write 255 as the value of its name, not 1"),
        (VALUES * 100, {"polyp": (1,), "glare": (2,)}, "Give each name the value that the label map holds"),
        (np.where(VALUES == 2, 255, VALUES).astype(np.uint8), {"polyp": (1,)}, "often mean 'ignore'"),
        (np.arange(384, dtype=np.uint8).reshape(16, 24), {"polyp": (1,)}, "come from interpolation"),
        (VALUES, {"polyp": (1,)}, "Name every value"),
    ],
)
def test_values_that_no_name_announces_are_refused_with_the_likely_cause(tmp_path, label, words, cause):
    with pytest.raises(LabelError, match="without a name") as caught:
        a_case(tmp_path, label, words).read()
    assert cause in str(caught.value)
    assert str(caught.value).startswith("The label map label.png contains the value")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_stored_values_are_learned_whatever_their_type(tmp_path, dtype):
    name = "label.png" if dtype in (np.uint8, np.uint16) else "label.tif"
    read = a_case(tmp_path, VALUES.astype(dtype), {"polyp": (1,), "glare": (2,)}, name).read()
    np.testing.assert_array_equal(read.masks["polyp"][0], VALUES == 1)
    np.testing.assert_array_equal(read.masks["glare"][0], VALUES == 2)


def test_every_value_but_0_may_be_the_word(tmp_path):
    read = a_case(tmp_path, VALUES * 100, {"polyp": ()}).read()
    np.testing.assert_array_equal(read.masks["polyp"][0], VALUES > 0)


def test_unnamed_values_are_background_where_the_list_says_so(tmp_path):
    case = a_case(tmp_path, VALUES, {"polyp": (1,)})
    entry = {"image": "image.png", "label": "label.png", "names": {"polyp": 1}, "unnamed": "background"}
    (tmp_path / "cases.json").write_text(json.dumps([entry]))
    [listed] = cases_from_json(tmp_path / "cases.json")
    np.testing.assert_array_equal(listed.read().masks["polyp"][0], VALUES == 1)
    (tmp_path / "cases.json").write_text(json.dumps([{**entry, "unnamed": "skip"}]))
    with pytest.raises(LabelError, match=r'entry 0 .* unnamed is "refuse" or "background"'):
        cases_from_json(tmp_path / "cases.json")
    assert case.unnamed == "refuse"


def test_a_jpeg_of_one_word_is_read_with_a_warning(tmp_path, caplog):
    for value in (1, 255):
        with caplog.at_level(logging.WARNING):
            read = a_case(tmp_path, MASK * 255, {"polyp": (value,)}, "label.jpg").read()
        assert (read.masks["polyp"][0] != MASK).mean() < 0.05
        assert "label.jpg is a JPEG" in caplog.text


def test_a_jpeg_of_several_words_is_refused(tmp_path):
    for words in ({"polyp": (1,), "glare": (2,)}, {"polyp": (1, 2)}):
        with pytest.raises(LabelError, match=r"label.jpg is a JPEG, .* save it as PNG"):
            a_case(tmp_path, MASK * 255, words, "label.jpg").read()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([-1, 0, 1, 2, 3, 7, 100, 255, 256, 65535]), min_size=1, max_size=6),
    st.dictionaries(
        st.sampled_from(["liver", "spleen", "polyp"]),
        st.lists(st.sampled_from([1, 2, 3, 7, 100, 255, 256, 65535]), max_size=3, unique=True).map(tuple),
        min_size=1,
    ),
)
def test_any_values_and_names_are_learned_as_they_are_or_refused(tmp_path_factory, values, words):
    label = np.array(values, np.int32).reshape(1, -1)
    case = a_case(tmp_path_factory.mktemp("values"), label, words, "label.tif")
    announced = {value for own in words.values() for value in own}
    understood = set(values) - {0} <= announced or any(not own for own in words.values())
    try:
        read = case.read()
    except LabelError:
        assert not understood
        return
    assert understood
    for word, own in words.items():
        expected = [value in own if own else value != 0 for value in values]
        assert read.masks[word][0, 0].tolist() == expected
