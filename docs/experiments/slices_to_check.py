"""Whether the slices that are said to be worth a look are the wrong ones.

    python -m docs.experiments.slices_to_check medclipseg simple_vilmedsam

On the CTs of the sample studies, for every word that they show.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from scipy.stats import spearmanr

from docs.experiments.forgetting import SAMPLES
from docs.experiments.report import table
from docs.experiments.samples import load_cases
from wordmask.data.geometry import Plane, slicing_for
from wordmask.inference.doubt import doubtful_pixels
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.result import Segmentation
from wordmask.learning.cases import LabelledVolume
from wordmask.models.loading import load_segmenter

HEADING = ("model", "pairs", "rank correlation", "slices listed", "wrong pixels there", "Dice", "elsewhere")
MAPS = ("probability", "uncertainty")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cases = [case for case in load_cases(SAMPLES) if not case.volume.is_picture]
    rows = []
    for model in asked.models:
        pipeline = VolumeSegmenter(load_segmenter(model, device="cpu"))
        pairs = []
        for case in cases:
            for word, mask in case.masks.items():
                if mask.any():
                    result = pipeline.segment(case.volume, [case.prompts[word]], keep=("labels", *MAPS))
                    pairs.append(judge(result, case, word))
        correlation, *sums = np.array(pairs).T
        listed, wrong, all_wrong, size, other_size, slices = (float(np.nansum(values)) for values in sums)
        rows.append(
            [
                model,
                str(len(pairs)),
                f"{np.nanmean(correlation):.2f}",
                f"{listed / slices:.0%}",
                f"{wrong / all_wrong:.0%}",
                f"{1 - wrong / size:.3f}",
                f"{1 - (all_wrong - wrong) / other_size:.3f}",
            ]
        )
    print(table(HEADING, rows))


def judge(result: Segmentation, case: LabelledVolume, word: str) -> tuple[float, ...]:
    """Numbers of one word in one volume.

    Returns:
        Rank correlation of doubt and wrong pixels over the slices that show the word or a mark; number of
            slices that are listed; wrong pixels in them, and in all; pixels of both masks in them, and in the
            others; number of slices that show the word or a mark.
    """
    cut = slicing_for(case.volume.geometry, Plane(result.plane)).cut
    truth, marked = cut(case.masks[word]), cut(result.mask(word))
    maps = zip(*(cut(result.maps[name][word]) for name in MAPS), strict=True)
    doubt = np.array([doubtful_pixels(*pair) for pair in maps])
    wrong = (truth != marked).sum(axis=(1, 2))
    sizes = truth.sum(axis=(1, 2)) + marked.sum(axis=(1, 2))
    listed = list(result.statistics[word].slices_to_check)
    there = sizes > 0
    correlation = spearmanr(doubt[there], wrong[there]).statistic if there.sum() > 2 else np.nan
    inside = sizes[listed].sum()
    return (
        correlation,
        len(listed),
        wrong[listed].sum(),
        wrong.sum(),
        inside,
        sizes.sum() - inside,
        there.sum(),
    )


if __name__ == "__main__":
    main()
