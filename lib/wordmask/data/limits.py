"""What every reader refuses: an image that is too large, and voxels that are not numbers.

Knows numpy; not files or formats.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from wordmask.errors import TooLargeError, VolumeError

LARGEST_VALUE = 1e30  # of an image: nothing that a scanner measures is larger


def refuse_too_large(voxels: int, max_voxels: int | None, name: str) -> None:
    """Refuse an image that has more voxels than are accepted.

    Args:
        voxels: how many the image has.
        max_voxels: how many are accepted; None: any number.
        name: of the image, for the sentence.

    Raises:
        TooLargeError: there are more.
    """
    if max_voxels is not None and voxels > max_voxels:
        raise TooLargeError(
            f"{name} has {voxels:,} voxels, and at most {max_voxels:,} are taken; crop it or resample it."
        )


def refuse_not_finite(bad: int, voxels: int, name: str) -> NoReturn:
    """Raise the VolumeError for an image of which ``bad`` of its ``voxels`` are NaN or infinite."""
    if bad == voxels:
        raise VolumeError(
            f"{name} holds no numbers: all of its {bad} voxels are NaN or infinite. Export it again."
        )
    raise VolumeError(
        f"{name} has {bad} of {voxels} voxels that are NaN or infinite; replace them by numbers and try "
        "again."
    )


def refuse_fill_values(array: NDArray[Any], name: str) -> None:
    """Refuse values so large that they only fill up what has not been measured.

    They would stretch the grey values of the image until nothing else is seen, or become infinite as 32-bit
    floats.

    Args:
        array: finite numbers of any shape.
        name: of the image, for the sentence.

    Raises:
        VolumeError: there are such values; the sentence counts them.
    """
    if array.dtype.kind != "f" or max(-float(array.min()), float(array.max())) <= LARGEST_VALUE:
        return
    large = np.abs(array) > LARGEST_VALUE
    count = int(np.count_nonzero(large))
    raise VolumeError(
        f"{name} has {count} of {array.size} voxels with values such as {float(array[large][0]):.3g}, which "
        "only fill up what was not measured; replace them by the smallest value of the image and try again."
    )


def check_finite(array: NDArray[Any], name: str) -> None:
    """Raise VolumeError, with their count, if voxels are NaN or infinite."""
    if array.dtype.kind != "f" or (
        np.isfinite(array.min()) and np.isfinite(array.max())
    ):  # both pass a NaN on, without a mask
        return
    refuse_not_finite(array.size - int(np.count_nonzero(np.isfinite(array))), array.size, name)


def reason_of(error: BaseException) -> str:
    """Say why, without any path: in the system's own words, else with the first line of the library."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0].rstrip(".")
