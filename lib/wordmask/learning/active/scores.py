"""How sure a model is of one case, and where the case lies among others.

Three sources of uncertainty, each 0..1 and a function of image, words and weights alone:

- presence: how near the presence logit is to the limit of the decision
- boundary: the model's uncertainty in a band around the outline
- disagreement: how much the mask changes under other noise or other grey values, or between the networks
  of a taught word

Knows volumes, words and the pipeline; not strategies, not files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.special import entr, expit, logit
from torch import Tensor

from wordmask.data.geometry import Plane, slicing_for
from wordmask.data.volumes import Volume
from wordmask.inference.cache import FeatureCache
from wordmask.inference.pipeline import CACHE_BYTES, VolumeSegmenter
from wordmask.inference.request import as_prompts
from wordmask.inference.result import Segmentation
from wordmask.learning.active.embedding import embed_image
from wordmask.learning.evaluation.metrics import dice
from wordmask.models.base import Segmenter, SliceFeatures, SliceKey
from wordmask.models.taught.segmenter import CommitteeSegmenter
from wordmask.progress import CancelToken
from wordmask.words.prompts import Prompt

# of a slice's longer side, to either side of the outline: the same share of a model's pixels whatever the
# image's size
BAND = 0.02
GAMMAS = (0.8, 1.25)  # exponents of grey values in 0..1: a little brighter and a little darker
# Presence, boundary, disagreement: the reason names the source that is highest relative to these.
REMARKABLE = (0.5, 0.6, 0.2)
SURE = 0.5  # of what is remarkable; below this no source is worth a remark


@dataclass(frozen=True)
class CaseScore:
    """What is known of one case.

    Attributes:
        case: name of the case.
        uncertainty: mean of the three sources, each the mean over words, 0..1.
        presence: uncertainty about whether the words are there, 0..1.
        boundary: uncertainty about the outlines, 0..1.
        disagreement: how much the masks change under other noise or grey values, or between networks, 0..1.
        embedding: unit length, empty where the image shows only air.
        reason: why the model is unsure, as part of a sentence.
    """

    case: str
    uncertainty: float
    presence: float
    boundary: float
    disagreement: float
    embedding: list[float]
    reason: str

    @classmethod
    def unscored(cls, case: str, embedding: Sequence[float] = ()) -> CaseScore:
        """A case without a known uncertainty, because it is labelled or was not looked at yet."""
        return cls(case, 0.0, 0.0, 0.0, 0.0, list(embedding), "it was not scored")


@dataclass(frozen=True)
class _WordScore:
    presence: float
    boundary: float
    disagreement: float
    reasons: tuple[str, str, str]


def score_case(
    model: Segmenter | VolumeSegmenter,
    volume: Volume,
    prompts: str | Sequence[str] | Sequence[Prompt],
    *,
    name: str,
    cache: FeatureCache | None = None,
    cancel: CancelToken | None = None,
) -> CaseScore:
    """Measure how sure the model is of these words in this volume; takes as long as a few segmentations.

    A word that the weights refuse is left out; when they refuse all words, every source counts 1.

    Args:
        model: a segmenter, or a pipeline around one.
        volume: the image of the case.
        prompts: the words.
        name: of the case.
        cache: of features; None: that of the pipeline, or one for this case.
        cancel: its ``cancel()`` ends the scoring with CancelledError.

    Raises:
        WordMaskError: as `VolumeSegmenter.segment`.
    """
    made = as_prompts(prompts)
    pipeline = _pipeline(model, cache)
    embedding = embed_image(volume, made[0], pipeline.segmenter.preset, cancel=cancel)
    known = [prompt for prompt in made if not _refuses(pipeline.segmenter, prompt)]
    if not known:
        words = ", ".join(repr(prompt.word) for prompt in made)
        return CaseScore(name, 1.0, 1.0, 1.0, 1.0, embedding, f"the model has not learned {words} yet")
    # One word at a time, because the maps of a volume are large.
    scores = [_score_word(pipeline, volume, prompt, cancel) for prompt in known]
    table = np.array([[score.presence, score.boundary, score.disagreement] for score in scores])
    presence, boundary, disagreement = (round(float(value), 6) for value in table.mean(axis=0))
    relative = table / REMARKABLE
    word, source = np.unravel_index(int(np.argmax(relative)), table.shape)
    reason = scores[word].reasons[source] if relative.max() >= SURE else "nothing in it stands out"
    uncertainty = round((presence + boundary + disagreement) / 3, 6)
    return CaseScore(name, uncertainty, presence, boundary, disagreement, embedding, reason)


def _pipeline(model: Segmenter | VolumeSegmenter, cache: FeatureCache | None) -> VolumeSegmenter:
    if isinstance(model, VolumeSegmenter):
        return model if cache is None else VolumeSegmenter(model.segmenter, cache=cache)
    return VolumeSegmenter(model, cache=cache)


def _refuses(segmenter: Segmenter, prompt: Prompt) -> bool:
    return segmenter.preset.unknown_words == "refuse" and not bool(
        segmenter.encode_prompts([prompt]).known.all()
    )


def _score_word(
    pipeline: VolumeSegmenter, volume: Volume, prompt: Prompt, cancel: CancelToken | None
) -> _WordScore:
    word = prompt.word
    answering = pipeline.segmenter.answering(prompt, picture=volume.is_picture, hinted=False)
    others, cause = _other_views(pipeline, answering, prompt)
    result = pipeline.segment(volume, [prompt], keep=("probability", "uncertainty"), cancel=cancel)
    masks = [
        result.mask(word),
        *(other.segment(volume, [prompt], cancel=cancel).mask(word) for other in others),
    ]
    probability = result.statistics[word].presence
    boundary, where = _boundary_uncertainty(result, volume, word)
    return _WordScore(
        presence=decision_entropy(probability, _presence_limit(answering, prompt)),
        boundary=boundary,
        disagreement=disagreement(masks),
        reasons=(
            f"it is not clear whether {word!r} is in the image (presence {probability:.2f})",
            f"the outline of {word!r} is vague{where}"
            if masks[0].any()
            else f"{word!r} is close to being marked somewhere, but is not",
            f"the mask of {word!r} changes {cause}",
        ),
    )


def decision_entropy(probability: float, limit: float) -> float:
    """Entropy, in bits, of a decision: presence (0..1) against a limit (logit).

    1 at the limit, towards 0 on either side.
    """
    return _bits(float(expit(logit(np.clip(probability, 1e-9, 1 - 1e-9)) - limit)))


def disagreement(masks: Sequence[NDArray[np.bool_]]) -> float:
    """Mean of 1 - Dice over all pairs of masks of one shape: 0..1; two empty masks agree."""
    return float(
        np.mean(
            [1 - float(np.nan_to_num(dice(one, other), nan=1.0)) for one, other in combinations(masks, 2)]
        )
    )


def band_of(masks: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """[n, h, w], pixels within ``width`` steps of the outline, in each slice by itself.

    The edge of the picture is not an outline.
    """
    in_plane = np.ones((1, 3, 3), dtype=bool)
    grown = binary_dilation(masks, in_plane, iterations=width)
    return np.asarray(grown & ~binary_erosion(masks, in_plane, iterations=width, border_value=1))


def _boundary_uncertainty(result: Segmentation, volume: Volume, word: str) -> tuple[float, str]:
    """Mean uncertainty in the band, in bits, at most 1, and the slices where it is high, in words.

    Without a marked pixel there is no outline; the entropy of the highest probability counts instead.
    """
    slicing = slicing_for(volume.geometry, Plane(result.plane))
    masks = slicing.cut(result.mask(word))
    marked = np.flatnonzero(masks.any(axis=(1, 2)))
    if not len(marked):
        return _bits(float(result.maps["probability"][word].max(initial=0.0))), ""
    band = band_of(masks[marked], max(1, round(BAND * max(masks.shape[1:]))))
    bits = np.minimum(slicing.cut(result.maps["uncertainty"][word])[marked] / np.log(2), 1.0)
    entropy = np.where(band, bits, 0.0).sum(axis=(1, 2))
    pixels = band.sum(axis=(1, 2))  # 0 where a slice is marked from edge to edge
    mean = float(entropy.sum() / max(1, pixels.sum()))
    if len(masks) == 1:
        return mean, ""
    first, last = _run_around_worst(marked, entropy / np.maximum(1, pixels), mean)
    return mean, f" in slice {first}" if first == last else f" in slices {first} to {last}"


def _run_around_worst(
    indices: NDArray[np.intp], values: NDArray[np.float64], limit: float
) -> tuple[int, int]:
    """First and last slice of the run around the highest value in which no value is below the limit."""
    high = {int(index) for index, value in zip(indices, values, strict=True) if value >= limit}
    first = last = int(indices[int(np.argmax(values))])
    while first - 1 in high:
        first -= 1
    while last + 1 in high:
        last += 1
    return first, last


def _bits(probability: Any) -> Any:
    """Entropy of a coin in bits, 0..1; a number for a number, an array for an array."""
    return (entr(probability) + entr(1 - probability)) / np.log(2)


def _presence_limit(segmenter: Segmenter, prompt: Prompt) -> float:
    """The logit at which `presence.is_present` decides; 0 without a limit.

    Where the mask alone decides, the logit of its threshold.
    """
    preset = segmenter.preset
    if not segmenter.judges_presence(prompt):
        return float(logit(preset.threshold))
    if preset.presence is None:
        return 0.0
    return preset.presence.words.get(prompt.key, preset.presence.volume_logit)


def _other_views(
    pipeline: VolumeSegmenter, answering: Segmenter, prompt: Prompt
) -> tuple[list[VolumeSegmenter], str]:
    """The model as it might have been as well, and what the reason says where the masks differ.

    With other noise, or each network of a taught word alone; else the same model on other grey values.
    """
    variants = pipeline.segmenter.variants(prompt)
    if variants:
        how = (
            "when other networks answer" if isinstance(answering, CommitteeSegmenter) else "with other noise"
        )
        return [VolumeSegmenter(other, cache=pipeline.cache) for other in variants], how
    cache = FeatureCache(CACHE_BYTES)  # of this case alone, because others do not use its features
    tinted = [VolumeSegmenter(cast(Segmenter, _Tinted(answering, gamma)), cache=cache) for gamma in GAMMAS]
    return tinted, "when the grey values change a little"


class _Tinted:
    """A segmenter that sees every slice as ``slice ** gamma``; in all else the one that it is made of."""

    def __init__(self, model: Segmenter, gamma: float) -> None:
        self._model, self._gamma = model, gamma

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *arguments: Any) -> Any:
        return self._model(*arguments)

    def answering(self, prompt: Prompt, *, picture: bool, hinted: bool) -> Any:
        return self

    @property
    def fingerprint(self) -> str:
        return f"{self._model.fingerprint}-gamma-{self._gamma:g}"

    def encode_slices(self, slices: Tensor, keys: Sequence[SliceKey]) -> SliceFeatures:
        return self._model.encode_slices(slices**self._gamma, keys)
