"""What held-out cases say about a committee: how much each member counts, and when a word counts as present.

Knows scores, cases and the taught segmenter; not how its networks learned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import logit

from wordmask.inference.cache import FeatureCache
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.cases import LabelledVolume
from wordmask.models.taught.segmenter import TaughtSegmenter
from wordmask.progress import CancelToken
from wordmask.weights.card import PresenceLimit

DOUBT = 5.0  # so many cases of mean quality are added to each member's own: a few cases say little
SHARPNESS = 4.0  # exponent of the Dice; members of equal Dice count the same
FEWEST_ABSENT = 5  # held-out cases without the structure; with fewer, presence cannot be judged
KEPT_EMPTY = 0.8  # share of them that are to stay unmarked


def weigh(scores: Sequence[Sequence[float]], frozen: float | None) -> tuple[float, ...]:
    """Weights of the members and, last, of the frozen model; their sum is 1.

    Args:
        scores: of each member, the Dice of its held-out cases; may be empty.
        frozen: Dice of the frozen model on the given cases; None where it does not take part.
    """
    all_scores = [score for own in scores for score in own]
    mean = float(np.mean(all_scores)) if all_scores else 1.0
    dice = [(sum(own) + DOUBT * mean) / (len(own) + DOUBT) for own in scores]
    dice.append(0.0 if frozen is None else frozen)
    powers = np.array(dice) ** SHARPNESS
    if powers.sum() == 0:
        powers[:-1] = 1
    return tuple(round(float(weight), 6) for weight in powers / powers.sum())


def calibrate_presence(
    segmenter: TaughtSegmenter,
    held: Sequence[frozenset[str]],
    judges: Sequence[LabelledVolume],
    word: str,
    cache: FeatureCache,
    cancel: CancelToken,
) -> PresenceLimit | None:
    """When a word counts as present, from held-out cases; None with too few of them that do not show it.

    Args:
        segmenter: the taught model.
        held: for each member, names of the cases that it did not learn from.
        judges: these cases.
        word: as in their masks.
        cache: of features.
        cancel: its ``cancel()`` ends the work with CancelledError.
    """
    asked = [case for case in judges if word in case.masks]
    absent = sum(not case.masks[word].any() for case in asked)
    if absent < FEWEST_ABSENT:
        return None
    peaks: dict[bool, list[float]] = {True: [], False: []}
    for member, names in enumerate(held):
        pipeline = VolumeSegmenter(segmenter.only(member), cache=cache)
        for case in asked:
            if case.case.name in names:
                prompt = case.prompts[word]
                result = pipeline.segment(case.volume, [prompt], cancel=cancel)
                peaks[bool(case.masks[word].any())].append(result.statistics[prompt.word].presence)
    return limit_for(peaks[False], peaks[True])


def limit_for(absent: Sequence[float], present: Sequence[float]) -> PresenceLimit:
    """The lowest limit that keeps enough absent cases empty.

    Args:
        absent: presence 0..1 of cases without the structure, at least one.
        present: the same of cases with it.
    """
    limit = float(np.quantile(absent, KEPT_EMPTY, method="higher")) + 1e-6
    return PresenceLimit(
        limit=float(logit(np.clip(limit, 1e-6, 1 - 1e-6))),
        absent_cases=len(absent),
        kept_empty=round(float(np.mean([value < limit for value in absent])), 4),
        kept_found=round(float(np.mean([value >= limit for value in present])), 4) if present else None,
    )
