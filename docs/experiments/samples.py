"""How many samples MedCLIPSeg needs: masks and uncertainty of fewer samples against those of 30.

    python -m docs.experiments.samples

On the pictures and one CT of the sample studies, for the words that they show, with the preset tiny.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from docs.experiments.forgetting import SAMPLES
from docs.experiments.report import table
from wordmask.demo.samples import load_samples
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.result import Segmentation
from wordmask.learning.cases import Case, LabelledVolume
from wordmask.learning.evaluation.metrics import dice
from wordmask.models.loading import load_segmenter

MODEL, ALL = "medclipseg", 30
COUNTS = (1, 2, 4, 8, 16)
CT = "ct_chest"


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    read = [case for case in load_cases(SAMPLES) if case.volume.is_picture or case.case.name == CT]
    best = list(answers(ALL, read))
    rows = [["samples", "Dice", "Dice with 30 samples", "mean difference of the uncertainty, nats"]]
    for count in (*COUNTS, ALL):
        own = best if count == ALL else list(answers(count, read))
        truth = [dice(answer.mask(word), case.masks[word]) for case, word, answer in own]
        both = [(word, one, other) for (_, word, one), (_, _, other) in zip(own, best, strict=True)]
        alike = [dice(one.mask(word), other.mask(word)) for word, one, other in both]
        unsure = [
            np.abs(one.maps["uncertainty"][word] - other.maps["uncertainty"][word]).mean()
            for word, one, other in both
        ]
        rows.append([str(count), *(f"{np.mean(values):.4f}" for values in (truth, alike, unsure))])
    print(table(rows[0], rows[1:]))


def load_cases(folder: Path) -> list[LabelledVolume]:
    """The sample studies with their true masks, in memory."""
    return [
        Case(
            case.name,
            case.image,
            case.truth,
            {word: tuple(values) for word, values in case.words.items()},
            unnamed="background",
        ).read()
        for case in load_samples(folder)
    ]


def answers(
    samples: int, cases: Iterable[LabelledVolume]
) -> Iterable[tuple[LabelledVolume, str, Segmentation]]:
    """Each word of each case that shows it, with its mask and its uncertainty."""
    segmenter = load_segmenter(MODEL, device="cpu")
    segmenter.preset = segmenter.preset.model_copy(update={"samples": samples})
    pipeline = VolumeSegmenter(segmenter)
    for case in cases:
        for word, mask in case.masks.items():
            if mask.any():
                prompt = case.prompts[word]
                yield case, word, pipeline.segment(case.volume, [prompt], keep=("labels", "uncertainty"))


if __name__ == "__main__":
    main()
