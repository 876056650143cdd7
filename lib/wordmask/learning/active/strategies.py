"""Which case to label next: how sure a model is of each case, and the choice by name of a strategy.

`score_case` looks at one case with one model (scores.py); `choose` is a pure function of such scores,
the same for the server and for simulated experiments. Knows names, numbers and embeddings; not files, not a
server. docs/active_learning.md has the formulas.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from wordmask.errors import RequestError
from wordmask.learning.active.scores import CaseScore
from wordmask.resources import look_up

# of the candidates, rounded up: among these `hybrid` looks for the one that is least like what is labelled
UNSURE_SHARE = 0.5


@dataclass(frozen=True)
class Choice:
    """The case to label next.

    Attributes:
        case: its name.
        reason: one sentence for the person who labels it.
    """

    case: str
    reason: str


def choose(
    strategy: str, candidates: Sequence[CaseScore], labelled: Sequence[CaseScore], *, seed: int = 0
) -> Choice:
    """Choose one of the candidates; their order does not matter.

    Ties go to the name that sorts first. `diversity` and `hybrid` need embeddings: where no candidate has
    one, the case is chosen by chance, and the reason says so.

    Args:
        strategy: one of `STRATEGIES`.
        candidates: cases without a label, at least one.
        labelled: cases with a label; only their embeddings count.
        seed: of `random` alone.

    Raises:
        RequestError: there is no such strategy.
        ValueError: there is no candidate.
    """
    chooser = _CHOOSERS[look_up_strategy(strategy)]
    if not candidates:
        raise ValueError("There must be a case to choose.")
    return chooser(
        sorted(candidates, key=lambda score: score.case), sorted(labelled, key=lambda score: score.case), seed
    )


def look_up_strategy(name: str) -> str:
    """The name itself.

    Raises:
        RequestError: there is no such strategy; the message names the nearest one.
    """
    return look_up(name, STRATEGIES, "strategy", RequestError)


def _first(candidates: Sequence[CaseScore], labelled: Sequence[CaseScore], seed: int) -> Choice:
    return Choice(candidates[0].case, "The first case by name that has no label.")


def _random(candidates: Sequence[CaseScore], labelled: Sequence[CaseScore], seed: int) -> Choice:
    return Choice(random.Random(seed).choice(candidates).case, "Chosen by chance.")


def _uncertainty(candidates: Sequence[CaseScore], labelled: Sequence[CaseScore], seed: int) -> Choice:
    score = _least_sure_first(candidates)[0]
    return Choice(score.case, f"The model is least sure here: {score.reason}.")


def _diversity(candidates: Sequence[CaseScore], labelled: Sequence[CaseScore], seed: int) -> Choice:
    if (found := _farthest(candidates, labelled)) is None:
        return Choice(
            _random(candidates, labelled, seed).case,
            "Chosen by chance, because this model keeps no embeddings of images.",
        )
    score, distance = found
    if distance is None:
        return Choice(score.case, "The most typical case; nothing is labelled yet.")
    return Choice(
        score.case,
        f"Looks unlike everything labelled so far (distance {distance:.2f} to the nearest labelled case).",
    )


def _hybrid(candidates: Sequence[CaseScore], labelled: Sequence[CaseScore], seed: int) -> Choice:
    unsure = sorted(
        _least_sure_first(candidates)[: math.ceil(UNSURE_SHARE * len(candidates))],
        key=lambda score: score.case,
    )
    if (found := _farthest(unsure, labelled)) is None:
        return _uncertainty(candidates, labelled, seed)
    score, distance = found
    if distance is None:
        return Choice(
            score.case,
            f"The model is unsure here ({score.reason}), and this is the most typical of such cases.",
        )
    return Choice(
        score.case,
        f"The model is unsure here ({score.reason}), and of "
        "such cases this looks least like what is labelled.",
    )


def _least_sure_first(candidates: Sequence[CaseScore]) -> list[CaseScore]:
    return sorted(candidates, key=lambda score: (-score.uncertainty, score.case))


def _farthest(
    candidates: Sequence[CaseScore], labelled: Sequence[CaseScore]
) -> tuple[CaseScore, float | None] | None:
    """One step of greedy k-centre: the candidate farthest from its nearest labelled case, and the distance.

    With nothing labelled yet, the candidate that is nearest to the mean of the candidates, and None. None
    without any embedding.

    Source: Sener and Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach (ICLR
    2018), algorithm 1.
    """
    seen = [score for score in candidates if score.embedding]
    if not seen:
        return None
    points = _points(seen)
    centres = [score for score in labelled if len(score.embedding) == points.shape[1]]
    if not centres:
        return seen[int(np.argmin(cdist(points, points.mean(0, keepdims=True))[:, 0]))], None
    nearest = cdist(points, _points(centres)).min(axis=1)
    best = int(np.argmax(nearest))
    return seen[best], float(nearest[best])


def _points(scores: Sequence[CaseScore]) -> NDArray[np.float64]:
    """[n, width], of at least one."""
    return np.array([score.embedding for score in scores], dtype=np.float64)


_Chooser = Callable[[Sequence[CaseScore], Sequence[CaseScore], int], Choice]
_CHOOSERS: Mapping[str, _Chooser] = MappingProxyType(
    {
        "first": _first,
        "random": _random,
        "uncertainty": _uncertainty,
        "diversity": _diversity,
        "hybrid": _hybrid,
    }
)
STRATEGIES: Mapping[str, str] = MappingProxyType(
    {
        "first": "the first case by name",
        "random": "a case by chance",
        "uncertainty": "the case of which the model is least sure",
        "diversity": "the case that looks least like those that are labelled (core-set on ImageNet features)",
        "hybrid": (
            "of the half of the cases of which the model is least sure, "
            "the one that looks least like those that are labelled"
        ),
    }
)
