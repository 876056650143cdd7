"""What the stages share that train adapters on the bundled tiny encoders.

Which words of a slice are asked for, how the result is measured, what the card says, and the command line.
Knows phantoms and checkpoints; not the models.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordmask.models.presets import Preset
from wordmask.phantoms import GENERATOR_VERSION
from wordmask.phantoms.words import WORDS
from wordmask.pretraining.decoder_stage import Score, word_shares
from wordmask.pretraining.phantom_data import SMALLEST_PRESENT, PhantomSlices
from wordmask.weights.card import Card

ENCODERS = "bundled/simple_vilmedsam_tiny"
SLICES_PER_STEP, WORDS_PER_SLICE = 8, 3  # the last of the words is absent from its slice

Mark = Callable[[int, Sequence[int]], tuple[Tensor, Tensor]]
"""(row of a slice, numbers of words) -> the marked and the true masks, bool [words, H, W]."""


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are what the shipped weights were trained with."""

    slices: int = 6_000
    test_slices: int = 300
    steps: int = 1_200
    seed: int = 1


def clearly_present(data: PhantomSlices) -> Tensor:
    """Bool [N, words]: whether a slice shows enough of a word to learn it from."""
    return word_shares(data.labels) > 2 * SMALLEST_PRESENT


def choose_pairs(present: Tensor, generator: torch.Generator) -> Tensor:
    """(slice, word) pairs of a batch: present words of each slice, and an absent one.

    Args:
        present: bool [B, words], of the batch.
        generator: of everything random.

    Returns:
        [B * WORDS_PER_SLICE, 2].
    """
    pairs = []
    for place, there in enumerate(present):
        shown, missing = there.nonzero()[:, 0], (~there).nonzero()[:, 0]
        chosen = shown[torch.randperm(len(shown), generator=generator)][: WORDS_PER_SLICE - 1]
        absent = missing[torch.randint(len(missing), (WORDS_PER_SLICE - len(chosen),), generator=generator)]
        pairs += [(place, int(word)) for word in (*chosen, *absent)]
    return torch.tensor(pairs)


def measure(mark: Mark, data: PhantomSlices) -> Score:
    """Dice of every word in slices that show it, and the share of absent words that got a mark."""
    shares = word_shares(data.labels)
    dices: dict[str, list[float]] = {word: [] for word in WORDS}
    alarms = []
    for row in range(len(data)):
        clear = (shares[row] > 2 * SMALLEST_PRESENT) | (shares[row] == 0)
        words = clear.nonzero()[:, 0].tolist()
        for word, mask, truth in zip(words, *mark(row, words), strict=True):
            if truth.any():
                dices[WORDS[word]].append(float(2 * (mask & truth).sum() / (mask.sum() + truth.sum())))
            else:
                alarms.append(float(mask.float().mean()) > 0.002)
    means = {word: sum(values) / len(values) for word, values in dices.items() if values}
    return Score(sum(means.values()) / len(means), means, sum(alarms) / max(1, len(alarms)))


def make_card(preset: Preset, plan: Plan, scores: Mapping[str, Score], token_ids: Sequence[int]) -> Card:
    """The card of the bundled weights.

    Args:
        preset: that the weights are for.
        plan: of their training.
        scores: what was measured -> result.
        token_ids: that have a row in the text table.
    """
    content: dict[str, Any] = {
        "title": preset.title,
        "intended_use": "Demonstration of the workflow on synthetic phantoms. Not for patients.",
        "words": list(WORDS),
        "training_data": f"{plan.slices} phantom slices, generator version {GENERATOR_VERSION}",
        "phantom_generator": GENERATOR_VERSION,
        "plan": asdict(plan),
        "preset": preset.model_dump(mode="json"),
        "test": {name: asdict(score) for name, score in scores.items()},
        "libraries": {"torch": torch.__version__},
        "token_ids": list(token_ids),
    }
    return Card.model_validate(content)


def run_from_command_line(
    description: str | None, output: str, plan: Plan, run: Callable[[Path, Plan, Path], object]
) -> None:
    """Read folder and plan, and train.

    Args:
        description: of the stage.
        output: the usual folder.
        plan: the usual plan.
        run: called with the folder, the plan, and the folder for the weights.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--steps", type=int, default=plan.steps)
    parser.add_argument("--slices", type=int, default=plan.slices)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = replace(plan, slices=asked.slices, steps=asked.steps)
    run(asked.output, chosen, asked.output / "weights")
