"""What a training on a new word does to the old ones, with and without repeating them.

    python -m docs.experiments.forgetting --seeds 1 2 3

Also what a second training does to the first word.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from docs.experiments.pool import load_pool, read_all
from docs.experiments.results import Results, scores_of
from docs.experiments.training import load, publish
from wordmask.demo.samples import load_samples
from wordmask.inference.cache import FeatureCache
from wordmask.learning.cases import Case, LabelledVolume
from wordmask.learning.evaluation.validation import validate
from wordmask.learning.recipes import TeachingRecipe
from wordmask.models.base import Segmenter
from wordmask.weights.versions import ModelStore

SAMPLES = Path(__file__).resolve().parents[2] / "sample_data"
CASES = 10
ORDER = ("hippocampus", "breast")


def main() -> None:
    """Bundled weights, then one task, then the other.

    After each: the old words on the sample studies, and every task's test cases.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--replay", nargs="+", type=float, default=[0.0, 0.5])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--results", type=Path, default=Path("runs/experiments/forgetting.jsonl"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results, cache = Results(asked.results), FeatureCache(4 << 30)
    pools = {name: load_pool(name) for name in ORDER}
    judged = {name: read_all(pool.test) for name, pool in pools.items()} | {"samples": old_words()}
    for seed in asked.seeds:
        for replay in asked.replay:
            if not results.has(seed=seed, replay=replay, steps=asked.steps, after=ORDER[-1]):
                with tempfile.TemporaryDirectory() as folder:
                    store = ModelStore(Path(folder) / "store")
                    key = {"seed": seed, "replay": replay, "steps": asked.steps}
                    record(results, {**key, "after": "bundled"}, load(), judged, cache)
                    for name in ORDER:
                        recipe = TeachingRecipe.load("few_shot", seed=seed, replay=replay, steps=asked.steps)
                        version, _ = publish(pools[name].draw(CASES, seed), recipe, store, start=None)
                        record(results, {**key, "after": name}, load(version), judged, cache)


def old_words() -> list[LabelledVolume]:
    """The sample studies without the word that the breast task teaches again."""
    cases = [
        Case(
            case.name,
            case.image,
            case.truth,
            {word: tuple(values) for word, values in case.words.items() if word != "breast tumor"},
            unnamed="background",
        )
        for case in load_samples(SAMPLES)
    ]
    return read_all([case for case in cases if case.words])


def record(
    results: Results,
    key: dict,
    model: Segmenter,
    judged: dict[str, list[LabelledVolume]],
    cache: FeatureCache,
) -> None:
    """Dice of one model on everything, unless it is known already."""
    if results.has(**key):
        return
    scores = {name: scores_of(validate(model, cases, cache), cases)["dice"] for name, cases in judged.items()}
    results.add(key, scores)


if __name__ == "__main__":
    main()
