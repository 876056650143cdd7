"""Few-shot curves: Dice after training on a few labelled cases, against MONAI's BasicUNet from scratch.

    python -m docs.experiments.few_shot hippocampus breast --counts 1 5 10 25 50 --seeds 1 2 3 --seconds 120

Both get the same processor time, with one thread. The whole training counts: reading, learning, judging.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch

from docs.experiments.pool import TASKS, Pool, load_pool, read_all
from docs.experiments.results import Results, scores_of
from docs.experiments.training import load, publish
from docs.experiments.unet import train_unet
from wordmask.inference.cache import FeatureCache
from wordmask.learning.evaluation.validation import validate
from wordmask.learning.recipes import TeachingRecipe
from wordmask.models.base import Segmenter
from wordmask.weights.versions import ModelStore

TIMED_STEPS = (10, 50)  # of two short trainings that show how long a step takes, and all the rest


class Runs:
    """Both models for one number of cases, seed and budget at a time."""

    def __init__(
        self, pool: Pool, results: Results, changes: Mapping[str, str], floor_changes: Mapping[str, str]
    ) -> None:
        self.pool, self.results = pool, results
        self.changes, self.floor_changes = changes, floor_changes
        self.tests, self.cache = read_all(pool.test), FeatureCache(2 << 30)
        self.per_step: float | None = None  # processor seconds

    def untrained(self) -> None:
        """The weights that ship, without any case."""
        model = load()
        self._add({"cases": 0, "seed": 0, "seconds": 0, "model": "wordmask", "processor": 0.0}, model)

    def ours(self, count: int, seed: int, seconds: int) -> None:
        """Our model."""
        cases = self.pool.draw(count, seed)
        recipe = TeachingRecipe.load("few_shot", **{**self.changes, "seed": seed, "steps": TIMED_STEPS[0]})
        with tempfile.TemporaryDirectory() as folder:
            store = ModelStore(Path(folder) / "store")
            _, few = publish(cases, recipe, store)
            if self.per_step is None:  # nearly the same for any cases of a task
                _, more = publish(cases, recipe.model_copy(update={"steps": TIMED_STEPS[1]}), store)
                self.per_step = (more - few) / (TIMED_STEPS[1] - TIMED_STEPS[0])
            steps = max(1, TIMED_STEPS[0] + round((seconds - few) / self.per_step))
            version, spent = publish(cases, recipe.model_copy(update={"steps": steps}), store)
            model = load(version)
        key = {"cases": count, "seed": seed, "seconds": seconds, "model": "wordmask"}
        self._add({**key, "processor": round(spent, 1), "steps": steps}, model)

    def unet(self, count: int, seed: int, seconds: int) -> None:
        """The baseline."""
        cases = read_all(self.pool.draw(count, seed))
        began = time.process_time()
        net, steps, timing = train_unet(self.pool.task, cases, seconds, seed, **self.floor_changes)
        key = {"cases": count, "seed": seed, "seconds": seconds, "steps": steps}
        spent = round(time.process_time() - began - timing, 1)
        self._add({**key, "model": "unet", "processor": spent}, net)
        if net.mirrors:  # pictures
            net.stands_out = True
            self._add({**key, "model": "unet, part", "processor": spent}, net)

    def _add(self, key: dict[str, Any], model: Segmenter) -> None:
        scores = scores_of(validate(model, self.tests, self.cache), self.tests)
        self.results.add({"task": self.pool.task.name, **key}, scores)


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="+", choices=list(TASKS))
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 5, 10, 25, 50])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--seconds", nargs="+", type=int, default=[120], help="processor seconds of each")
    parser.add_argument("--models", nargs="+", choices=["wordmask", "unet"], default=["wordmask", "unet"])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of our recipe")
    parser.add_argument("--floor-set", nargs="*", default=[], metavar="NAME=VALUE", help="of the U-Net's")
    parser.add_argument("--results", type=Path, default=Path("runs/experiments/few_shot.jsonl"))
    parser.add_argument(
        "--development",
        action="store_true",
        help="judge on a part of the cases to learn from, to make choices by",
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)  # processor time is then the time of one core, whatever else the machine does
    results = Results(asked.results)
    changes, floor_changes = (
        dict(text.split("=", 1) for text in texts) for texts in (asked.set, asked.floor_set)
    )
    for name in asked.tasks:
        runs = Runs(load_pool(name, development=asked.development), results, changes, floor_changes)
        if not results.has(task=name, cases=0):
            runs.untrained()
        for seconds, seed, count, model in product(asked.seconds, asked.seeds, asked.counts, asked.models):
            if not results.has(task=name, cases=count, seed=seed, seconds=seconds, model=model):
                (runs.ours if model == "wordmask" else runs.unet)(count, seed, seconds)


if __name__ == "__main__":
    main()
