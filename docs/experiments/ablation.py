"""What LoRA of SAM's encoder, the implicit position prompt (IPP) and the interaction decoder (BID) give.

    python -m docs.experiments.ablation breast --seeds 1 2 3

At tiny size. Every variant starts with a random decoder on the encoders that ship, and learns from the same
cases for the same number of steps.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path

import torch

from docs.experiments.pool import TASKS, load_pool, read_all
from docs.experiments.results import Results, scores_of
from docs.experiments.training import load, publish
from wordmask.inference.cache import FeatureCache
from wordmask.learning.evaluation.validation import validate
from wordmask.learning.recipes import Recipe
from wordmask.weights.versions import ModelStore

CASES, LORA_RANK = 50, 8
# 80 steps.
CHANGES = {
    "fresh_decoder": True,
    "replay": 0.0,
    "epochs": 2,
    "validate_every": 2,
    "views": 2,
}


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--results", type=Path, default=Path("runs/experiments/ablation.jsonl"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results, pool = Results(asked.results), load_pool(asked.task)
    tests, cache = read_all(pool.test), FeatureCache(4 << 30)
    for seed, lora, ipp, bid in product(asked.seeds, (False, True), (False, True), (False, True)):
        key = {"task": asked.task, "seed": seed, "lora": lora, "ipp": ipp, "bid": bid}
        if not results.has(**key):
            changes = {**CHANGES, "ipp": ipp, "bid": bid, "lora_rank": LORA_RANK * lora}
            with tempfile.TemporaryDirectory() as folder:
                store = ModelStore(Path(folder) / "store")
                recipe = Recipe.load("decoder", seed=seed, **changes)
                version, seconds = publish(pool.draw(CASES, seed), recipe, store)
                model = load(version)
            results.add(
                {**key, "seconds": round(seconds)},
                scores_of(validate(model, tests, None if lora else cache), tests),
            )


if __name__ == "__main__":
    main()
