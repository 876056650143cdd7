"""The cases of the versions that a training starts from, which it repeats so that nothing is forgotten.

Knows cases and what a version wrote about them; not models, not losses.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from wordmask.errors import WordMaskError
from wordmask.learning.cases import Case, cases_from_json

logger = logging.getLogger(__name__)

CASES = "cases.json"  # beside a version's weights: where its cases lie
MOST_CASES = 40  # of earlier versions, chosen by the digests of their names


def earlier_cases(version: Path | None, names: Collection[str]) -> list[Case]:
    """The cases that a version and the versions before it were trained on, at most `MOST_CASES`.

    A case is left out when it is given again or its files are gone.
    """
    if version is None or not (version / CASES).is_file():
        return []
    try:
        found = cases_from_json(version / CASES, missing="skip")
    except WordMaskError as error:
        logger.warning("The cases of version %s cannot be repeated (%s).", version.name, error)
        return []
    chosen = [case for case in found if case.name not in names]
    return sorted(chosen, key=lambda case: hashlib.sha256(case.name.encode()).digest())[:MOST_CASES]


def write_cases(folder: Path, cases: Sequence[Case]) -> None:
    """Record where the cases of a version lie, for the trainings that start from it."""
    entries = [
        {
            "name": case.name,
            "image": str(case.image.resolve()),
            "label": str(case.label.resolve()),
            "names": {word: list(values) for word, values in case.words.items()},
            "group": case.group,
        }
        for case in cases
    ]
    (folder / CASES).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
