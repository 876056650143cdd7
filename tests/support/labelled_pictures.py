"""Small pictures with a bright disc on noise, and their label maps: a thing that no weights have met."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from wordmask.learning.cases import Case

WORD = "blob"
SIZE = (48, 56)


def disc(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """A picture [h, w, 3] uint8 and where its disc is [h, w] bool.

    An odd seed has the disc at the left, an even one at the right.
    """
    random = np.random.default_rng(seed)
    ys, xs = np.mgrid[: size[0], : size[1]]
    centre = (random.uniform(0.35, 0.65) * size[0], (0.3 if seed % 2 else 0.7) * size[1])
    mask = (ys - centre[0]) ** 2 + (xs - centre[1]) ** 2 < random.uniform(7, 11) ** 2
    grey = random.normal(70, 12, size) + 120 * mask
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2), mask


def write_case(folder: Path, seed: int, *, value: int = 1, empty: bool = False) -> Case:
    """One case; empty: its label map names the word and has no voxel of it."""
    folder.mkdir(parents=True, exist_ok=True)
    picture, mask = disc(seed)
    image, label = folder / f"picture_{seed}.png", folder / f"label_{seed}.png"
    if empty:
        picture, mask = np.full_like(picture, 70), np.zeros_like(mask)
    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(image))
    sitk.WriteImage(sitk.GetImageFromArray((mask * value).astype(np.uint8)), str(label))
    return Case(f"picture_{seed}", image, label, {WORD: (value,)})
