"""Which structures the phantoms hold, and which word means which of them.

Knows: numbers and words only.
"""

import torch
from torch import Tensor

LABELS = (
    "background",
    "liver",
    "spleen",
    "left kidney",
    "right kidney",
    "left lung",
    "right lung",
    "heart",
    "spine",
    "aorta",
    "stomach",
    "bladder",
    "liver tumor",
    "polyp",
    "skin lesion",
    "breast tumor",
)
"""Name of each label value."""

WORD_LABELS: dict[str, tuple[str, ...]] = {
    "liver": ("liver", "liver tumor"),
    "spleen": ("spleen",),
    "left kidney": ("left kidney",),
    "right kidney": ("right kidney",),
    "kidney": ("left kidney", "right kidney"),
    "left lung": ("left lung",),
    "right lung": ("right lung",),
    "lung": ("left lung", "right lung"),
    "heart": ("heart",),
    "spine": ("spine",),
    "aorta": ("aorta",),
    "stomach": ("stomach",),
    "bladder": ("bladder",),
    "liver tumor": ("liver tumor",),
    "polyp": ("polyp",),
    "skin lesion": ("skin lesion",),
    "breast tumor": ("breast tumor",),
}
"""What each word covers: a tumor in the liver is part of the liver."""

WORDS = tuple(WORD_LABELS)
PICTURE_WORDS = ("polyp", "skin lesion", "breast tumor")
"""The words of pictures other than x-rays."""


def label_values(word: str) -> tuple[int, ...]:
    """Label values that belong to a word."""
    return tuple(LABELS.index(name) for name in WORD_LABELS[word])


def word_table() -> Tensor:
    """[words, labels] float: 1 where the label belongs to the word."""
    table = torch.zeros(len(WORDS), len(LABELS))
    for row, word in enumerate(WORDS):
        table[row, list(label_values(word))] = 1
    return table
