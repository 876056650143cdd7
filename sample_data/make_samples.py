"""Make the sample studies and their true labels: ``python sample_data/make_samples.py``.

The seeds are not used by any training or calibration, and the samples are never looked at for any choice.
Same seeds, same generator
version: same files. Writes studies/ (images, flat), truth/ (label maps of the same stem) and index.json
beside this script.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from wordmask.phantoms import GENERATOR_VERSION
from wordmask.phantoms.body import ct_volume
from wordmask.phantoms.painting import Random
from wordmask.phantoms.pictures import KINDS
from wordmask.phantoms.words import LABELS, WORDS, label_values

HERE = Path(__file__).resolve().parent
FIRST_SEED = 900_001
SLICES, SIZE, PIXEL_MM, BODY_MM = 40, 160, 2.4, 520.0
VOLUMES = (  # stem, suffix, heights from the lung apex (0) to the pelvis (1)
    ("ct_chest_abdomen", ".nii.gz", (0.05, 0.72)),
    ("ct_abdomen_pelvis", ".nrrd", (0.36, 1.02)),
    ("ct_chest", ".nii.gz", (0.03, 0.52)),
    ("ct_trunk", ".nii.gz", (0.08, 1.02)),
)
PICTURES, PICTURE_SIZE = 3, 256


def write_volume(stem: str, suffix: str, heights: tuple[float, float], seed: int) -> dict[str, object]:
    """One CT-like volume; the slice axis points to the head, as in most CT files."""
    hounsfield, labels = ct_volume(SLICES, SIZE, heights, Random(seed))
    spacing = (PIXEL_MM, PIXEL_MM, round((heights[1] - heights[0]) * BODY_MM / (SLICES - 1), 3))
    origin = (-SIZE * PIXEL_MM / 2, -SIZE * PIXEL_MM / 2, -1000.0)
    for folder, array in (
        ("studies", hounsfield.round().numpy().astype(np.int16)),
        ("truth", labels.numpy()),
    ):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array[::-1]))
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        sitk.WriteImage(image, str(HERE / folder / f"{stem}{suffix}"), useCompression=True)
    return case(f"{stem}{suffix}", f"{stem}{suffix}", "CT", seed, labels)


def write_picture(kind: str, number: int, seed: int) -> dict[str, object]:
    """One picture as PNG, its labels as PNG of the same stem."""
    pictures, labels = KINDS[kind](1, PICTURE_SIZE, Random(seed))
    pixels = (pictures[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
    name = f"{kind}_{number}.png"
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(HERE / "studies" / name))
    sitk.WriteImage(sitk.GetImageFromArray(labels[0].numpy()), str(HERE / "truth" / name))
    return case(name, name, kind, seed, labels)


def case(image: str, truth: str, modality: str, seed: int, labels: Tensor) -> dict[str, object]:
    """The index entry: the label values of each word that is there, and the words that are not."""
    values = set(labels.unique().tolist())
    present = {
        word: [v for v in label_values(word) if v in values]
        for word in WORDS
        if values & set(label_values(word))
    }
    absent = [word for word in WORDS if word not in present]
    return {
        "image": f"studies/{image}",
        "truth": f"truth/{truth}",
        "modality": modality,
        "seed": seed,
        "words": present,
        "absent": absent,
    }


def main() -> None:
    """Write everything."""
    for folder in ("studies", "truth"):
        (HERE / folder).mkdir(exist_ok=True)
    cases, seed = [], FIRST_SEED
    for stem, suffix, heights in VOLUMES:
        cases.append(write_volume(stem, suffix, heights, seed))
        seed += 1
    for kind in KINDS:
        for number in range(1, PICTURES + 1):
            cases.append(write_picture(kind, number, seed))
            seed += 1
    index = {"generator_version": GENERATOR_VERSION, "labels": list(LABELS), "cases": cases}
    (HERE / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
