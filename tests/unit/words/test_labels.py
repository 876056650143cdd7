"""Value <-> word <-> code, and label maps that do not hold what they announce."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordmask.errors import WordMaskError
from wordmask.words.labels import LabelError, LabelTable
from wordmask.words.prompts import parse_prompts


@pytest.fixture
def a_table_with_gaps():
    return LabelTable.from_names({"spleen": 7, "liver": 2, "gizmo": 300})


def test_words_get_the_values_1_to_n_in_their_order():
    table = LabelTable.from_prompts(parse_prompts("spleen, Liver, gizmo"))
    assert table.names() == {"spleen": 1, "Liver": 2, "gizmo": 3}
    assert [table.word(value) for value in (1, 2, 3)] == ["spleen", "Liver", "gizmo"]
    assert table.value("liver") == 2
    assert table.value("GIZMO") == 3


def test_gaps_stay_and_rows_are_in_the_order_of_their_values(a_table_with_gaps):
    assert list(a_table_with_gaps.names().items()) == [("liver", 2), ("spleen", 7), ("gizmo", 300)]
    assert [label.value for label in a_table_with_gaps] == [2, 7, 300]
    assert len(a_table_with_gaps) == 3


def test_the_order_of_announcement_does_not_matter():
    assert LabelTable.from_names({"liver": 2, "spleen": 7}) == LabelTable.from_names(
        {"spleen": 7, "liver": 2}
    )


def test_an_absent_word_or_value_is_named_with_what_there_is(a_table_with_gaps):
    with pytest.raises(LabelError, match=r"no label 'heart' .* liver = 2, spleen = 7, gizmo = 300\.$"):
        a_table_with_gaps.value("heart")
    with pytest.raises(LabelError, match=r"value 1 has no word"):
        a_table_with_gaps.word(1)
    with pytest.raises(LabelError, match=r"it has no labels\.$"):
        LabelTable(()).value("liver")


def test_label_info_is_what_monai_label_stores():
    info = LabelTable.from_prompts(parse_prompts("left kidney, gizmo")).to_label_info()
    assert info[0]["name"] == "left kidney"
    assert info[0]["idx"] == 1
    assert info[0]["code"] == {"scheme": "SCT", "value": "64033007", "meaning": "Kidney"}
    assert info[0]["modifier"]["meaning"] == "Left"
    assert info[1].keys() == {"name", "idx", "color"}
    assert all(
        isinstance(channel, int) for row in info for channel in row["color"]
    )  # nifti_to_dicom_seg reads 0..255
    assert json.loads(json.dumps(info)) == info


def test_label_info_is_read_by_name_and_never_by_position():
    info = [
        {"name": "spleen", "idx": 5},
        {"name": "background", "idx": 0},
        {"name": " liver ", "id": 2, "description": "x"},
    ]
    assert LabelTable.from_label_info(info).names() == {"liver": 2, "spleen": 5}


@given(
    names=st.dictionaries(
        st.sampled_from(["liver", "Left Kidney", "gizmo", "hepar", "L5"]), st.integers(1, 65535)
    )
)
def test_there_and_back_through_label_info(names):
    if len(set(names.values())) < len(names):
        with pytest.raises(LabelError, match="give each word its own"):
            LabelTable.from_names(names)
        return
    table = LabelTable.from_names(names)
    assert LabelTable.from_label_info(json.loads(json.dumps(table.to_label_info()))) == table
    assert LabelTable.from_names(table.names()) == table
    assert {table.word(table.value(word)) for word in names} == set(names)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("liver", "must be a list"),
        (None, "must be a list"),
        ({"liver": 1}, "must be a list"),
        (["liver"], "needs a name"),
        ([{"idx": 1}], "needs a name"),
        ([{"name": None, "idx": 1}], "needs a name"),
        ([{"name": "liver"}], "'liver' has no value"),
        ([{"name": "liver", "idx": None}], "'liver' has no value"),
        ([{"name": "liver", "idx": "1"}], "'liver' has no value"),
        ([{"name": "liver", "idx": 1.5}], "'liver' has no value"),
        ([{"name": "liver", "idx": True}], "'liver' has no value"),
        ([{"name": "liver", "idx": -1}], "value -1; it must lie in 1 to 65535"),
        ([{"name": "liver", "idx": 65536}], "value 65536; it must lie in 1 to 65535"),
        ([{"name": "  ", "idx": 3}], "value 3 has no name"),
        (
            [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 1}],
            "The value 1 stands for 'liver' and for 'spleen'",
        ),
        ([{"name": "liver", "idx": 1}, {"name": "Liver", "idx": 2}], "'Liver' has two values, 1 and 2"),
    ],
)
def test_label_info_that_says_nothing_clear_is_refused(info, message):
    with pytest.raises(LabelError, match=message):
        LabelTable.from_label_info(info)


@pytest.mark.parametrize("value", ["1", None, 1.0, True])
def test_names_with_something_else_than_a_whole_number_are_refused(value):
    with pytest.raises(LabelError, match="'liver' has no value"):
        LabelTable.from_names({"liver": value})


def test_a_label_error_is_shown_to_the_user():
    assert issubclass(LabelError, WordMaskError)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_announced_values_and_absent_labels_are_fine(dtype):
    table = LabelTable.from_names({"liver": 2, "spleen": 7})
    table.check_values(np.zeros((2, 3, 4), dtype))
    table.check_values(np.array([[0, 2, 2, 0]], dtype))
    table.check_values(np.array([0, 2, 7], dtype))
    table.check_values(np.zeros((0, 3), dtype))


def test_unannounced_values_are_named(a_table_with_gaps):
    with pytest.raises(
        LabelError, match=r"contains the value 3 without a name; the named values are liver = 2"
    ):
        a_table_with_gaps.check_values(np.array([0, 2, 3], np.uint8))
    with pytest.raises(LabelError, match=r"contains the values -1, 1, 255 without"):
        a_table_with_gaps.check_values(np.array([[255, 2], [1, -1]], np.int16))
    with pytest.raises(LabelError, match=r"values 8, 9, 10, 11, 12, 13, 14, 15, \.\.\. without"):
        a_table_with_gaps.check_values(np.arange(8, 200, dtype=np.uint16))


def test_a_file_saved_with_scribbles_first_is_caught():
    # Slicer's MONAI Label plugin counts scribbles in idx, but not in the values it exports: liver is
    # announced as 2, stored as 1.
    table = LabelTable.from_label_info([{"name": "liver", "idx": 2}, {"name": "spleen", "idx": 3}])
    with pytest.raises(LabelError, match="contains the value 1 without"):
        table.check_values(np.array([0, 1, 2], np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_a_map_of_fractions_is_no_label_map(dtype, a_table_with_gaps):
    with pytest.raises(LabelError, match=f"this one contains {np.dtype(dtype)}"):
        a_table_with_gaps.check_values(np.zeros(3, dtype))
