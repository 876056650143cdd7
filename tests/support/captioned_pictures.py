"""Small pictures that a caption can tell apart by the tint, the side and the brightness of a disc.

And a list of them.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from tests.support.labelled_pictures import disc

TINTS = {"red": (1.0, 0.3, 0.3), "green": (0.3, 1.0, 0.3), "blue": (0.3, 0.3, 1.0)}


def write_pairs(folder: Path, count: int) -> Path:
    """A CSV of ``count`` pictures; twelve different captions."""
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for number in range(count):
            picture, mask = disc(number)
            tint, bright = list(TINTS)[number // 2 % 3], number // 6 % 2
            shown = np.where(mask[..., None], picture * (1.0 if bright else 0.2), picture) * TINTS[tint]
            Image.fromarray(shown.astype(np.uint8)).save(folder / f"{number}.png")
            side = "left" if number % 2 else "right"
            writer.writerow(
                [f"{number}.png", f"{tint} picture, {'bright' if bright else 'dark'} disc at the {side}"]
            )
    return folder / "pairs.csv"
