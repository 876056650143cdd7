"""Which cases are learned from and which judge what was learned.

Knows names of cases; not their content. A case keeps its side for good: adding others, or the order of files,
changes nothing.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Collection, Mapping, Sequence

from wordmask.errors import RequestError
from wordmask.learning.cases import Case


def split_cases(
    cases: Sequence[Case], share: float, *, learned: Collection[str] = (), judging: Collection[str] = ()
) -> tuple[list[Case], list[Case]]:
    """Divide cases into (training, validation); a group is never divided.

    Of new groups, those whose name has a digest below ``share`` judge, but never more than twice the share of
    all; if there is none, the one with the smallest digest. A single group is never used for validation.

    Args:
        cases: all of them.
        share: of new cases that go to validation, 0..1.
        learned: names that the version in use was trained on; they stay in the training.
        judging: names that it was judged by; they stay in the validation.

    Raises:
        RequestError: two cases have one name.
    """
    refuse_equal_names(cases)
    known = {
        _group(case): case.name in judging for case in cases if case.name in learned or case.name in judging
    }
    chosen = judging_groups({_group(case) for case in cases}, share, known)
    return [c for c in cases if _group(c) not in chosen], [c for c in cases if _group(c) in chosen]


def hold_out(
    cases: Sequence[Case],
    share: float,
    known: Collection[str] = (),
    *,
    absent: Collection[str] = (),
    fewest_absent: int = 0,
) -> frozenset[str]:
    """Choose the cases that judge; never all of them.

    A group is never divided, and a case that judged before judges again. Of the others, the groups with the
    smallest digests join until the share is reached. Groups that do not show any word are divided by
    themselves: half of them judges, because whether a structure is there needs many such cases; but none of
    them while they are too few to judge it.

    Args:
        cases: all of them.
        share: of the groups that show a word, 0..1; of two such groups or more at least one judges.
        known: names that judged before.
        absent: names of the cases that do not show any word.
        fewest_absent: so many groups without a word judge, if any.

    Returns:
        Names of cases.

    Raises:
        RequestError: two cases have one name.
    """
    refuse_equal_names(cases)
    groups: dict[str, set[str]] = {}
    for case in cases:
        groups.setdefault(_group(case), set()).add(case.name)
    empty = {group for group, names in groups.items() if names <= set(absent)}
    judging = {group for group, names in groups.items() if names.intersection(known)}
    shown = sorted(set(groups) - empty, key=_digest)
    wanted = min(max(1, round(share * len(shown))), len(shown) - 1) if share else 0
    _join(judging, shown, wanted)
    if share and len(empty) >= fewest_absent:
        _join(judging, sorted(empty, key=_digest), max(fewest_absent, len(empty) // 2))
    return frozenset(name for group in judging for name in groups[group])


def _join(judging: set[str], groups: Sequence[str], wanted: int) -> None:
    """Add groups in their order until so many of them judge."""
    count = len(judging.intersection(groups))
    free = [group for group in groups if group not in judging]
    judging.update(free[: max(0, wanted - count)])


def refuse_equal_names(cases: Sequence[Case]) -> None:
    """Raise RequestError when two cases have one name."""
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"Two cases are called {twice!r}; give each its own name.")


def judging_groups(names: Collection[str], share: float, known: Mapping[str, bool] | None = None) -> set[str]:
    """Choose the groups that judge.

    Args:
        names: of all groups.
        share: of new groups that judge, 0..1.
        known: group -> whether it judged before; it keeps its part.
    """
    known = known or {}
    groups = sorted(names, key=_digest)
    chosen = {group for group, judges in known.items() if judges}
    fresh = [group for group in groups if group not in known]
    most = min(max(1, round(2 * share * len(groups))), len(groups) - 1) - len(chosen)
    small = [group for group in fresh if _digest(group) < share] or ([] if chosen else fresh[:1])
    # A few names may all have small digests, but something must be left to learn from.
    return chosen | set(small[: max(0, most)])


def _group(case: Case) -> str:
    return case.group or case.name


def _digest(text: str) -> float:
    """0..1, evenly spread, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def choose_share(cases: Sequence[Case], share: float, seed: int) -> list[Case]:
    """A share of the cases, at least one of those given; a larger share of one seed holds the smaller ones.

    Args:
        cases: to choose from.
        share: 0..1.
        seed: of the choice.
    """
    order = sorted(cases, key=lambda case: case.name)
    random.Random(seed).shuffle(order)
    return order[: math.ceil(share * len(order))] if share < 1 else list(cases)
