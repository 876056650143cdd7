"""Simulated active learning: a person labels what a strategy chooses, then the model is trained again.

python -m docs.experiments.active_learning breast --strategies random uncertainty hybrid --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from docs.experiments.pool import TASKS, Pool, load_pool, read_all
from docs.experiments.results import Results, scores_of
from docs.experiments.training import MODEL, PRESET, load, publish
from wordmask.inference.cache import FeatureCache
from wordmask.learning.active.embedding import embed_image
from wordmask.learning.active.scores import CaseScore, score_case
from wordmask.learning.active.strategies import choose
from wordmask.learning.cases import Case, LabelledVolume
from wordmask.learning.evaluation.validation import validate
from wordmask.learning.recipes import TeachingRecipe
from wordmask.models.base import Segmenter
from wordmask.models.registry import load_preset
from wordmask.weights.versions import ModelStore

CANDIDATES = 60  # unlabelled cases, the same for every strategy of one seed
START, PER_ROUND, MOST = 4, 4, 40
# Short trainings, because there are many: two networks on 64 pixels, all cases teach.
CHANGES = {"steps": 80, "sides": (64,), "held_out": 0.0, "members": ("pretrained", "lean")}


class Simulation:
    """One strategy with one seed: all start with the same cases."""

    def __init__(
        self, pool: Pool, strategy: str, seed: int, tests: Sequence[LabelledVolume], cache: FeatureCache
    ) -> None:
        self.pool, self.strategy, self.seed, self.tests, self.cache = pool, strategy, seed, tests, cache
        drawn = pool.draw(CANDIDATES, seed)
        self.labelled, self.unlabelled = drawn[:START], drawn[START:]

    def run(self, results: Results, first: Segmenter | None) -> Segmenter:
        """Train, judge, choose, label, and again.

        Args:
            results: where to write.
            first: the model that was trained on the cases to start with; None: train it.

        Returns:
            That model.
        """
        first = first or self.train()
        model = first
        while True:
            key = {
                "task": self.pool.task.name,
                "strategy": self.strategy,
                "seed": self.seed,
                "cases": len(self.labelled),
            }
            names = [case.name for case in self.labelled[-PER_ROUND:]]
            cache = FeatureCache(1 << 30)  # of this version's features
            if not results.has(**key):
                scores = scores_of(validate(model, self.tests, cache), self.tests)
                results.add({**key, "chosen": names}, scores)
            if len(self.labelled) >= MOST:
                return first
            self.label(model)
            model = self.train()

    def train(self) -> Segmenter:
        """Train on everything labelled, from the weights that ship.

        All cases teach and none judges; the number of steps is fixed.
        """
        recipe = TeachingRecipe.load("quick", seed=self.seed, **CHANGES)
        with tempfile.TemporaryDirectory() as folder:
            version, _ = publish(self.labelled, recipe, ModelStore(Path(folder) / "store"))
            return load(version)

    def label(self, model: Segmenter) -> None:
        """Take the next cases one by one, as `choose` says, with the scores of the model of this round."""
        blind = self.strategy == "random"
        candidates = {
            case.name: CaseScore.unscored(case.name) if blind else self.score(model, case)
            for case in self.unlabelled
        }
        known = [] if blind else [self.place(case) for case in self.labelled]
        for turn in range(PER_ROUND):
            offered = [candidates[case.name] for case in self.unlabelled]
            name = choose(
                self.strategy, offered, known, seed=1000 * self.seed + 10 * len(self.labelled) + turn
            ).case
            chosen = next(case for case in self.unlabelled if case.name == name)
            self.unlabelled.remove(chosen)
            self.labelled.append(chosen)
            known.append(candidates[name])

    def score(self, model: Segmenter, case: Case) -> CaseScore:
        """What the model says of a case, without its label."""
        read = case.read()
        return score_case(model, read.volume, list(read.prompts.values()), name=case.name, cache=self.cache)

    def place(self, case: Case) -> CaseScore:
        """Where a labelled case lies among others."""
        read = case.read()
        prompt = next(iter(read.prompts.values()))
        preset = load_preset(MODEL, PRESET)
        return CaseScore.unscored(case.name, embed_image(read.volume, prompt, preset))


def main() -> None:
    """Run what the results file lacks; an interrupted simulation starts again from its first round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--strategies", nargs="+", default=["random", "uncertainty", "hybrid"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--results", type=Path, default=Path("runs/experiments/active_learning.jsonl"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results, pool, cache = Results(asked.results), load_pool(asked.task), FeatureCache(4 << 30)
    tests = read_all(pool.test)
    for seed in asked.seeds:
        first = None  # all strategies of a seed start with the same cases, and so with the same model
        for strategy in asked.strategies:
            if not results.has(task=asked.task, strategy=strategy, seed=seed, cases=MOST):
                first = Simulation(pool, strategy, seed, tests, cache).run(results, first)


if __name__ == "__main__":
    main()
