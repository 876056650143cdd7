"""What held-out cases say about a committee: how much each member counts, and when a word counts as present.

Knows scores, cases and the taught segmenter; not how its networks learned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from wordmask.encoders.pixel_encoder import pool_slices
from wordmask.inference.cache import FeatureCache
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.request import choose_window, cut_volume
from wordmask.learning.cases import LabelledVolume
from wordmask.learning.presence_limits import FEWEST_ABSENT, are_enough, find_limit
from wordmask.models.base import Segmenter
from wordmask.models.presets import Preset
from wordmask.progress import CancelToken
from wordmask.weights.card import PresenceLimit

SHARPNESS = 4.0  # exponent of the Dice
MOST_LINEAR, FEW_PICTURES = 2.0, 10  # weight of the linear member, and up to how many pictures it has it
SINGLE_SHARE = 0.9  # of the pictures
REGULARISATION = 0.01  # inverse strength, of the logistic regression on features in units of their spread


def weigh(scores: Sequence[float], networks: int, pictures: int, frozen: float | None) -> tuple[float, ...]:
    """Weights of the networks, the linear member and, last, the frozen model; their sum is 1.

    The networks count the same, because only one of them can be judged. The linear member counts as two of
    them with up to 10 pictures, and less the more there are, because networks then learn more than it can.
    The frozen model counts more or less than a network, as its Dice is higher or lower.

    Args:
        scores: Dice of the first network on held-out cases; may be empty.
        networks: how many there are.
        pictures: how many show the word.
        frozen: Dice of the frozen model on the given cases; None where it does not take part.
    """
    linear = min(MOST_LINEAR, MOST_LINEAR * FEW_PICTURES / pictures) if pictures else 0.0
    taught = max(float(np.mean(scores)), 1e-3) if len(scores) else 1.0
    old = 0.0 if frozen is None else (frozen / taught) ** SHARPNESS
    weights = np.array([*([1.0] * networks), linear, old])
    return tuple(float(weight) for weight in weights / weights.sum())


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
    learned: Sequence[LabelledVolume],
    held: Sequence[LabelledVolume],
    word: str,
    cache: FeatureCache,
    cancel: CancelToken,
) -> PresenceLimit | None:
    """When a word counts as present; None where the cases do not tell it well enough.

    Contrast and pooled features, each in units of its spread over the held-out cases, count the same. The
    weights of the pooled features are those of a logistic regression on the cases that were learned from.

    Args:
        judge: the member that did not learn from the held-out cases, with a provisional `PresenceLimit(0)`.
        learned: cases that it learned from.
        held: cases that were held out.
        word: as in their masks.
        cache: of features.
        cancel: its ``cancel()`` ends the work with CancelledError.
    """
    asked = [case for case in held if word in case.masks]
    shows = np.array([bool(case.masks[word].any()) for case in asked])
    if not are_enough(int((~shows).sum()), int(shows.sum())):
        return None
    pipeline = VolumeSegmenter(judge, cache=cache)
    contrast = []
    for case in asked:
        prompt = case.prompts[word]
        result = pipeline.segment(case.volume, [prompt], cancel=cancel)
        contrast.append(float(logit(result.statistics[prompt.word].presence)))
    scores, weight = _in_spreads(np.array(contrast))
    weights = _pooled_weights([case for case in learned if word in case.masks], word, judge.preset)
    if weights is not None and all(case.volume.is_picture for case in asked):
        seen = np.stack([_pooled(case, word, judge.preset) for case in asked]) @ weights
        more, factor = _in_spreads(seen)
        scores, weights = scores + more, weights * factor
    else:
        weights = np.zeros(0)
    limit = find_limit(scores[~shows].tolist(), scores[shows].tolist())
    if limit is None:
        return None
    return limit.model_copy(update={"contrast": weight, "pooled": tuple(float(w) for w in weights)})


def _in_spreads(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Values in units of their spread, and the factor."""
    factor = 1.0 / max(float(values.std()), 1e-6)
    return values * factor, factor


def _pooled_weights(cases: Sequence[LabelledVolume], word: str, preset: Preset) -> NDArray[np.float64] | None:
    """Weights of the pooled features of pictures, from cases that were learned from; None with too few."""
    pictures = [case for case in cases if case.volume.is_picture]
    shows = np.array([bool(case.masks[word].any()) for case in pictures])
    if min((~shows).sum(), shows.sum()) < FEWEST_ABSENT:
        return None
    scaler = StandardScaler()
    features = scaler.fit_transform(np.stack([_pooled(case, word, preset) for case in pictures]))
    found = LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=5000).fit(features, shows)
    return np.asarray(found.coef_[0] / scaler.scale_, dtype=np.float64)


def _pooled(case: LabelledVolume, word: str, preset: Preset) -> NDArray[np.float64]:
    """Pooled features of a picture, as the segmenter computes them."""
    view = cut_volume(case.volume, plane="auto", slices=None, skip_air=True)
    window = choose_window(case.prompts[word], case.volume, None, preset)[1]
    return pool_slices(torch.from_numpy(view.unit_range([0], window)))[0].double().numpy()
