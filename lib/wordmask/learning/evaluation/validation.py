"""How well a model does on whole labelled cases, by the very way that users get their masks.

Knows cases and the pipeline; not trainings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np

from wordmask.inference.cache import FeatureCache
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.cases import LabelledVolume
from wordmask.learning.evaluation.answers import ask
from wordmask.learning.evaluation.metrics import dice
from wordmask.models.base import Segmenter
from wordmask.progress import CancelToken


@dataclass(frozen=True)
class ValidationScore:
    """Dice of every word of every case.

    Attributes:
        dice: (case, word) -> 0..1; a word that is absent from its case counts 1 when nothing was marked, else
            0.
    """

    dice: dict[tuple[str, str], float]

    @property
    def mean(self) -> float:
        """Over words, of the mean over cases: a rare word counts as much as a frequent one."""
        return float(np.mean(list(self.words().values()))) if self.dice else 0.0

    def words(self) -> dict[str, float]:
        """Word -> mean over the cases that name it."""
        names = sorted({word for _, word in self.dice})
        return {
            name: float(np.mean([score for (_, word), score in self.dice.items() if word == name]))
            for name in names
        }


def validate(
    segmenter: Segmenter,
    cases: Sequence[LabelledVolume],
    cache: FeatureCache | None = None,
    cancel: CancelToken | None = None,
) -> ValidationScore:
    """The mean Dice of every word of every case, asked for as a user would."""
    pipeline = VolumeSegmenter(segmenter, cache=cache)
    scores = {}
    for case in cases:
        for answer in ask(pipeline, case, cancel=cancel):
            score = dice(answer.mask, case.masks[answer.word])
            scores[case.case.name, answer.word] = 1.0 if isnan(score) else score
    return ValidationScore(scores)
