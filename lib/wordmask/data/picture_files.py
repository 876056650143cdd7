"""Reads pictures with Pillow: PNG, JPEG, TIFF and BMP, as their pixels are stored.

Knows files and geometry; not volumes or the meaning of colours.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wordmask.data.geometry import Geometry
from wordmask.data.image_files import Decoded, geometry_of, grey_range, open_image
from wordmask.data.limits import check_finite, reason_of, refuse_too_large
from wordmask.errors import TooLargeError, VolumeError

UPRIGHT = 1  # the orientation of a picture that is stored as it is to be seen
_ORIENTATION = 274  # the tag, in EXIF and TIFF
# Pillow turns a TIFF by its orientation tag while loading it, and no other format; ITK (Slicer) turns none:
# this turns it back.
_UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def read_picture(path: Path, max_voxels: int | None = None) -> Decoded:
    """Read a picture as [1, h, w, 3] uint8, exactly as its pixels are stored.

    Grey is repeated to three channels, transparency is dropped, 16-bit colour keeps its upper 8 bits, and
    grey of more than 8 bits is stretched between its percentiles 0.5 and 99.5. An orientation tag (EXIF,
    TIFF) is not followed, as in Slicer: the label map has to lie on the pixels as they are stored. The pixel
    spacing is what SimpleITK reads, 1 mm where the file has none.

    Raises:
        VolumeError: the picture cannot be read.
        TooLargeError: it has more than ``max_voxels`` pixels.
    """
    with open_picture(path, max_voxels) as image:
        pixels = _rgb(image, path.name)
    height, width = pixels.shape[:2]
    warning = (
        f"{path.name} has an orientation tag, which turns it on the screen; its mask lies on the pixels as "
        "they are stored."
    )
    warnings = () if read_orientation(path) == UPRIGHT else (warning,)
    return Decoded(pixels[None], read_picture_grid(path, width, height), "picture", warnings)


@contextmanager
def open_picture(path: Path, max_voxels: int | None = None) -> Iterator[Image.Image]:
    """Open a picture as its pixels are stored, whatever its orientation tag says.

    Raises:
        VolumeError: it cannot be read, also where that is noticed only while it is open.
        TooLargeError: it has more than ``max_voxels`` pixels, or more than Pillow reads.
    """
    try:
        with Image.open(path) as image:
            refuse_too_large(image.width * image.height, max_voxels, path.name)
            if image.format == "TIFF" and (pages := getattr(image, "n_frames", 1)) > 1:
                raise VolumeError(
                    f"{path.name} has {pages} pages; one picture is segmented at a time. Save one page and "
                    "try again."
                )
            turned = _orientation(image) if image.format == "TIFF" else UPRIGHT
            image.load()
            yield image.transpose(_UNDO_ORIENTATION[turned]) if turned != UPRIGHT else image
    except Image.DecompressionBombError as error:
        raise TooLargeError(
            f"{path.name} has more pixels than one picture may have (a scan of a whole slide?); crop it or "
            "export it smaller."
        ) from error
    except UnidentifiedImageError as error:
        raise VolumeError(f"{path.name} is not a picture, or it is truncated; export it again.") from error
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:
        raise VolumeError(
            f"{path.name} cannot be read as a picture ({reason_of(error)}); export it again."
        ) from error


def read_orientation(path: Path) -> int:
    """Return the orientation tag of a picture, 1 to 8; 1 (upright) where there is none, or no picture."""
    try:
        with Image.open(path) as image:
            return _orientation(image)
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError):
        return UPRIGHT


def _orientation(image: Image.Image) -> int:
    tag = image.getexif().get(_ORIENTATION, UPRIGHT)
    return int(tag) if tag in _UNDO_ORIENTATION else UPRIGHT


def _rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Convert to colours [h, w, 3]."""
    if image.mode.startswith(("I", "F")):
        grey = np.asarray(image)
        check_finite(grey, name)
        low, high = grey_range(grey)
        unit = (
            np.clip((grey.astype(np.float64) - low) / (high - low), 0, 1)
            if high > low
            else np.zeros(grey.shape)
        )
        return np.repeat(np.round(unit * 255).astype(np.uint8)[..., None], 3, axis=-1)
    opaque = (
        image.convert("RGBA") if image.mode in ("P", "PA", "LA") else image
    )  # a palette may hold transparency
    return np.array(opaque.convert("RGB"))


def read_picture_grid(path: Path, width: int, height: int) -> Geometry:
    """Read the grid as SimpleITK does, from the resolution that some formats store."""
    plain = Geometry.of_picture(width, height)
    try:
        header = open_image(path)
        seen = geometry_of(header, path.name)
    except (
        VolumeError
    ):  # a variant that Pillow reads and ITK does not, or a resolution of 0: no spacing to be had
        return plain
    if seen.size != plain.size:
        return plain
    return Geometry(seen.size, seen.spacing, seen.origin, seen.direction, oriented=False)
