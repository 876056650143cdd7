"""Cases keep their side: whatever is added, in whatever order, and however often one trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordmask.errors import RequestError
from wordmask.learning.cases import Case
from wordmask.learning.splitting import split_cases

NOWHERE = Path("nowhere")
NAMES = st.lists(st.text("abcdefgh0123", min_size=1, max_size=6), unique=True, min_size=2, max_size=30)


def cases(names, group=lambda name: ""):
    return [Case(name, NOWHERE, NOWHERE, {"liver": (1,)}, group(name)) for name in names]


def names(side):
    return {case.name for case in side}


@given(NAMES, st.floats(0.05, 0.9))
def test_every_case_has_one_side_and_both_sides_have_cases(found, share):
    training, judging = split_cases(cases(found), share)
    assert names(training) | names(judging) == set(found)
    assert not names(training) & names(judging)
    assert judging
    assert training
    assert len(judging) <= max(1, round(2 * share * len(found)))


@given(NAMES, NAMES, st.randoms())
def test_adding_cases_moves_none_that_was_used(old, more, random):
    training, judging = split_cases(cases(old), 0.3)
    mixed = list(dict.fromkeys([*old, *more]))
    random.shuffle(mixed)
    again = split_cases(cases(mixed), 0.3, learned=names(training), judging=names(judging))
    assert names(training) <= names(again[0])
    assert names(judging) <= names(again[1])


@given(NAMES)
def test_a_group_is_never_parted(found):
    training, judging = split_cases(cases(found, group=lambda name: name[0]), 0.4)
    assert not {name[0] for name in names(training)} & {name[0] for name in names(judging)}


def test_one_case_alone_is_learned_from():
    assert [names(side) for side in split_cases(cases(["a"]), 0.001)] == [{"a"}, set()]


def test_two_cases_of_one_name_are_refused():
    with pytest.raises(RequestError, match="'a'"):
        split_cases(cases(["a", "b", "a"]), 0.2)
