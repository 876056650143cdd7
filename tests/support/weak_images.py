"""Small drawn pictures as files, some with a person's labels: what weak supervision is tested on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from wordmask.learning.cases import Case, Study
from wordmask.phantoms.painting import Random
from wordmask.phantoms.pictures import KINDS
from wordmask.phantoms.words import LABELS

WORD = "polyp"


def draw_image(folder: Path, seed: int, *, group: str = "", labelled: bool = False) -> Study:
    """One picture with a polyp; labelled: with the true mask of it, as a person would submit it."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, labels = KINDS["endoscopy"](1, 72, Random(seed))
    pixels = (
        (pictures[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)[:, 8:]
    )  # 72 x 64: a square pads it
    name = f"picture_{seed}"
    image, label = folder / f"{name}.png", folder.parent / "labels" / f"{name}.png"
    label.parent.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(image))
    sitk.WriteImage(
        sitk.GetImageFromArray((labels[0].numpy()[:, 8:] == LABELS.index(WORD)).astype(np.uint8)), str(label)
    )
    case = Case(name, image, label, {WORD: (1,)}, group) if labelled else None
    return Study(name, image, group, case)
