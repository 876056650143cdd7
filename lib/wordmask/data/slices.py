"""Turns a volume into slices as a model sees them: plane, grey values, and which slices show the patient.

Knows volumes and numpy; not torch, models or words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordmask.data.geometry import Plane, Slicing, slicing_for
from wordmask.data.volumes import Volume
from wordmask.data.windows import Window, rescale
from wordmask.errors import RequestError
from wordmask.resources import look_up

# Fat starts at about -120 HU and lung ends at about -500 HU: above this, a voxel is tissue and not air.
TISSUE_ABOVE_HU = -300.0
# A slice of the body shows far more than that; noise and a patient's hair do not reach it.
BODY_SHARE = 0.001
# Pixel areas this close are the same: files round spacings.
SAME_AREA = 1.01


def choose_plane(volume: Volume, plane: str = "auto") -> Plane:
    """Choose the plane to cut along.

    Args:
        volume: a picture has one plane, which is called axial whatever was requested.
        plane: ``axial``, ``coronal``, ``sagittal``, or ``auto``: the plane with the finest in-plane spacing,
            axial when the spacing is isotropic, and the one slice of a volume that has only one.

    Raises:
        RequestError: the name of the plane is unknown.
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
    """Convert slices to what a model sees. Each slice depends on itself and the volume alone.

    Args:
        volume: where the slices come from. A picture is divided by 255, whatever the window.
        slices: some of the volume's own, [n, h, w], or [n, h, w, 3] of a picture.
        window: the CT window, for Hounsfield units. None: between the percentiles 0.5 and 99.5 of the whole
            volume (`Volume.grey_range`), so that slices stay comparable.

    Returns:
        float32 [n, 3, h, w] in 0..1, contiguous.
    """
    if volume.is_picture:
        return np.ascontiguousarray(np.moveaxis(slices, -1, 1), dtype=np.float32) / np.float32(255)
    low, high = (window.low, window.high) if window is not None else volume.grey_range
    unit = np.empty((len(slices), 3, *slices.shape[1:]), dtype=np.float32)
    unit[:] = rescale(slices, low, high)[:, None]
    return unit


def body_slices(volume: Volume, slicing: Slicing) -> NDArray[np.bool_]:
    """Mark the slices of a CT that show more than air, and all slices of any other image.

    This is cautious: a slice is air only if less than 0.1 % of it is above -300 HU, so a slice that shows
    only the table still counts.

    Returns:
        bool [n].
    """
    stack = slicing.cut(volume.array)
    if volume.modality != "CT" or volume.is_picture:
        return np.ones(len(stack), dtype=np.bool_)
    counts = np.array(
        [np.count_nonzero(image > TISSUE_ABOVE_HU) for image in stack]
    )  # by slice: no mask of the whole volume
    return counts >= max(1.0, BODY_SHARE * stack[0].size)
