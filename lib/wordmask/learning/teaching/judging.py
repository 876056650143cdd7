"""What held-out cases say about a committee: how much each member counts, and when a word counts as present.

Knows scores, cases and the taught segmenter; not how its networks learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage
from scipy.special import logit

from wordmask.inference.cache import FeatureCache
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.cases import LabelledVolume
from wordmask.models.base import Segmenter
from wordmask.progress import CancelToken
from wordmask.weights.card import CommitteeCard, PresenceLimit
from wordmask.words.prompts import parse_prompts

SHARPNESS = 4.0  # exponent of the Dice
FEWEST_ABSENT = 5  # held-out cases without the structure; with fewer, presence cannot be judged
SINGLE_SHARE = 0.9  # of the pictures
KEPT_EMPTY = 0.8  # share of them that are to stay unmarked


def weigh(scores: Sequence[float], members: int, frozen: float | None) -> tuple[float, ...]:
    """Weights of the members and, last, of the frozen model; their sum is 1.

    The members count the same, because only one of them can be judged. The frozen model counts more or less
    than a member, as its Dice is higher or lower.

    Args:
        scores: Dice of the first member on held-out cases; may be empty.
        members: how many there are.
        frozen: Dice of the frozen model on the given cases; None where it does not take part.
    """
    if frozen is None:
        return (*(1 / members for _ in range(members)), 0.0)
    taught = max(float(np.mean(scores)), 1e-3) if len(scores) else 1.0
    powers = np.array([taught] * members + [frozen]) ** SHARPNESS
    return tuple(float(weight) for weight in powers / powers.sum())


def is_single(cases: Sequence[LabelledVolume], word: str) -> bool:
    """Whether a structure is one piece in nearly every labelled picture.

    Args:
        cases: labelled; volumes do not count.
        word: as in their masks.
    """
    pieces = [
        ndimage.label(case.masks[word])[1]
        for case in cases
        if case.volume.is_picture and word in case.masks and case.masks[word].any()
    ]
    return bool(pieces) and float(np.mean([count == 1 for count in pieces])) >= SINGLE_SHARE


def calibrate_presence(
    judge: Segmenter,
    cases: Sequence[LabelledVolume],
    word: str,
    cache: FeatureCache,
    cancel: CancelToken,
) -> PresenceLimit | None:
    """When a word counts as present, from held-out cases; None with too few of them that do not show it.

    Args:
        judge: the member that did not learn from the cases; its provisional limit is 0.
        cases: that were held out.
        word: as in their masks.
        cache: of features.
        cancel: its ``cancel()`` ends the work with CancelledError.
    """
    asked = [case for case in cases if word in case.masks]
    if sum(not case.masks[word].any() for case in asked) < FEWEST_ABSENT:
        return None
    pipeline = VolumeSegmenter(judge, cache=cache)
    peaks: dict[bool, list[float]] = {True: [], False: []}
    for case in asked:
        prompt = case.prompts[word]
        result = pipeline.segment(case.volume, [prompt], cancel=cancel)
        peaks[bool(case.masks[word].any())].append(result.statistics[prompt.word].presence)
    return limit_for(peaks[False], peaks[True])


def describe_presence(card: CommitteeCard, words: Iterable[str]) -> str:
    """Sentences about whether the version can tell that a word is absent; each begins with a space.

    Args:
        card: of the committee.
        words: that were learned now.
    """
    sentences = []
    for word in words:
        limit = card.words[parse_prompts([word])[0].key].presence
        if limit is None:
            sentences.append(
                f" Whether {word!r} is in an image cannot be judged, because that takes {FEWEST_ABSENT} "
                "cases without it, so something may be marked in every image."
            )
        else:
            sentences.append(
                f" Of {limit.absent_cases} held-out cases without {word!r}, {limit.kept_empty or 0:.0%} stay "
                f"unmarked, and {limit.kept_found or 0:.0%} of those with it are marked."
            )
    return "".join(sentences)


def limit_for(absent: Sequence[float], present: Sequence[float]) -> PresenceLimit:
    """The lowest limit that keeps enough absent cases empty.

    Args:
        absent: presence 0..1 of cases without the structure, at least one.
        present: the same of cases with it.
    """
    limit = sorted(absent)[math.ceil(KEPT_EMPTY * len(absent)) - 1] + 1e-6
    return PresenceLimit(
        limit=float(logit(np.clip(limit, 1e-6, 1 - 1e-6))),
        absent_cases=len(absent),
        kept_empty=round(float(np.mean([value < limit for value in absent])), 4),
        kept_found=round(float(np.mean([value >= limit for value in present])), 4) if present else None,
    )
