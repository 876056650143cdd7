"""CT windows: which Hounsfield units a model sees between black and white.

Knows numpy and configs/windows.yaml; not volumes, files or torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from wordmask.errors import RequestError
from wordmask.resources import look_up, read_config


@dataclass(frozen=True)
class Window:
    """Map Hounsfield units to 0..1: ``level - width / 2`` becomes 0, ``level + width / 2`` becomes 1.

    Values outside are clipped.

    Attributes:
        level: the middle, HU.
        width: from black to white, HU, above 0.

    Raises:
        RequestError: the level is not finite, or the width is not above 0.
    """

    level: float
    width: float

    def __post_init__(self) -> None:
        if not (0 < self.width < np.inf and abs(self.level) < np.inf):  # written so that NaN fails too
            raise RequestError(
                f"A window needs a level and a width above 0 HU, got level {self.level} and width "
                f"{self.width}."
            )

    @property
    def low(self) -> float:
        """The highest Hounsfield value that is shown black."""
        return self.level - self.width / 2

    @property
    def high(self) -> float:
        """The lowest Hounsfield value that is shown white."""
        return self.level + self.width / 2

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Apply the window to an image of any shape, in HU; returns float32 of the same shape, 0..1."""
        return rescale(image, self.low, self.high)


@cache
def load_windows() -> Mapping[str, Window]:
    """Read the named CT windows of configs/windows.yaml, in its order; the mapping is read-only."""
    text = read_config("windows.yaml")
    return MappingProxyType({name: Window(**numbers) for name, numbers in yaml.safe_load(text).items()})


def find_window(name: str) -> Window:
    """Look up a window of `load_windows` by name.

    Raises:
        RequestError: the name is unknown; the sentence suggests the nearest one.
    """
    windows = load_windows()
    return windows[look_up(name, windows, "window", RequestError)]


def rescale(image: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Map ``low`` to 0 and ``high`` to 1, clip the rest; all zeros when ``high`` is not above ``low``."""
    if not high > low:
        return np.zeros(image.shape, dtype=np.float32)
    unit = image.astype(np.float32)
    unit -= np.float32(low)
    unit *= np.float32(1 / (high - low))
    return np.clip(unit, 0, 1, out=unit)
