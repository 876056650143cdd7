"""What nnU-Net makes of the zero-shot masks of MedCLIP-SAMv2 that it is trained on: Dice of both on untouched drawings and on the samples.

    python -m experiments.weak_supervision pictures xray ct --seeds 1
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from experiments.results import Results, scores_of
from wordmask.cases import Case, LabelledVolume
from wordmask.phantoms.body import ct_volume
from wordmask.phantoms.painting import Random
from wordmask.phantoms.pictures import KINDS
from wordmask.phantoms.words import label_values
from wordmask.samples import load_samples
from wordmask.segmenters import load_segmenter
from wordmask.segmenters.base import Segmenter
from wordmask.training.validation import validate
from wordmask.versions import ModelStore
from wordmask.weak.pseudo_labels import WeakImage
from wordmask.weak.recipes import load_weak_recipe
from wordmask.weak.training import MODEL, WeakRequest, train_weakly

SAMPLES = Path(__file__).resolve().parents[1] / "sample_data"
TEACHER, PRESET, SIZE = "medclip_samv2", "tiny", 160
LEARN_SEED, TEST_SEED, DEVELOPMENT_SEED = 810_000, 820_000, 830_000  # of no training, calibration or sample
NOWHERE = (255,)  # a value that no label map has


@dataclass(frozen=True)
class Task:
    """kinds: of drawings, "CT" for volumes; words: learned together; learn, test: images of each kind."""

    kinds: tuple[str, ...]
    words: tuple[str, ...]
    learn: int
    test: int


TASKS = {
    "pictures": Task(("endoscopy", "dermoscopy", "ultrasound"), ("polyp", "skin lesion", "breast tumor"), 60, 30),
    "xray": Task(("xray",), ("left lung", "right lung", "heart"), 120, 60),
    "ct": Task(("CT",), ("liver", "spleen", "left kidney", "right kidney", "bladder"), 12, 6),
}


def draw(task: Task, count: int, seed: int, folder: Path) -> list[Case]:
    """``count`` images of each kind with their labels, as files."""
    folder.mkdir(parents=True)
    cases = []
    for place, kind in enumerate(task.kinds):
        for number in range(count):
            random = Random(seed + 1000 * place + number)
            name = f"{kind}_{number}"
            cases.append((_draw_ct if kind == "CT" else _draw_picture)(task, kind, random, folder / name))
    return cases


def _draw_picture(task: Task, kind: str, random: Random, stem: Path) -> Case:
    pictures, labels = KINDS[kind](1, SIZE, random)
    pixels = (pictures[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
    return _case(task, sitk.GetImageFromArray(pixels, isVector=True), labels[0].numpy(), stem, ".png")


def _draw_ct(task: Task, kind: str, random: Random, stem: Path) -> Case:
    first = float(random.uniform(1, 0.03, 0.4)[0])
    hounsfield, labels = ct_volume(24, SIZE, (first, first + 0.62), random)
    image = sitk.GetImageFromArray(hounsfield.round().numpy().astype(np.int16)[::-1].copy())
    image.SetSpacing((2.4, 2.4, 13.4))
    return _case(task, image, labels.numpy()[::-1].copy(), stem, ".nii.gz")


def _case(task: Task, image: sitk.Image, labels: NDArray[np.uint8], stem: Path, suffix: str) -> Case:
    drawn = sitk.GetImageFromArray(labels)
    if suffix != ".png":
        drawn.CopyInformation(image)
    path, truth = stem.with_name(f"{stem.name}{suffix}"), stem.with_name(f"{stem.name}_truth{suffix}")
    sitk.WriteImage(image, str(path))
    sitk.WriteImage(drawn, str(truth))
    return Case(stem.name, path, truth, {word: label_values(word) for word in task.words})


def samples(task: Task) -> list[LabelledVolume]:
    """Those of the samples that are of the task's kinds."""
    found = [case for case in load_samples(SAMPLES) if case.modality in task.kinds]
    return [
        Case(case.name, case.image, case.truth, {word: case.words.get(word, NOWHERE) for word in task.words}).read() for case in found
    ]


def measure(results: Results, key: dict[str, Any], model: Segmenter, sets: dict[str, Sequence[LabelledVolume]]) -> None:
    """One record per set and word, and one for all words."""
    for name, cases in sets.items():
        found = validate(model, cases)
        for word in found.words():
            own = type(found)({key_: score for key_, score in found.dice.items() if key_[1] == word})
            if any(case.masks[word].any() for case in cases):
                results.add({**key, "set": name, "word": word}, scores_of(own, cases))
        results.add({**key, "set": name, "word": "all"}, scores_of(found, cases))


def run(name: str, seed: int, results: Results, recipe: str, changes: dict[str, str], *, development: bool) -> None:
    """Teacher and pupil of one task on the same cases."""
    task = TASKS[name]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        learn = draw(task, task.learn, LEARN_SEED + 10_000 * seed, root / "learn")
        test = draw(task, task.test, DEVELOPMENT_SEED if development else TEST_SEED, root / "test")
        sets = {"drawings": [case.read() for case in test]} | ({} if development else {"samples": samples(task)})
        if not results.has(task=name, model="zero-shot"):
            measure(results, {"task": name, "model": "zero-shot", "seed": 0}, load_segmenter(TEACHER, preset=PRESET, device="cpu"), sets)
        began = time.process_time()
        store = ModelStore(root / MODEL)
        asked = WeakRequest(task.words, PRESET, load_weak_recipe(recipe, seed=seed, **changes), "cpu")
        report = train_weakly([WeakImage(case.name, case.image) for case in learn], asked, store, run_folder=root / "run")
        assert report.version is not None
        pupil = load_segmenter(MODEL, preset=PRESET, device="cpu", weights=store.folder(report.version))
        key = {"task": name, "model": "weak", "seed": seed, "images": len(learn), "minutes": round(report.seconds / 60, 1)}
        measure(results, key, pupil, sets)
        print(f"{name}: {report.message} ({time.process_time() - began:.0f} s of this process)", flush=True)


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="+", choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of the recipe")
    parser.add_argument("--results", type=Path, default=Path("runs/experiments/weak_supervision.jsonl"))
    parser.add_argument("--development", action="store_true", help="judge on other drawings than the test's, to make choices by")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(asked.results)
    changes = dict(text.split("=", 1) for text in asked.set)
    for name in asked.tasks:
        for seed in asked.seeds:
            if not results.has(task=name, model="weak", seed=seed):
                run(name, seed, results, asked.recipe, changes, development=asked.development)


if __name__ == "__main__":
    main()
