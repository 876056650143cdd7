"""Many cases in few numbers: means, their bootstrap intervals, and how often presence was judged right.

Means are over the cases that show the structure. Knows scores; not images, not models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Literal

import numpy as np

from wordmask.learning.evaluation.metrics import Agreement

RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percentiles
METRICS: tuple[Metric, ...] = ("dice", "iou", "nsd")

Metric = Literal["dice", "iou", "nsd"]


@dataclass(frozen=True)
class CaseResult:
    """One word in one case.

    Attributes:
        case: its name.
        group: cases of one group are not independent.
        word: what was asked for.
        agreement: of result and truth.
        presence: 0..1; None where it is unknown.
        unit: of the tolerance.
    """

    case: str
    group: str
    word: str
    agreement: Agreement
    presence: float | None
    unit: Literal["mm", "pixels"]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval, NaN where there is nothing to average.

    An interval needs two groups.
    """

    mean: float
    low: float = nan
    high: float = nan


@dataclass(frozen=True)
class WordSummary:
    """One word over all cases; shares are NaN where there is no case to count.

    Attributes:
        shown: cases whose truth has the structure.
        not_shown: cases whose truth lacks it.
        scores: by metric, over the cases that show it.
        sensitivity: share of the cases that show it in which something was marked.
        specificity: share of the other cases in which nothing was marked.
    """

    word: str
    shown: int
    not_shown: int
    scores: dict[Metric, Estimate]
    sensitivity: float
    specificity: float


def summarise(scores: Sequence[CaseResult], *, seed: int) -> list[WordSummary]:
    """One summary per word, in the order in which the words come; ``seed`` is that of the bootstrap."""
    return [
        _summary(word, [s for s in scores if s.word == word], seed)
        for word in dict.fromkeys(s.word for s in scores)
    ]


def overall(words: Sequence[WordSummary], metric: Metric) -> float:
    """Mean over words of their means: a rare word counts as much as a frequent one.

    NaN when no case shows any.
    """
    means = [word.scores[metric].mean for word in words if word.shown]
    return float(np.mean(means)) if means else nan


def bootstrap(values: Sequence[float], groups: Sequence[str], *, seed: int) -> Estimate:
    """Mean of the values, and its interval, from drawing whole groups again and again.

    Groups are drawn, because the values of one group are not independent.
    """
    if not values:
        return Estimate(nan)
    _, members = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(members, weights=values), np.bincount(members)
    if len(counts) < 2:
        return Estimate(float(np.mean(values)))
    drawn = np.random.default_rng(seed).integers(len(counts), size=(RESAMPLES, len(counts)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), INTERVAL)
    return Estimate(float(np.mean(values)), float(low), float(high))


def _summary(word: str, scores: Sequence[CaseResult], seed: int) -> WordSummary:
    shown = [score for score in scores if score.agreement.shown]
    absent = [score for score in scores if not score.agreement.shown]
    groups = [score.group for score in shown]
    return WordSummary(
        word,
        len(shown),
        len(absent),
        {
            metric: bootstrap([getattr(score.agreement, metric) for score in shown], groups, seed=seed)
            for metric in METRICS
        },
        _share([score.agreement.found for score in shown]),
        _share([not score.agreement.found for score in absent]),
    )


def _share(answers: Sequence[bool]) -> float:
    return float(np.mean(answers)) if answers else nan
