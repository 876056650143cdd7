"""Whether a taught word is found absent: breast ultrasound pictures with and without a lesion.

    python -m docs.experiments.presence --seeds 1 2 3

Teaches all cases that there are to learn from, and judges with and without the limit of presence that
held-out cases give.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from docs.experiments.pool import load_pool, read_all
from docs.experiments.results import Results, scores_of
from docs.experiments.training import load, publish
from wordmask.inference.cache import FeatureCache
from wordmask.learning.evaluation.validation import validate
from wordmask.learning.recipes import TeachingRecipe
from wordmask.models.taught.segmenter import TaughtSegmenter
from wordmask.weights.versions import ModelStore


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of the recipe")
    parser.add_argument("--development", action="store_true", help="judge on cases to learn from")
    parser.add_argument("--results", type=Path, default=Path("runs/experiments/presence.jsonl"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results, pool = Results(asked.results), load_pool("breast", development=asked.development)
    tests = read_all(pool.test)
    for seed in asked.seeds:
        if results.has(seed=seed, presence="none"):
            continue
        changes = dict(text.split("=", 1) for text in asked.set)
        recipe = TeachingRecipe.load("few_shot", **{"steps": asked.steps, **changes, "seed": seed})
        cases = pool.draw(len(pool.learn), seed)
        with tempfile.TemporaryDirectory() as folder:
            version, spent = publish(cases, recipe, ModelStore(Path(folder) / "store"))
            model = load(version)
        assert isinstance(model, TaughtSegmenter)
        words = model.committee.card.words
        limits = [word.presence for word in words.values()]
        for how in ("limit of held-out cases", "none"):
            if how == "none":
                model.committee.card = model.committee.card.with_words(words, presence=None)
            key = {"seed": seed, "presence": how, "cases": len(cases), "processor": round(spent, 1)}
            found = validate(model, tests, FeatureCache(1 << 30))
            held = [limit.model_dump() for limit in limits if limit is not None]
            results.add({**key, "held_out": held}, scores_of(found, tests))


if __name__ == "__main__":
    main()
