"""From a volume to slices as a model sees them: plane, grey values, and which slices are worth looking at.

Knows volumes and numpy; not torch, models or words.
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

from wordmask.data.geometry import Plane, Slicing, slicing_for
from wordmask.data.volumes import Volume
from wordmask.errors import RequestError
from wordmask.resources import look_up, read_config

__all__ = [
    "Plane",
    "Slicing",
    "Window",
    "body_slices",
    "choose_plane",
    "load_windows",
    "rescale",
    "slicing_for",
    "to_unit_range",
    "window_named",
]

# Fat starts at about -120 HU and lung ends at about -500 HU: above this, a voxel is tissue and not air.
TISSUE_ABOVE_HU = -300.0
# A slice of the body shows far more than that; noise and a patient's hair do not reach it.
BODY_SHARE = 0.001
# Pixel areas this close are the same: files round spacings.
SAME_AREA = 1.01


@dataclass(frozen=True)
class Window:
    """Hounsfield units to 0..1: ``level - width / 2`` becomes 0, ``level + width / 2`` becomes 1, the rest is
    clipped.
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
        """image: any shape, HU. Returns float32 of the same shape, 0..1."""
        return rescale(image, self.low, self.high)


@cache
def load_windows() -> Mapping[str, Window]:
    """The named CT windows of configs/windows.yaml, in its order; read-only."""
    text = read_config("windows.yaml")
    return MappingProxyType({name: Window(**numbers) for name, numbers in yaml.safe_load(text).items()})


def window_named(name: str) -> Window:
    """One of `load_windows`; RequestError names the nearest right one."""
    windows = load_windows()
    return windows[look_up(name, windows, "window", RequestError)]


def choose_plane(volume: Volume, plane: str = "auto") -> Plane:
    """The plane to cut along: ``auto``, ``axial``, ``coronal`` or ``sagittal``; RequestError on another name.

    ``auto`` takes the plane with the finest in-plane spacing, axial when isotropic; a volume of one slice is
    seen as that slice. A picture has one plane, which is called axial whatever was asked for.
    """
    names = ["auto", *Plane]
    wanted = plane.strip().lower() if isinstance(plane, str) else plane
    look_up(wanted, names, "plane", RequestError)
    if volume.is_picture:
        return Plane.AXIAL
    return _finest_plane(volume) if wanted == "auto" else Plane(wanted)


def _finest_plane(volume: Volume) -> Plane:
    slicings = {plane: slicing_for(volume.geometry, plane) for plane in Plane}
    if single := [plane for plane, slicing in slicings.items() if slicing.cut_shape[0] == 1]:
        return single[0]
    areas = {
        plane: slicing.in_plane_spacing[0] * slicing.in_plane_spacing[1]
        for plane, slicing in slicings.items()
    }
    finest = min(areas.values())
    return next(
        plane for plane, area in areas.items() if area <= finest * SAME_AREA
    )  # in the order of Plane: axial first


def to_unit_range(volume: Volume, slices: NDArray[Any], window: Window | None = None) -> NDArray[np.float32]:
    """Slices as a model sees them: float32 [n, 3, h, w] in 0..1, contiguous.

    slices: some of the volume's own, [n, h, w], or [n, h, w, 3] of a picture. With a window: Hounsfield units
    through it.
    Without: between percentiles 0.5 and 99.5 of the whole *volume* (`Volume.grey_range`), so that slices stay
    comparable. Pictures are divided by 255; a window does not touch them. Each slice depends on itself and
    the volume alone.
    """
    if volume.is_picture:
        return np.ascontiguousarray(np.moveaxis(slices, -1, 1), dtype=np.float32) / np.float32(255)
    low, high = (window.low, window.high) if window is not None else volume.grey_range
    unit = np.empty((len(slices), 3, *slices.shape[1:]), dtype=np.float32)
    unit[:] = rescale(slices, low, high)[:, None]
    return unit


def rescale(image: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """``low`` becomes 0, ``high`` becomes 1, the rest is clipped.

    Zeros when ``high`` is not above ``low`` (a constant image).
    """
    if not high > low:
        return np.zeros(image.shape, dtype=np.float32)
    unit = image.astype(np.float32)
    unit -= np.float32(low)
    unit *= np.float32(1 / (high - low))
    return np.clip(unit, 0, 1, out=unit)


def body_slices(volume: Volume, slicing: Slicing) -> NDArray[np.bool_]:
    """[n], which slices hold something: of a CT those that show more than air; of every other image all.

    Cautious: a slice is air only if less than 0.1 % of it is above -300 HU, so a table alone still counts as
    something.
    """
    stack = slicing.cut(volume.array)
    if volume.modality != "CT" or volume.is_picture:
        return np.ones(len(stack), dtype=np.bool_)
    counts = np.array(
        [np.count_nonzero(image > TISSUE_ABOVE_HU) for image in stack]
    )  # by slice: no mask of the whole volume
    return counts >= max(1.0, BODY_SHARE * stack[0].size)
