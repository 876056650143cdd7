"""What each image is taken to show: the teacher's zero-shot masks, or a person's labels where there are any.

Knows images, words, the pipeline and the run folder; not nnU-Net.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.request import cut_volume
from wordmask.learning.cases import Study
from wordmask.progress import CancelToken
from wordmask.words.prompts import Prompt

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class SliceLabels:
    """One image's labels, sliced as the pipeline slices it, in a file of the run folder.

    Attributes:
        slices: index along the slicing plane -> the values that are marked in it, for every slice that the
            pipeline would look at.
    """

    image: Study
    file: Path
    slices: dict[int, frozenset[int]]
    is_picture: bool

    def read(self) -> Labels:
        """[n, h, w]; value i is the i-th word, from 1."""
        with np.load(self.file) as stored:
            labels: Labels = stored["labels"]
        return labels


def label_image(
    image: Study,
    words: Sequence[Prompt],
    teacher: VolumeSegmenter,
    file: Path,
    cancel: CancelToken | None = None,
) -> SliceLabels:
    """Label every slice that the pipeline would look at, and keep the labels in ``file``.

    The teacher is asked for the words that a person has not labelled here. A voxel that several words claim
    belongs to a person's label before the teacher's mask, and among a person's labels to the earlier word.

    Raises:
        VolumeError: the image cannot be read.
        LabelError: a person's labels cannot be read.
    """
    known = image.case.read() if image.case else None
    volume = known.volume if known else image.read()
    drawn = known.masks if known else {}
    values = {prompt.key: value for value, prompt in enumerate(words, start=1)}
    labels: Labels = np.zeros(volume.array.shape[:3], np.uint8)
    if asked := [prompt for prompt in words if prompt.key not in drawn]:
        answer = teacher.segment(volume, asked, cancel=cancel)
        for prompt in asked:
            labels[answer.mask(prompt.word)] = values[prompt.key]
    for word in reversed([word for word in values if word in drawn]):
        labels[drawn[word]] = values[word]
    view = cut_volume(volume, plane="auto", slices=None, skip_air=True)
    stack = view.slicing.cut(labels)
    np.savez_compressed(file, labels=stack)
    shown = {index: frozenset(np.unique(stack[index]).tolist()) - {0} for index in view.looked_at}
    return SliceLabels(image, file, shown, volume.is_picture)


def choose_slices(labelled: Sequence[SliceLabels], negatives: float, seed: int) -> list[list[int]]:
    """Which slices of each image to learn from, ascending.

    All with a mark, and of the others so many, drawn by lot, that they are not more than the share
    ``negatives`` of all.
    """
    marked = [[index for index, values in one.slices.items() if values] for one in labelled]
    empty = [
        (number, index)
        for number, one in enumerate(labelled)
        for index, values in one.slices.items()
        if not values
    ]
    most = int(negatives / (1 - negatives) * sum(map(len, marked)))
    for number, index in random.Random(seed).sample(empty, min(most, len(empty))):
        marked[number].append(index)
    return [sorted(indices) for indices in marked]
