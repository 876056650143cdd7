"""Dice of MedCLIP-SAMv2's zero-shot masks and of its pupils, on drawings and the samples.

The pupils, which learn from these masks, are nnU-Net and, with the recipe `zero_shot_masks`, a committee.

    python -m docs.experiments.weak_supervision lesions xray --seeds 1
    python -m docs.experiments.weak_supervision lesions --recipe zero_shot_masks

Lesions: pictures with one or none, which tiny draws well. X-rays: tiny finds the structures, but often misses
one lung, or draws a blocky heart.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from docs.experiments.results import Results, scores_of
from wordmask.demo.samples import load_samples
from wordmask.learning.cases import Case, LabelledVolume, Study
from wordmask.learning.evaluation.validation import ValidationScore, validate
from wordmask.learning.training import TrainingRequest, find_training
from wordmask.models.base import Segmenter
from wordmask.models.loading import load_segmenter
from wordmask.phantoms.painting import Random
from wordmask.phantoms.pictures import KINDS
from wordmask.phantoms.words import label_values
from wordmask.weights.versions import ModelStore
from wordmask.words.prompts import parse_prompts

PUPILS = {"zero_shot_masks": ("medclip_samv2", "pixel pupil")}  # recipe -> model, name of the row
NNUNET = ("medclip_samv2_weak", "weak")  # of all other recipes

SAMPLES = Path(__file__).resolve().parents[2] / "sample_data"
TEACHER, PRESET, SIZE = "medclip_samv2", "tiny", 160
LEARN, TEST = 60, 30  # images of each kind
LEARN_SEED, TEST_SEED, DEVELOPMENT_SEED = 810_000, 820_000, 830_000  # of no training, calibration or sample
NOWHERE = (255,)  # a value that no label map has


@dataclass(frozen=True)
class Task:
    """Words that are learned together, and the kinds of drawings that show them."""

    kinds: tuple[str, ...]
    words: tuple[str, ...]


TASKS = {
    "lesions": Task(("endoscopy", "dermoscopy", "ultrasound"), ("polyp", "skin lesion", "breast tumor")),
    "xray": Task(("xray",), ("lung", "heart")),
}


def draw(task: Task, count: int, seed: int, folder: Path) -> list[Case]:
    """``count`` pictures of each kind with their labels, as files."""
    folder.mkdir(parents=True)
    cases = []
    for place, kind in enumerate(task.kinds):
        for number in range(count):
            pictures, labels = KINDS[kind](1, SIZE, Random(seed + 1000 * place + number))
            pixels = (pictures[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
            image, truth = folder / f"{kind}_{number}.png", folder / f"{kind}_{number}_truth.png"
            sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(image))
            sitk.WriteImage(sitk.GetImageFromArray(labels[0].numpy()), str(truth))
            words = {word: label_values(word) for word in task.words}
            cases.append(Case(image.stem, image, truth, words, unnamed="background"))
    return cases


def samples(task: Task) -> list[LabelledVolume]:
    """The sample pictures of the same kinds."""
    found = [case for case in load_samples(SAMPLES) if case.modality in task.kinds]
    words = [{word: case.words.get(word, NOWHERE) for word in task.words} for case in found]
    return [
        Case(case.name, case.image, case.truth, own, unnamed="background").read()
        for case, own in zip(found, words, strict=True)
    ]


def measure(
    results: Results, key: dict[str, Any], model: Segmenter, sets: dict[str, Sequence[LabelledVolume]]
) -> None:
    """One record per set and word, and one for all words."""
    for name, cases in sets.items():
        found = validate(model, cases)
        for word in TASKS[key["task"]].words:
            own = ValidationScore({of: score for of, score in found.dice.items() if of[1] == word})
            results.add({**key, "set": name, "word": word}, scores_of(own, cases))
        results.add({**key, "set": name, "word": "all"}, scores_of(found, cases))


def learn(
    task: Task, seed: int, root: Path, recipe: str, changes: dict[str, str]
) -> tuple[Segmenter, float, int]:
    """The pupil, the minutes that it took, and how many images it learned from."""
    images = [
        Study(case.name, case.image) for case in draw(task, LEARN, LEARN_SEED + 10_000 * seed, root / "learn")
    ]
    model, _ = PUPILS.get(recipe, NNUNET)
    store, training = ModelStore(root / model), find_training(model, recipe)
    asked = TrainingRequest(
        model=model,
        preset=PRESET,
        recipe=training.recipe.load(recipe, seed=seed, **changes),
        words=tuple(parse_prompts(task.words)),
        device="cpu",
    )
    report = training.run(images, asked, store, run_folder=root / "run")
    assert report.version is not None
    pupil = load_segmenter(model, preset=PRESET, device="cpu", weights=store.folder(report.version))
    return pupil, round(report.seconds / 60, 1), len(images)


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="+", choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of the recipe")
    parser.add_argument("--results", type=Path, default=Path("runs/experiments/weak_supervision.jsonl"))
    parser.add_argument(
        "--development",
        action="store_true",
        help="judge on other drawings than the test's, to make choices by",
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(asked.results)
    for name in asked.tasks:
        with tempfile.TemporaryDirectory() as folder:
            run(name, asked, results, dict(text.split("=", 1) for text in asked.set), Path(folder))


def run(
    name: str, asked: argparse.Namespace, results: Results, changes: dict[str, str], folder: Path
) -> None:
    """What the results lack of one task."""
    task = TASKS[name]
    test = draw(task, TEST, DEVELOPMENT_SEED if asked.development else TEST_SEED, folder / "test")
    sets = {"drawings": [case.read() for case in test]} | (
        {} if asked.development else {"samples": samples(task)}
    )
    if not results.has(task=name, model="zero-shot"):
        zero_shot = load_segmenter(TEACHER, preset=PRESET, device="cpu")
        measure(results, {"task": name, "model": "zero-shot", "seed": 0}, zero_shot, sets)
    _, row = PUPILS.get(asked.recipe, NNUNET)
    for seed in asked.seeds:
        if not results.has(task=name, model=row, seed=seed):
            pupil, minutes, images = learn(task, seed, folder / str(seed), asked.recipe, changes)
            measure(
                results,
                {"task": name, "model": row, "seed": seed, "images": images, "minutes": minutes},
                pupil,
                sets,
            )


if __name__ == "__main__":
    main()
