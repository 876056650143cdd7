"""How far a model's probabilities and its uncertainty can be trusted, pixel by pixel.

Pixels are counted in histograms, so that the memory does not grow with the cases. Knows arrays and
matplotlib; not cases, models or reports.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage
from scipy.integrate import trapezoid

BINS = 15  # of probability
LEVELS = 500  # of uncertainty
MOST = float(np.log(2))  # nats: the entropy of two equal probabilities
AROUND = 0.25  # of the sides of the box around truth and mask, which is looked at, too
COLUMNS = ("word", "pixels", "wrong", "ece", "auroc", "aurc")

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Trust:
    """What the pixels of a word say.

    Attributes:
        pixels: how many were looked at.
        wrong: share of them that were marked wrongly, 0..1.
        ece: expected calibration error, 0..1: mean distance between probability and frequency.
        auroc: how well uncertainty ranks wrong pixels above right ones: 0.5 is chance, 1 perfect; NaN without
            wrong ones.
        aurc: area under the risk-coverage curve, 0..1; less is better.
        claimed: [bins], mean probability.
        true: [bins], share of pixels that belong to the structure.
        coverage: share of the pixels that are kept when the most uncertain ones are left to a person.
        risk: share of wrong pixels among those that are kept.
    """

    pixels: int
    wrong: float
    ece: float
    auroc: float
    aurc: float
    claimed: Floats
    true: Floats
    coverage: Floats
    risk: Floats


@dataclass
class Reliability:
    """Counts the pixels of one word."""

    _bins: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, BINS)))  # pixels, claimed, true
    _levels: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, LEVELS)))  # right, wrong

    def add(self, probability: Floats, uncertainty: Floats, marked: Mask, truth: Mask) -> None:
        """Count the pixels around the structure and what was marked; nothing where both are empty.

        Args:
            probability: [k, j, i], 0..1.
            uncertainty: likewise, nats.
            marked: likewise.
            truth: likewise.
        """
        box = _box(marked | truth)
        if box is None:
            return
        claimed, unsure = probability[box].ravel().astype(np.float64), uncertainty[box].ravel()
        there, wrong = truth[box].ravel(), (marked[box] != truth[box]).ravel()
        bins = np.minimum((claimed * BINS).astype(int), BINS - 1)
        for row, weights in enumerate((None, claimed, there.astype(np.float64))):
            self._bins[row] += np.bincount(bins, weights=weights, minlength=BINS)
        levels = np.clip((unsure / MOST * LEVELS).astype(int), 0, LEVELS - 1)
        for row, chosen in enumerate((~wrong, wrong)):
            self._levels[row] += np.bincount(levels[chosen], minlength=LEVELS)

    def summary(self) -> Trust | None:
        """The numbers; None without pixels."""
        counts, claimed, true = self._bins
        pixels, used = counts.sum(), counts > 0
        if not pixels:
            return None
        right, wrong = self._levels
        kept, kept_wrong = (right + wrong).cumsum(), wrong.cumsum()
        some = right + wrong > 0
        coverage, risk = kept[some] / pixels, kept_wrong[some] / kept[some]
        # Pairs of a wrong and a right pixel in which the wrong one is less sure; equal ones count half.
        below = right.cumsum() - right / 2
        pairs = right.sum() * wrong.sum()
        return Trust(
            int(pixels),
            float(wrong.sum() / pixels),
            float(np.abs(claimed - true).sum() / pixels),
            float((wrong * below).sum() / pairs) if pairs else float("nan"),
            float(trapezoid(risk, coverage)) if len(risk) > 1 else float(risk[0]),
            claimed[used] / counts[used],
            true[used] / counts[used],
            coverage,
            risk,
        )


def _box(mask: Mask) -> tuple[slice, ...] | None:
    """The box of a mask and its surroundings."""
    found = ndimage.find_objects(mask.view(np.uint8))
    if not found:
        return None
    grown = []
    for side, size in zip(found[0], mask.shape, strict=True):
        more = round(AROUND * (side.stop - side.start)) + 1
        grown.append(slice(max(0, side.start - more), min(size, side.stop + more)))
    return tuple(grown)


def write_table(path: Path, words: Mapping[str, Trust]) -> None:
    """A row per word; OSError: the file cannot be written."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for word, trust in words.items():
            numbers = (trust.wrong, trust.ece, trust.auroc, trust.aurc)
            writer.writerow(
                [word, trust.pixels, *("" if np.isnan(value) else f"{value:.6f}" for value in numbers)]
            )


def draw(path: Path, words: Mapping[str, Trust]) -> None:
    """A picture: probability against frequency, and risk against coverage; OSError: it cannot be written."""
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    calibration, risks = figure.subplots(1, 2)
    calibration.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    for word, trust in words.items():
        calibration.plot(
            trust.claimed, trust.true, marker="o", markersize=3, label=f"{word} (ECE {trust.ece:.3f})"
        )
        risks.plot(trust.coverage, trust.risk, label=f"{word} (AURC {trust.aurc:.4f})")
    calibration.set(xlabel="probability", ylabel="share that belongs to the structure", title="Calibration")
    risks.set(xlabel="share of pixels that are kept", ylabel="share of them that are wrong", title="Risk")
    for axes in (calibration, risks):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)
