"""From which score on a learned word counts as present, as held-out cases say.

Knows scores; not models, not cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from wordmask.weights.card import PresenceLimit

# Held-out cases without the structure, and with it: with fewer, presence cannot be judged.
FEWEST_ABSENT, FEWEST_PRESENT = 5, 10
LEAST_FOUND = 0.85  # share of held-out cases with the structure that a limit must keep
KEPT_EMPTY = 0.8  # share of those without it that are to stay unmarked


def are_enough(absent: int, present: int) -> bool:
    """Whether so many held-out cases, without the structure and with it, can say when it is absent."""
    return absent >= FEWEST_ABSENT and present >= FEWEST_PRESENT


def find_limit(absent: Sequence[float], present: Sequence[float]) -> PresenceLimit | None:
    """The lowest limit that keeps enough absent cases empty; None if the cases do not tell it well enough.

    Args:
        absent: scores of cases without the structure.
        present: scores of cases with it.
    """
    if not are_enough(len(absent), len(present)):
        return None
    limit = limit_for(absent, present)
    return limit if (limit.kept_found or 0.0) >= LEAST_FOUND else None


def limit_for(absent: Sequence[float], present: Sequence[float]) -> PresenceLimit:
    """The lowest limit that keeps enough absent cases empty, however many present ones it loses.

    Args:
        absent: scores of cases without the structure, at least one.
        present: scores of cases with it, at least one.
    """
    limit = sorted(absent)[math.ceil(KEPT_EMPTY * len(absent)) - 1] + 1e-6
    return PresenceLimit(
        limit=float(limit),
        absent_cases=len(absent),
        kept_empty=round(float(np.mean([value < limit for value in absent])), 4),
        kept_found=round(float(np.mean([value >= limit for value in present])), 4),
    )


def describe_limits(limits: Mapping[str, PresenceLimit | None]) -> str:
    """Sentences about whether a version can tell that a word is absent; each begins with a space.

    Args:
        limits: of the words that were learned now; None where presence is not judged.
    """
    sentences = []
    for word, limit in limits.items():
        if limit is None:
            sentences.append(
                f" Whether {word!r} is in an image cannot be judged: that takes at least {FEWEST_ABSENT} "
                f"held-out cases without it and {FEWEST_PRESENT} with it, which are told apart well. "
                "Something may be marked in every image."
            )
        else:
            sentences.append(
                f" Of {limit.absent_cases} held-out cases without {word!r}, {limit.kept_empty or 0:.0%} stay "
                f"unmarked, and {limit.kept_found or 0:.0%} of those with it are marked."
            )
    return "".join(sentences)
