"""A slice seen several ways: turned, scaled, tinted, and mirrored where that is harmless.

The same seed gives the same views.

Knows MONAI's transforms; not volumes, not models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from torch import Tensor

from wordmask.words.vocabulary import opposite_word

ANGLE, SCALE, SHIFT = 0.2, 0.15, 0.08  # radians; share; share of the picture's size


@dataclass(frozen=True)
class View:
    """One view of a slice.

    Attributes:
        image: [3, H, W] float in 0..1.
        masks: word, as it is called in this view -> [H, W] float in 0..1.
    """

    image: Tensor
    masks: Mapping[str, Tensor]


def make_view(image: Tensor, masks: Mapping[str, Tensor], *, key: str, number: int, mirror: bool) -> View:
    """View ``number`` of a slice; 0 is the slice itself.

    Args:
        image: [3, H, W] in 0..1.
        masks: word -> [H, W].
        key: what the randomness depends on besides the number.
        number: from 0.
        mirror: half of the views are mirrored left to right, and turned by a random number of quarters. A
            left kidney then becomes a right kidney; a word with a side is left out where the other side has
            no mask, because the place of that structure is unknown.
    """
    if number == 0:
        return View(image, dict(masks))
    seed = int.from_bytes(hashlib.sha256(f"{key}|{number}".encode()).digest()[:4])
    draws = torch.rand(2, generator=torch.Generator().manual_seed(seed))
    if mirror and draws[0] < 0.5:
        image = image.flip(-1)
        masks = {word: found.flip(-1) for word, found in _exchange_sides(masks).items()}
    if mirror:
        turns = int(draws[1] * 4)
        image = image.rot90(turns, (-2, -1))
        masks = {word: mask.rot90(turns, (-2, -1)) for word, mask in masks.items()}
    words = list(masks)
    stacked = (
        torch.stack([masks[word].float() for word in words]) if words else torch.zeros(1, *image.shape[-2:])
    )
    made = _random(image.shape[-2], image.shape[-1], seed)({"image": image, "masks": stacked})
    moved = made["masks"].as_tensor()
    return View(
        made["image"].as_tensor().clamp(0, 1).contiguous(),
        {word: moved[row].clamp(0, 1) for row, word in enumerate(words)},
    )


def _exchange_sides(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    sided = {word: opposite_word(word) for word in masks}
    return {word: masks[other or word] for word, other in sided.items() if other is None or other in masks}


def _random(height: int, width: int, seed: int) -> Compose:
    both = ("image", "masks")
    transforms = Compose(
        [
            RandAffined(
                both,
                prob=0.9,
                rotate_range=ANGLE,
                scale_range=SCALE,
                translate_range=(SHIFT * height, SHIFT * width),
                mode="bilinear",
                padding_mode="zeros",
            ),
            RandScaleIntensityd("image", factors=0.15, prob=0.7),
            RandShiftIntensityd("image", offsets=0.08, prob=0.7),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.75, 1.35)),
            RandGaussianSmoothd("image", prob=0.15, sigma_x=(0.4, 1.0), sigma_y=(0.4, 1.0)),
            RandGaussianNoised("image", prob=0.25, std=0.03),
        ]
    )
    transforms.set_random_state(seed=seed)
    return transforms
