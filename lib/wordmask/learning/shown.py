"""Which slices of a labelled case are worth learning from, and what they show.

Knows cases, windows and planes; not models' networks, not what is learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wordmask.data.windows import Window
from wordmask.inference import request as planning
from wordmask.inference.request import choose_window
from wordmask.learning.cases import LabelledVolume
from wordmask.models.presets import Preset

EMPTY_SLICES = 12  # of a case at most, that show none of its words: more differ little and cost time


@dataclass(frozen=True, eq=False)
class ShownSlices:
    """Slices of one case through one window.

    Attributes:
        case: in memory.
        view: the volume, cut into slices.
        window: its name, and the CT window of that name.
        masks: word that the window suits -> [n, h, w] bool, of all slices.
        indices: of the slices worth learning from, ascending.
    """

    case: LabelledVolume
    view: planning.CutVolume
    window: tuple[str, Window | None]
    masks: Mapping[str, np.ndarray]
    indices: list[int]


def slices_worth_learning(case: LabelledVolume, preset: Preset) -> Iterator[ShownSlices]:
    """All slices of a case that show a word, and some that show none, for each window by itself."""
    view = planning.cut_volume(case.volume, plane="auto", slices=None, skip_air=True)
    windows: dict[tuple[str, Window | None], list[str]] = {}
    for word, prompt in case.prompts.items():
        windows.setdefault(choose_window(prompt, case.volume, None, preset), []).append(word)
    for window, words in windows.items():
        masks = {word: view.slicing.cut(case.masks[word]) for word in words}
        showing = np.any([m.any(axis=(1, 2)) for m in masks.values()], axis=0)
        yield ShownSlices(case, view, window, masks, _worth(showing, view.looked_at, case.case.name))


def _worth(showing: np.ndarray, looked_at: Sequence[int], name: str) -> list[int]:
    """Slices that show a word and some that show none, evenly spread; the case decides the first."""
    looked = np.zeros(len(showing), dtype=bool)
    looked[list(looked_at)] = True
    empty = np.flatnonzero(looked & ~showing)
    step = max(1, math.ceil(len(empty) / EMPTY_SLICES))
    return sorted(
        [*np.flatnonzero(showing & looked).tolist(), *empty[sum(name.encode()) % step :: step].tolist()]
    )
