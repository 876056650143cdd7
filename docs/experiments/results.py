"""Results of experiments, one line of JSON each, so that an interrupted experiment can continue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wordmask.learning.cases import LabelledVolume
from wordmask.learning.evaluation.validation import ValidationScore

FAILED = 0.1  # Dice


class Results:
    """A file of records."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        if path.exists():
            self.records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def has(self, **key: Any) -> bool:
        """Whether a record agrees with all of ``key``."""
        return bool(self.select(**key))

    def select(self, **key: Any) -> list[dict[str, Any]]:
        """The records that agree with all of ``key``."""
        return [
            record for record in self.records if all(record.get(name) == value for name, value in key.items())
        ]

    def add(self, key: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
        """Keep a record, and print it."""
        record = {**key, **scores}
        self.records.append(record)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)


def scores_of(found: ValidationScore, cases: Sequence[LabelledVolume]) -> dict[str, Any]:
    """What is kept of a validation.

    Returns:
        ``dice``, ``median``: over cases that show the word; ``failed``: share of these with a Dice below
            `FAILED`; ``dice_all``: mean over all (an absent word counts 1
            when nothing was marked, else 0); ``specificity``: share of the cases without the word where
            nothing was marked, None without such cases.
    """
    shows = {(case.case.name, word): bool(mask.any()) for case in cases for word, mask in case.masks.items()}
    there = [score for key, score in found.dice.items() if shows[key]]
    absent = [score for key, score in found.dice.items() if not shows[key]]
    return {
        "dice": round(float(np.mean(there)), 4),
        "median": round(float(np.median(there)), 4),
        "failed": round(float(np.mean(np.array(there) < FAILED)), 4),
        "dice_all": round(found.mean, 4),
        "specificity": round(float(np.mean(absent)), 4) if absent else None,
        "tests": len(cases),
    }
