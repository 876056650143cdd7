"""Cases keep their side: whatever is added, in whatever order, and however often one trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordmask.errors import RequestError
from wordmask.learning.cases import Case
from wordmask.learning.splitting import choose_share, hold_out, split_cases

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


@given(NAMES, st.floats(0.05, 0.4))
def test_held_out_cases_are_about_the_share_and_never_all(found, share):
    held = hold_out(cases(found), share)
    assert len(held) == min(max(1, round(share * len(found))), len(found) - 1)
    more = hold_out(cases([*found, "x1", "x2", "x3"]), share, held)
    assert held <= more


def test_a_group_is_held_out_as_a_whole_and_a_single_one_never():
    found = [f"case_{number}" for number in range(10)]
    held = hold_out(cases(found, lambda name: str(int(name[-1]) // 2)), 0.2)
    assert {str(int(name[-1]) // 2) for name in held} == {
        str(int(name[-1]) // 2) for name in sorted(held)[:1]
    }
    assert len(held) == 2
    assert hold_out(cases(["only"]), 0.2) == frozenset()
    assert hold_out(cases(found), 0.0) == frozenset()


def test_half_of_the_cases_without_a_word_judge_if_there_are_enough():
    found = [f"case_{number:02}" for number in range(30)]
    absent = found[:12]
    held = hold_out(cases(found), 0.2, absent=absent, fewest_absent=5)
    assert len(held.intersection(absent)) == 6
    assert len(held - set(absent)) == round(0.2 * 18)
    few = hold_out(cases(found), 0.2, absent=absent[:4], fewest_absent=5)
    assert not few.intersection(absent[:4])


def test_two_held_out_cases_of_one_name_are_refused():
    with pytest.raises(RequestError, match="Two cases are called 'a'"):
        hold_out(cases(["a", "a"]), 0.2)


def test_a_share_of_the_cases_holds_the_smaller_shares_and_depends_on_the_seed():
    found = cases([f"case_{number:02}" for number in range(20)])
    quarter, half = (choose_share(found, share, 1) for share in (0.25, 0.5))
    assert (len(quarter), len(half)) == (5, 10)
    assert quarter == half[:5] == choose_share(found[::-1], 0.25, 1)
    assert quarter != choose_share(found, 0.25, 2)
    assert choose_share(found, 1.0, 1) == found
    assert len(choose_share(found, 0.001, 1)) == 1
