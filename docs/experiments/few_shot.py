"""Few-shot curves: Dice after training on a few labelled cases, against MONAI's BasicUNet from scratch.

    python -m docs.experiments.few_shot hippocampus breast --counts 1 5 10 25 50 --seeds 1 2 3

Both get the same processor time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

from docs.experiments.pool import TASKS, Pool, load_pool, read_all
from docs.experiments.results import Results, scores_of
from docs.experiments.unet import train_unet
from wordmask.inference.cache import FeatureCache
from wordmask.learning.evaluation.validation import validate
from wordmask.learning.recipes import Recipe
from wordmask.learning.splitting import split_cases
from wordmask.learning.training import TrainingRequest, find_training
from wordmask.models.base import Segmenter
from wordmask.models.loading import load_segmenter
from wordmask.weights.versions import ModelStore

MODEL, PRESET = "simple_vilmedsam", "tiny"
# 160 steps for any number of cases, without early stopping.
CHANGES = {"epochs": 4, "validate_every": 1, "patience": 100}


def learn(pool: Pool, count: int, seed: int, **changes: object) -> tuple[Segmenter, float, int]:
    """Train on ``count`` cases.

    Returns:
        The model, the processor seconds that it took, and how many cases only judged.
    """
    recipe = Recipe.load("few_shot", seed=seed, **changes)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        store = ModelStore(Path(folder) / "store")
        request = TrainingRequest(model=MODEL, preset=PRESET, recipe=recipe, device="cpu", force=True)
        report = find_training(MODEL).run(
            pool.draw(count, seed), request, store, run_folder=Path(folder) / "run"
        )
        seconds = time.process_time() - began
        assert report.version is not None
        model = load_segmenter(MODEL, preset=PRESET, device="cpu", weights=store.folder(report.version))
    return model, seconds, len(report.validation_cases)


class Runs:
    """Both models for one number of cases and one seed at a time."""

    def __init__(self, pool: Pool, results: Results, changes: dict[str, str]) -> None:
        self.pool, self.results, self.changes = pool, results, changes
        self.tests, self.cache = read_all(pool.test), FeatureCache(4 << 30)

    def untrained(self) -> None:
        """The weights that ship, without any case."""
        model = load_segmenter(MODEL, preset=PRESET, device="cpu")
        self._add({"cases": 0, "seed": 0, "model": "wordmask", "seconds": 0.0}, model)

    def ours(self, count: int, seed: int) -> None:
        """Our model."""
        model, seconds, judges = learn(self.pool, count, seed, **{**CHANGES, **self.changes})
        self._add(
            {
                "cases": count,
                "seed": seed,
                "model": "wordmask",
                "seconds": round(seconds, 1),
                "judges": judges,
            },
            model,
        )

    def unet(self, count: int, seed: int) -> None:
        """The baseline: the same cases to learn from and to judge by, for as long as ours took."""
        (ours,) = self.results.select(task=self.pool.task.name, cases=count, seed=seed, model="wordmask")
        recipe = Recipe.load("few_shot", seed=seed, **CHANGES)
        training, judging = split_cases(self.pool.draw(count, seed), recipe.validation)
        began = time.process_time()
        net, epochs = train_unet(
            self.pool.task, read_all(training), read_all(judging), recipe, ours["seconds"]
        )
        seconds = round(time.process_time() - began, 1)
        self._add(
            {
                "cases": count,
                "seed": seed,
                "model": "unet",
                "seconds": seconds,
                "judges": len(judging),
                "epochs": epochs,
            },
            net,
        )

    def _add(self, key: dict[str, Any], model: Segmenter) -> None:
        scores = scores_of(validate(model, self.tests, self.cache), self.tests)
        self.results.add({"task": self.pool.task.name, **key}, scores)


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="+", choices=list(TASKS))
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 5, 10, 25, 50])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--models", nargs="+", choices=["wordmask", "unet"], default=["wordmask", "unet"])
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="of the recipe of our model"
    )
    parser.add_argument("--results", type=Path, default=Path("runs/experiments/few_shot.jsonl"))
    parser.add_argument(
        "--development",
        action="store_true",
        help="judge on a part of the cases to learn from, to make choices by",
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)  # processor time is then the time of one core, whatever else the machine does
    results = Results(asked.results)
    for name in asked.tasks:
        runs = Runs(
            load_pool(name, development=asked.development),
            results,
            dict(text.split("=", 1) for text in asked.set),
        )
        if not results.has(task=name, cases=0):
            runs.untrained()
        for seed, count, model in product(asked.seeds, asked.counts, asked.models):
            if not results.has(task=name, cases=count, seed=seed, model=model):
                (runs.ours if model == "wordmask" else runs.unet)(count, seed)


if __name__ == "__main__":
    main()
