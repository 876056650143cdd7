"""Where to set the limits of presence, measured on phantoms of their own.

``python -m wordmask.pretraining.calibrate --output runs/tiny/calibration`` prints a Markdown table and draws
the curve. Neither the training nor the samples use these phantoms. The operating point is then written into
the preset's YAML by hand, where people can read and change it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from wordmask.data.geometry import Geometry
from wordmask.data.volumes import Volume
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.evaluation.metrics import dice
from wordmask.models.base import Segmenter
from wordmask.models.loading import load_segmenter
from wordmask.models.presets import PresencePreset
from wordmask.phantoms.body import ct_volume
from wordmask.phantoms.painting import Random
from wordmask.phantoms.pictures import KINDS
from wordmask.phantoms.words import WORDS, label_values

FIRST_SEED = 700_001
SLICES, SIZE = 40, 160
EVERYTHING = PresencePreset(slice_logit=-1e9, volume_logit=-1e9)
SMALLEST_TRUE_AREA = 0.0012  # a structure whose largest cut is smaller counts as neither present nor absent


@dataclass(frozen=True)
class Observation:
    """One word in one case.

    Attributes:
        case: name of the case.
        word: what was asked for.
        presence: 0..1.
        area: share of a slice that the largest marked cut covers.
        true_area: the same of the truth; 0 when the structure is absent.
        dice: 0..1; 0 when the structure is absent.
    """

    case: str
    word: str
    presence: float
    area: float
    true_area: float
    dice: float


def phantom_cases(volumes: int, pictures: int) -> Iterator[tuple[str, Volume, np.ndarray]]:
    """Name, volume and true labels [n, h, w]; heights of the volumes vary from the chest to the pelvis."""
    seed = FIRST_SEED
    geometry = Geometry(
        size=(SIZE, SIZE, SLICES),
        spacing=(2.4, 2.4, 8.0),
        origin=(0.0, 0.0, 0.0),
        direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
    )
    heights = np.random.default_rng(FIRST_SEED).uniform((0.03, 0.5), (0.4, 1.02), (volumes, 2))
    for number, (top, bottom) in enumerate(heights):
        hounsfield, labels = ct_volume(SLICES, SIZE, (float(top), float(bottom)), Random(seed + number))
        array = np.ascontiguousarray(hounsfield.round().numpy().astype(np.int16)[::-1])
        yield (
            f"ct_{number}",
            Volume(array=array, geometry=geometry, modality="CT", name=f"ct_{number}"),
            labels.numpy()[::-1],
        )
    flat = Geometry(
        size=(SIZE, SIZE, 1),
        spacing=(1.0, 1.0, 1.0),
        origin=(0.0, 0.0, 0.0),
        direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
    )
    for offset, (kind, paint) in enumerate(KINDS.items(), start=1):
        images, labels = paint(pictures, SIZE, Random(seed + 1000 * offset))
        for number in range(pictures):
            pixels = (images[number].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)[None]
            yield (
                f"{kind}_{number}",
                Volume(array=pixels, geometry=flat, modality="picture", name=f"{kind}_{number}"),
                labels[number].numpy()[None],
            )


def observe(segmenter: Segmenter, volumes: int, pictures: int) -> list[Observation]:
    """Every word in every case, one word per request, without any limit of presence."""
    segmenter.preset = segmenter.preset.model_copy(update={"presence": EVERYTHING})
    pipeline, found = VolumeSegmenter(segmenter), []
    for name, volume, labels in track(
        list(phantom_cases(volumes, pictures)), description="Observing", disable=not sys.stderr.isatty()
    ):
        for word in WORDS:
            result = pipeline.segment(volume, [word])
            marked, truth = result.labels > 0, np.isin(labels, label_values(word))
            size = truth.shape[1] * truth.shape[2]
            area, true_area = (
                float(np.count_nonzero(mask, axis=(1, 2)).max()) / size for mask in (marked, truth)
            )
            score = dice(marked, truth) if true_area else 0.0
            found.append(Observation(name, word, result.statistics[word].presence, area, true_area, score))
    return found


@dataclass(frozen=True)
class OperatingPoint:
    """Two limits of presence, and what they do.

    Attributes:
        volume_logit: a word whose presence is lower is left empty.
        minimum_area: share of a slice; a word whose largest cut is smaller is left empty.
        sensitivity: share of present words that are kept.
        specificity: share of absent words that are left empty.
        dice: mean over present words.
    """

    volume_logit: float
    minimum_area: float
    sensitivity: float
    specificity: float
    dice: float


def operating_points(
    observations: Sequence[Observation], logits: Sequence[float], areas: Sequence[float]
) -> list[OperatingPoint]:
    """Every combination of limits."""
    clipped = np.clip([o.presence for o in observations], 1e-9, 1 - 1e-9)
    logit = np.log(clipped / (1 - clipped))
    area, truth = np.array([o.area for o in observations]), np.array([o.true_area for o in observations])
    scores = np.array([o.dice for o in observations])
    present, absent = truth >= SMALLEST_TRUE_AREA, truth == 0
    points = []
    for limit in logits:
        for smallest in areas:
            kept = (logit >= limit) & (area >= max(smallest, 1e-12))
            points.append(
                OperatingPoint(
                    limit,
                    smallest,
                    float(kept[present].mean()),
                    float(1 - kept[absent].mean()),
                    float((scores * kept)[present].mean()),
                )
            )
    return points


def best_point(points: Sequence[OperatingPoint]) -> OperatingPoint:
    """The largest sum of Dice of present words and specificity: a missed organ and a false one both cost."""
    return max(points, key=lambda point: point.dice + point.specificity)


def markdown(points: Sequence[OperatingPoint], chosen: OperatingPoint) -> str:
    """The curve at the chosen smallest area."""
    lines = ["| volume_logit | sensitivity | specificity | mean Dice of present words |", "|---|---|---|---|"]
    for point in points:
        if point.minimum_area == chosen.minimum_area:
            mark = " **(chosen)**" if point == chosen else ""
            lines.append(
                f"| {point.volume_logit:g}{mark} | {point.sensitivity:.3f} "
                f"| {point.specificity:.3f} | {point.dice:.3f} |"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep every observation as JSON."""
    parser = argparse.ArgumentParser(description="Measure presence on phantoms of unseen seeds.")
    parser.add_argument("--model", default="simple_vilmedsam")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--volumes", type=int, default=12)
    parser.add_argument("--pictures", type=int, default=20, help="of each kind")
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    observations = observe(
        load_segmenter(chosen.model, preset=chosen.preset), chosen.volumes, chosen.pictures
    )
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "observations.json").write_text(
        json.dumps([asdict(o) for o in observations]), encoding="utf-8"
    )
    points = operating_points(
        observations, [x / 2 for x in range(-12, 13)], [0.0, 0.0004, 0.0008, 0.0012, 0.002]
    )
    best = best_point(points)
    console = Console(width=120)
    console.print(markdown(points, best), markup=False)
    console.print(f"\nvolume_logit {best.volume_logit:g}, minimum_area {best.minimum_area:g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
