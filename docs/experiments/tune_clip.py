"""DHN-NCE against InfoNCE: retrieval after tuning the tiny CLIP on captions of drawings, at equal steps.

    python -m docs.experiments.tune_clip --seeds 1 2 3

Every seed draws its own pictures, which no pretraining has used, and trains both losses on the same pairs in
the same order.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from docs.experiments.pool import read_all
from docs.experiments.results import Results
from wordmask.demo.samples import load_samples
from wordmask.learning.captions import CaptionList, read_caption_list
from wordmask.learning.cases import Case
from wordmask.learning.clip_tuning.recipe import TuneRecipe
from wordmask.learning.evaluation.validation import validate
from wordmask.learning.training import TrainingRequest, find_training
from wordmask.models.loading import load_segmenter
from wordmask.phantoms.words import LABELS
from wordmask.pretraining.phantom_data import SMALLEST_PRESENT, make_slices
from wordmask.weights.versions import ModelStore

MODEL = "medclip_samv2"

SAMPLES = Path(__file__).resolve().parents[2] / "sample_data"
# Seeds of the pictures; pretraining uses 101 to 301, the calibration 700001 to 706020.
FIRST_SEED, DEVELOPMENT_SEED = 810_000, 820_000
PAIRS = 1800
CHANGES = {"held_out": 0.3}  # 540 pairs to judge by
LOSSES = ("dhn_nce", "info_nce")
KINDS = ("CT slice", "x-ray picture", "endoscopy picture", "dermoscopy picture", "ultrasound picture")
LESIONS = ("polyp", "skin lesion", "breast tumor")
LARGE = 0.08  # of the picture


def draw_pairs(folder: Path, seed: int) -> CaptionList:
    """Pictures of all kinds, and captions that name what is drawn.

    A caption names the three largest structures, or size and place of a lesion.
    """
    drawn = make_slices(PAIRS, seed)
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for number, (image, labels, kind) in enumerate(
            zip(drawn.images, drawn.labels, drawn.kinds, strict=True)
        ):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
            writer.writerow([f"{number}.png", f"{KINDS[int(kind)]} showing {describe(labels.numpy())}"])
    return read_caption_list(folder / "pairs.csv", least_characters=20)


def describe(labels: np.ndarray) -> str:
    """The caption of a drawing with labels [S, S]."""
    shares = np.bincount(labels.ravel(), minlength=len(LABELS)) / labels.size
    things = [value for value in np.argsort(-shares) if value and shares[value] > SMALLEST_PRESENT][:3]
    names = [LABELS[value] for value in things]
    if not names:
        return "nothing"
    if names[0] not in LESIONS:
        return " and ".join(names)
    rows, columns = np.nonzero(labels == things[0])
    side = "left" if columns.mean() < labels.shape[1] / 2 else "right"
    height = "upper" if rows.mean() < labels.shape[0] / 2 else "lower"
    return f"{'large' if shares[things[0]] > LARGE else 'small'} {names[0]} {height} {side}"


def run(loss: str, seed: int, first: int, changes: dict[str, str], results: Results) -> None:
    """One tuning of the weights that ship."""
    recipe = TuneRecipe.load("tiny", **{**CHANGES, **changes, "loss": loss, "seed": seed})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = draw_pairs(folder, first + seed)
        began = time.process_time()
        store = ModelStore(folder / "store")
        report = find_training(MODEL).run(
            pairs,
            TrainingRequest(model=MODEL, preset="tiny", recipe=recipe, device="cpu", start=0, force=True),
            store,
            run_folder=folder / "run",
        )
        seconds = round(time.process_time() - began, 1)
        dice = {"before": masks_of(None), "after": masks_of(store.folder(report.version or 1))}
    assert report.before is not None
    assert report.after is not None
    assert report.presence is not None
    found = {
        "before": report.before.summary(),
        "after": report.after.summary(),
        "dice": dice,
        "presence": report.presence.agreement,
    }
    distinct = len({pair.caption for pair in pairs.pairs})
    told = {"captions": distinct, "cut": report.cut, "training": report.training_pairs, "seconds": seconds}
    results.add({"loss": loss, "seed": seed, "changes": changes}, {**found, **told})


def masks_of(weights: Path | None) -> float:
    """Mean Dice of the lesions of the sample pictures, by the whole of MedCLIP-SAMv2.

    A word alone, where captions were learned.
    """
    cases = [
        Case(
            case.name,
            case.image,
            case.truth,
            {word: values for word, values in case.words.items() if word in LESIONS},
            unnamed="background",
        )
        for case in load_samples(SAMPLES)
    ]
    model = load_segmenter(MODEL, device="cpu", weights=weights)
    return round(validate(model, read_all([case for case in cases if case.words])).mean, 4)


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="of the recipe, for both losses"
    )
    parser.add_argument("--results", type=Path, default=Path("runs/experiments/tune_clip.jsonl"))
    parser.add_argument(
        "--development", action="store_true", help="on other pictures, to choose the recipe by"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(asked.results)
    first = DEVELOPMENT_SEED if asked.development else FIRST_SEED
    changes = dict(text.split("=", 1) for text in asked.set)
    for seed, loss in product(asked.seeds, asked.losses):
        if not results.has(loss=loss, seed=seed, changes=changes):
            run(loss, seed, first, changes, results)


if __name__ == "__main__":
    main()
