"""Reads label maps: whole numbers exactly as they are stored, on the grid of their image.

This is the one reader of labels, for training, evaluation and uploads. An image is read to be looked at, so
that its grey values may be stretched; a label map is read for its numbers. Knows files and grids; not words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wordmask.data.geometry import Geometry, measure_distance
from wordmask.data.image_files import PICTURE_SUFFIXES, suffix_of
from wordmask.data.limits import check_finite
from wordmask.data.picture_files import UPRIGHT, open_picture, read_orientation, read_picture_grid
from wordmask.data.volumes import Volume, read_volume
from wordmask.errors import VolumeError

_LOSSY_SUFFIXES = (".jpg", ".jpeg")
_SAME_VOXEL = 0.25  # of the smallest spacing: grids whose corners are closer are the same, but for rounding
_ROUNDING = 1e-3  # of a whole number: what a slope of 1.0000001 makes of it
_LOSSY_MIDDLE = 127
_LOSSY_GREY = (64, 191)  # a mask in black and white has few values between, all of them at its edges
_LOSSY_EDGES = 0.2  # share of what is not black that may be grey
# Pillow stretches grey of 2 and 4 bits to 8; a division gives back what is stored.
_STRETCHED = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels as they are stored.

    Attributes:
        array: [k, j, i], whole numbers; a picture has one slice.
        geometry: the grid of the array.
        name: of the file, without its folder.
        is_picture: whether its grid has no place in a patient.
        is_lossy: whether compression changed the values; the array is then 0 or 255, cut in the middle.
        warnings: sentences about what the file leaves open.
    """

    array: NDArray[np.integer[Any]]
    geometry: Geometry
    name: str
    is_picture: bool = False
    is_lossy: bool = False
    warnings: tuple[str, ...] = ()


def read_label_map(path: Path, max_voxels: int | None = None) -> LabelMap:
    """Read a label map from a picture or from any volume that `read_volume` reads.

    Args:
        path: of the file.
        max_voxels: how many are accepted; None: any number.

    Raises:
        VolumeError: the file cannot be read, or holds fractions, colours or transparency.
        TooLargeError: the header announces more than ``max_voxels``.
        OutOfMemoryError: the label map does not fit into memory.
    """
    if suffix_of(path) in PICTURE_SUFFIXES:
        array, is_lossy = _read_picture(path, max_voxels), suffix_of(path) in _LOSSY_SUFFIXES
        grid = read_picture_grid(path, array.shape[1], array.shape[0])
        values = _cut_lossy(array, path.name) if is_lossy else _round(array, path.name)
        warning = f"{path.name} is a JPEG, so its mask was cut in the middle of grey; PNG keeps it exactly."
        return LabelMap(values[None], grid, path.name, True, is_lossy, (warning,) if is_lossy else ())
    volume = read_volume(path, max_voxels=max_voxels)
    array = _take_grey(volume.array, path.name) if volume.is_picture else volume.array
    return LabelMap(_round(array, path.name), volume.geometry, path.name, is_picture=volume.is_picture)


def check_same_grid(labels: LabelMap, label_path: Path, volume: Volume, image_path: Path) -> None:
    """Refuse a label map that does not lie on the voxels of its image.

    Args:
        labels: what was read from ``label_path``.
        label_path: of the label map.
        volume: what was read from ``image_path``.
        image_path: of the image.

    Raises:
        VolumeError: the two differ in size, place or orientation.
    """
    if labels.geometry.size != volume.geometry.size:
        raise VolumeError(
            f"The label map {labels.name} has {_show_size(labels.geometry)} voxels and its image "
            f"{volume.name} {_show_size(volume.geometry)}; save the label map on the grid of the image."
        )
    if labels.is_picture:
        turns = read_orientation(label_path), read_orientation(image_path)
        _check_orientation(labels.name, volume.name, turns)
    if labels.is_picture or volume.is_picture:
        return
    ours, theirs = volume.geometry, labels.geometry
    apart = measure_distance(ours.affine_ras, theirs.affine_ras, ours.size)
    if apart > _SAME_VOXEL * min(ours.spacing):
        raise VolumeError(
            f"The label map {labels.name} lies elsewhere than its image {volume.name} (up to {apart:.3g} mm "
            "apart); resample it onto the grid of the image."
        )


def _check_orientation(label: str, image: str, turns: tuple[int, int]) -> None:
    """Refuse pictures of which only one is turned by its orientation tag: who drew the mask saw it turned."""
    if turns[0] == turns[1]:
        return
    tagged, other = (image, label) if turns[0] == UPRIGHT else (label, image)
    state = "has none" if UPRIGHT in turns else "has another one"
    raise VolumeError(
        f"{tagged} has an orientation tag, which turns it on the screen, and {other} {state}, so it is not "
        "clear where the labels lie; save both pictures upright and without the tag."
    )


def _read_picture(path: Path, max_voxels: int | None) -> NDArray[Any]:
    """Read the stored numbers of a picture as [h, w]: of a palette its indices, not its colours."""
    with open_picture(path, max_voxels) as image:
        stored = _stored_mode(path)
        if stored.endswith(";I"):
            raise VolumeError(f"{path.name} stores white as 0; save it with black as 0.")
        if image.mode in ("P", "1", "L") or image.mode.startswith(("I", "F")):
            return np.asarray(image) // _STRETCHED[stored] if stored in _STRETCHED else np.asarray(image)
        if "16" in stored:
            raise VolumeError(
                f"The label map {path.name} has colours of 16 bits; save it as one grey channel whose values "
                "are labels."
            )
        if image.mode in ("LA", "PA", "RGBA"):
            return _drop_transparency(image, path.name)
        return _take_grey(np.asarray(image.convert("RGB")), path.name)


def _stored_mode(path: Path) -> str:
    """Return how Pillow unpacks the pixels of a file, such as ``L;4``; that is known only before they are."""
    with Image.open(path) as image:
        mode = image.tile[0][3] if image.tile else ""
    mode = mode[0] if isinstance(mode, tuple) else mode
    return mode if isinstance(mode, str) else ""


def _drop_transparency(image: Image.Image, name: str) -> NDArray[Any]:
    opacity = np.asarray(image.getchannel("A"))
    if (opacity != opacity.flat[0]).any():
        raise VolumeError(
            f"The label map {name} is partly transparent, so it is not clear what its values are; save it as "
            "one grey channel whose values are labels."
        )
    if image.mode == "RGBA":
        return _take_grey(np.asarray(image)[..., :3], name)
    return np.asarray(image.getchannel(0))


def _take_grey(colours: NDArray[Any], name: str) -> NDArray[Any]:
    """Take one channel of [..., 3]; VolumeError when the channels differ, but for what JPEG does to them."""
    spread = np.ptp(colours, axis=-1).max(initial=0)
    if spread > (16 if suffix_of(Path(name)) in _LOSSY_SUFFIXES else 0):
        raise VolumeError(
            f"The label map {name} has colours; save it as one grey channel whose values are labels."
        )
    grey: NDArray[Any] = colours[..., 0]
    return grey


def _cut_lossy(grey: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Cut a black and white mask in the middle; VolumeError when compression left nothing to tell apart."""
    shown = grey[grey > _LOSSY_GREY[0]]
    between = np.count_nonzero(shown <= _LOSSY_GREY[1])
    if (not shown.size and grey.max(initial=0) > 0) or between > _LOSSY_EDGES * max(1, shown.size):
        raise VolumeError(
            f"The label map {name} is a JPEG, whose compression changes values, and it is not black and "
            f"white (its values reach {int(grey.max())}); save it as PNG."
        )
    return np.where(grey > _LOSSY_MIDDLE, 255, 0).astype(np.uint8)


def _round(array: NDArray[Any], name: str) -> NDArray[np.integer[Any]]:
    """Convert to whole numbers; VolumeError when they are fractions."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind in "iu":
        return array
    check_finite(array, name)
    whole = np.round(array)
    if (np.abs(array - whole) > _ROUNDING).any():
        raise VolumeError(
            f"A label map holds whole numbers, but {name} holds fractions; save it as integers."
        )
    return whole.astype(np.int64)


def _show_size(geometry: Geometry) -> str:
    return " x ".join(map(str, geometry.size))
