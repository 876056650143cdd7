"""Who is judged: a model, asked as a user would ask it, or label maps that another tool has made.

Knows cases and the pipeline; not metrics, not reports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordmask.errors import RequestError, VolumeError
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.cases import LabelledVolume, Mask, find_images, words_of
from wordmask.progress import CancelToken
from wordmask.words.labels import LabelError

NAMES = "names.json"  # in a folder of label maps: {"liver": 1} for all of them


@dataclass(frozen=True, eq=False)
class Answer:
    """What was marked for one word of one case.

    Attributes:
        mask: [k, j, i].
        presence: 0..1, see `WordStatistics`; None where it is unknown.
        probability: likewise, 0..1; None where it was not asked for.
        uncertainty: likewise, nats.
    """

    word: str
    mask: Mask
    presence: float | None = None
    probability: NDArray[np.float32] | None = None
    uncertainty: NDArray[np.float32] | None = None


Answers = Callable[[LabelledVolume], Iterator[Answer]]


def ask(
    pipeline: VolumeSegmenter,
    case: LabelledVolume,
    *,
    threshold: float | None = None,
    maps: bool = False,
    cancel: CancelToken | None = None,
) -> Iterator[Answer]:
    """Ask for every word of a case as a user would.

    Words that share voxels are asked for one after the other.

    Args:
        pipeline: the model.
        case: with the words.
        threshold: probability above which a pixel is marked; None: the preset's.
        maps: whether the answers have probability and uncertainty.
        cancel: its ``cancel()`` ends the work with CancelledError.
    """
    keep = ("labels", "probability", "uncertainty") if maps else ("labels",)
    for words in case.groups():
        result = pipeline.segment(
            case.volume, [case.prompts[word] for word in words], threshold=threshold, keep=keep, cancel=cancel
        )
        for word in words:
            typed = case.prompts[word].word
            own = (result.maps[name][typed] for name in keep[1:])
            yield Answer(word, result.mask(typed), result.statistics[typed].presence, *own)


class LabelMaps:
    """Ready label maps of a folder, each named like its case.

    Their values are those of the case, or those of names.json in the folder.

    Raises:
        RequestError: the folder does not exist, or has no label map.
        LabelError: names.json cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise RequestError(f"There is no folder {folder.name} with label maps to judge; check its name.")
        self._files = find_images(folder)
        if not self._files:
            raise RequestError(
                f"The folder {folder.name} does not contain a label map; "
                "each must be named like its case, such as case_1.nii.gz."
            )
        self._names = _read_names(folder / NAMES)

    def __call__(self, case: LabelledVolume) -> Iterator[Answer]:
        """What the label map of a case marks.

        Raises:
            VolumeError: the case has no label map, or one on another grid.
            LabelError: the label map lacks a word.
        """
        own = case.case
        if own.name not in self._files:
            raise VolumeError(
                f"The folder to judge has no label map named {own.name}; name each label map like its case."
            )
        words = own.words if self._names is None else self._names
        if missing := sorted(own.words.keys() - words.keys()):
            raise LabelError(f"{NAMES} does not give a value for {', '.join(missing)}.")
        made = replace(own, label=self._files[own.name], words=words).read()
        return (Answer(word, made.masks[word]) for word in own.words)


def _read_names(path: Path) -> dict[str, tuple[int, ...]] | None:
    if not path.exists():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabelError(f"{path.name} is not readable JSON ({error}).") from error
    if not isinstance(names, dict | list):
        raise LabelError(f'{path.name} must say which value stands for which word, such as {{"liver": 1}}.')
    return words_of(names, path.name)
