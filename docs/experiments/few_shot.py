"""Few-shot curves: Dice after training on a few labelled cases, against MONAI's BasicUNet from scratch.

    python -m docs.experiments.few_shot hippocampus breast --counts 1 5 10 25 50 --seeds 1 2 3 --seconds 120

All get the same processor time, with one thread. The whole training counts: reading, learning, judging.
``--models medclipseg`` trains the adapters of MedCLIPSeg, as its paper does; "medclipseg, taught" is a
committee on MedCLIPSeg.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from docs.experiments.pool import TASKS, Pool, load_pool, read_all
from docs.experiments.results import Results, scores_of
from docs.experiments.training import MODEL, load, publish
from docs.experiments.unet import train_unet
from wordmask.inference.cache import FeatureCache
from wordmask.learning.evaluation.validation import validate
from wordmask.learning.recipes import AdapterRecipe, AnyRecipe, TeachingRecipe
from wordmask.models.base import Segmenter
from wordmask.weights.versions import ModelStore


@dataclass(frozen=True)
class Way:
    """A model of ours and how it learns.

    Attributes:
        model: its name.
        recipe: kind of its recipe.
        name: of the recipe.
        setting: of the recipe, which says how long it learns.
        timed: values of the setting in two short trainings, which show how long a step takes, and all the
            rest.
    """

    model: str
    recipe: type[AnyRecipe]
    name: str
    setting: str
    timed: tuple[int, int]


WAYS = {
    "wordmask": Way(MODEL, TeachingRecipe, "few_shot", "steps", (10, 50)),
    "medclipseg": Way("medclipseg", AdapterRecipe, "small", "steps_per_epoch", (1, 5)),
    "medclipseg, taught": Way("medclipseg", TeachingRecipe, "few_shot", "steps", (10, 50)),
}


class Runs:
    """One model for one number of cases, seed and budget at a time."""

    def __init__(
        self, pool: Pool, results: Results, changes: Mapping[str, str], floor_changes: Mapping[str, str]
    ) -> None:
        self.pool, self.results = pool, results
        self.changes, self.floor_changes = changes, floor_changes
        self.tests, self.cache = read_all(pool.test), FeatureCache(2 << 30)
        self.per_step: dict[str, float] = {}  # processor seconds, by way

    def untrained(self) -> None:
        """The weights that ship, without any case."""
        model = load()
        self._add({"cases": 0, "seed": 0, "seconds": 0, "model": "wordmask", "processor": 0.0}, model)

    def ours(self, count: int, seed: int, seconds: int, name: str) -> None:
        """A model of ours.

        Args:
            name: a key of `WAYS`.
        """
        way, cases = WAYS[name], self.pool.draw(count, seed)
        short, longer = way.timed
        recipe = way.recipe.load(way.name, **{**self.changes, "seed": seed, way.setting: short})
        with tempfile.TemporaryDirectory() as folder:
            store = ModelStore(Path(folder) / "store")
            _, few = publish(cases, recipe, store, model=way.model)
            if name not in self.per_step:  # nearly the same for any cases of a task
                more = recipe.model_copy(update={way.setting: longer})
                spent = publish(cases, more, store, model=way.model)[1]
                self.per_step[name] = (spent - few) / (longer - short)
            steps = max(1, short + round((seconds - few) / self.per_step[name]))
            final = recipe.model_copy(update={way.setting: steps})
            version, spent = publish(cases, final, store, model=way.model)
            model = load(version, way.model)
        key = {"cases": count, "seed": seed, "seconds": seconds, "model": name}
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
    parser.add_argument("--models", nargs="+", choices=[*WAYS, "unet"], default=["wordmask", "unet"])
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
                if model == "unet":
                    runs.unet(count, seed, seconds)
                else:
                    runs.ours(count, seed, seconds, model)


if __name__ == "__main__":
    main()
