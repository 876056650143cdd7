"""MedCLIP-SAMv2 without any training, against Simple-ViLMedSAM, on the sample studies.

Dice per kind of image and word.

    python -m docs.experiments.zero_shot

``--development`` tries ways to divide a map on other phantoms; the tiny preset was chosen by it, and by
nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from docs.experiments.report import table
from docs.experiments.results import Results
from wordmask.demo.samples import load_samples
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.cases import Case, LabelledVolume
from wordmask.learning.evaluation.answers import ask
from wordmask.learning.evaluation.metrics import dice
from wordmask.learning.finetuning.replay import phantom_cases
from wordmask.models.base import Segmenter
from wordmask.models.loading import load_segmenter
from wordmask.models.medclip_samv2.model import MedCLIPSAMv2
from wordmask.models.medclip_samv2.preset import ZeroShotPreset
from wordmask.models.registry import load_preset
from wordmask.weights.checkpoint import checkpoint_folder, read_card

SAMPLES = Path(__file__).resolve().parents[2] / "sample_data"
DEVELOPMENT_SEED = 800_001  # of no training, calibration or sample
DEVELOPMENT_SHARE = 0.5  # 20 slices of CT and 2 pictures of each kind
PUBLISHED = ZeroShotPreset()  # two means; one box around the largest object
TRIED = {
    "two means": PUBLISHED,
    **{
        f"fixed {limit}": ZeroShotPreset(split="fixed", threshold=limit)
        for limit in (0.3, 0.5, 0.6, 0.7, 0.8)
    },
    "fixed 0.7, points": ZeroShotPreset(split="fixed", threshold=0.7, prompts="points"),
    "fixed 0.7, both": ZeroShotPreset(split="fixed", threshold=0.7, prompts="both"),
    "fixed 0.7, mean of three": ZeroShotPreset(split="fixed", threshold=0.7, fusion="mean"),
}


def zero_shot(settings: ZeroShotPreset) -> MedCLIPSAMv2:
    """The tiny preset with other prompts for SAM."""
    preset = load_preset("medclip_samv2", "tiny").model_copy(update={"zero_shot": settings})
    return MedCLIPSAMv2.from_preset(preset).eval().requires_grad_(False)


def sample_cases() -> list[tuple[str, LabelledVolume]]:
    """(kind of image, case) of the sample studies."""
    return [
        (
            sample.modality,
            Case(
                sample.name,
                sample.image,
                sample.truth,
                {**sample.words, **dict.fromkeys(sample.absent, (255,))},
                unnamed="background",
            ).read(),
        )
        for sample in load_samples(SAMPLES)
    ]


def development_cases() -> list[tuple[str, LabelledVolume]]:
    """(kind of image, case) of phantoms that nothing else uses."""
    weights = load_preset("medclip_samv2", "tiny").weights
    assert weights is not None
    cases = phantom_cases(read_card(checkpoint_folder(weights)), (), DEVELOPMENT_SEED, DEVELOPMENT_SHARE)
    return [(case.case.name.split("_")[1], case) for case in cases]


def measure(
    name: str, segmenter: Segmenter, cases: Sequence[tuple[str, LabelledVolume]], results: Results
) -> None:
    """Dice of every word of every case that shows it, and whether those that are absent stay empty."""
    pipeline = VolumeSegmenter(segmenter)
    for kind, case in cases:
        if results.has(model=name, case=case.case.name):
            continue
        for answer in ask(pipeline, case):
            truth = case.masks[answer.word]
            shown = bool(truth.any())
            score = dice(answer.mask, truth) if shown else float(not answer.mask.any())
            key = {"model": name, "kind": kind, "case": case.case.name, "word": answer.word}
            results.add(key, {"shown": shown, "score": round(float(score), 4)})


def report(results: Results, names: Sequence[str]) -> str:
    """Mean over cases per kind and word, the mean over these rows, and the specificity.

    The specificity is the share of absent words that stayed empty.
    """
    rows = sorted({(record["kind"], record["word"]) for record in results.select(shown=True)})
    cells = [
        [np.mean([r["score"] for r in results.select(model=n, kind=k, word=w, shown=True)]) for n in names]
        for k, w in rows
    ]
    empty = [
        np.mean([record["score"] for record in results.select(model=name, shown=False)]) for name in names
    ]
    lines = [
        [kind, word, *(f"{value:.3f}" for value in line)]
        for (kind, word), line in zip(rows, cells, strict=True)
    ]
    lines.append(["**all**", "mean over the rows", *(f"{value:.3f}" for value in np.mean(cells, axis=0))])
    lines.append(["", "absent words kept empty", *(f"{value:.3f}" for value in empty)])
    return table(["image", "word", *names], lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--development",
        action="store_true",
        help="try ways to make prompts, on phantoms that are not reported",
    )
    parser.add_argument(
        "--results", type=Path, default=Path("runs/experiments"), help="folder of the result files"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(
        chosen.results / ("zero_shot_development.jsonl" if chosen.development else "zero_shot.jsonl")
    )
    if chosen.development:
        cases = development_cases()
        models: dict[str, Segmenter] = {name: zero_shot(settings) for name, settings in TRIED.items()}
    else:
        cases = sample_cases()
        models = {
            "Simple-ViLMedSAM": load_segmenter("simple_vilmedsam", device="cpu"),
            "MedCLIP-SAMv2": load_segmenter("medclip_samv2", device="cpu"),
            "the same, two means as published": zero_shot(PUBLISHED),
        }
    for name, model in models.items():
        measure(name, model, cases, results)
    print(report(results, list(models)))


if __name__ == "__main__":
    main()
