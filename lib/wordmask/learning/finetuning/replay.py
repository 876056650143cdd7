"""Phantoms that a training repeats, so that the words of the bundled weights are not forgotten.

Knows phantoms and cases; not models, not losses.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordmask.data.geometry import Geometry
from wordmask.data.image_files import ImageKind
from wordmask.data.volumes import Volume
from wordmask.learning.cases import Case, LabelledVolume
from wordmask.phantoms import GENERATOR_VERSION, SLICE_SIZE
from wordmask.phantoms.body import ct_slices
from wordmask.phantoms.painting import Random
from wordmask.phantoms.pictures import KINDS
from wordmask.phantoms.words import PICTURE_WORDS, WORDS, label_values
from wordmask.weights.card import Card

REPEAT_SEED, CHECK_SEED = 700_001, 700_002  # neither is a seed of the pre-training or of the sample data
CT_SLICES, PICTURES = 40, 4
PIXEL_MM, SLICE_MM = 2.4, 5.0


def phantom_cases(
    card: Card, learning: Collection[str], seed: int, share: float = 1.0
) -> list[LabelledVolume]:
    """Draw phantoms of the words that weights were trained on.

    Words that are being learned from labels are left out, because the labels say what they mean now.

    Args:
        card: of the weights; empty when they were not trained on phantoms.
        learning: the words that are being learned.
        seed: of the drawings.
        share: of the usual number of slices and pictures.
    """
    if card.phantom_generator != GENERATOR_VERSION:
        return []
    words = [word for word in WORDS if word in card.words and word not in learning]
    random, slices, pictures = Random(seed), max(1, round(CT_SLICES * share)), max(1, round(PICTURES * share))
    hounsfield, labels = ct_slices(slices, SLICE_SIZE, random)
    made = [
        _label_phantom(
            hounsfield.round().numpy().astype(np.int16), labels.numpy(), "CT", f"phantom_ct_{seed}", words
        )
    ]
    for kind, paint in KINDS.items():
        painted, labels = paint(pictures, SLICE_SIZE, random)
        pixels = (painted.permute(0, 2, 3, 1) * 255).round().numpy().astype(np.uint8)
        modality: ImageKind = "US" if kind == "ultrasound" else "picture"
        for number in range(pictures):
            name = f"phantom_{kind}_{number}_{seed}"
            made.append(
                _label_phantom(
                    pixels[number : number + 1], labels[number : number + 1].numpy(), modality, name, words
                )
            )
    return [case for case in made if case.masks]


def _label_phantom(
    array: NDArray[Any], labels: NDArray[np.uint8], modality: ImageKind, name: str, words: Sequence[str]
) -> LabelledVolume:
    """A CT answers for every word; a picture for those that it shows and for those of other pictures."""
    size = (labels.shape[2], labels.shape[1], labels.shape[0])
    geometry = Geometry(
        size, (PIXEL_MM, PIXEL_MM, SLICE_MM), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    )
    masks = {word: np.isin(labels, label_values(word)) for word in words}
    if modality != "CT":
        masks = {word: mask for word, mask in masks.items() if mask.any() or word in PICTURE_WORDS}
    values = {word: label_values(word) for word in masks}
    return LabelledVolume(
        Case(name, Path(name), Path(name), values), Volume(array, geometry, modality, name), masks
    )
