"""The pool of real images as labelled cases, divided once into training cases and untouched test cases.

``WORDMASK_REAL_DATA`` names a folder with ``pool/index.json``; the images are not part of this repository.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wordmask.errors import RequestError
from wordmask.learning.cases import Case, LabelledVolume
from wordmask.learning.splitting import split_cases

TEST_SHARE = 0.25


@dataclass(frozen=True)
class Task:
    """One word in one kind of image.

    Attributes:
        unet_side: pixels of the square that the U-Net sees, near the images' own resolution.
    """

    name: str
    folder: str
    word: str
    unet_side: int


TASKS = {
    "hippocampus": Task("hippocampus", "mr_hippocampus", "hippocampus", 64),
    "breast": Task("breast", "us_breast", "breast tumor", 128),
}


@dataclass(frozen=True)
class Pool:
    """Cases of one task.

    Groups (patients, pairs of sides, blocks of neighbours) lie on one side of the division.
    """

    task: Task
    learn: list[Case]
    test: list[Case]

    def draw(self, count: int, seed: int) -> list[Case]:
        """``count`` cases in random order, the first of which shows the word.

        A larger draw of one seed holds the smaller ones.
        """
        order = sorted(self.learn, key=lambda case: case.name)
        random.Random(seed).shuffle(order)
        first = next(number for number, case in enumerate(order) if case.words[self.task.word] != ABSENT)
        return [order[first], *order[:first], *order[first + 1 :]][:count]


ABSENT = (255,)  # a value that no label map of the pool has


def load_pool(name: str, *, development: bool = False) -> Pool:
    """The cases of a task.

    Args:
        name: of the task.
        development: divide the training cases once more, so that choices can be made without the test cases.

    Raises:
        RequestError: the data are not there, or there is no such task.
    """
    root = os.environ.get("WORDMASK_REAL_DATA")
    if not root or not (Path(root) / "pool" / "index.json").is_file():
        raise RequestError(
            "Set WORDMASK_REAL_DATA to a folder with pool/index.json; "
            "docs/experiments.md says what lies in it."
        )
    if name not in TASKS:
        raise RequestError(f"There is no task {name!r}; tasks: {', '.join(TASKS)}.")
    task, pool = TASKS[name], Path(root) / "pool"
    entries = json.loads((pool / "index.json").read_text(encoding="utf-8"))["cases"]
    cases = [_case(entry, task, pool) for entry in entries if entry["image"].startswith(f"{task.folder}/")]
    learn, test = split_cases(cases, TEST_SHARE)
    if development:
        learn, test = _second_split(learn)
    return Pool(task, learn, test)


def _second_split(cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    """Divide by another digest than the first split, that of the reversed group."""
    reversed_groups = [replace(case, group=case.group[::-1]) for case in cases]
    learn, test = split_cases(reversed_groups, TEST_SHARE)
    return learn, test


def read_all(cases: Sequence[Case]) -> list[LabelledVolume]:
    """Images and masks in memory."""
    return [case.read() for case in cases]


def _case(entry: dict, task: Task, pool: Path) -> Case:
    """A volume's labels together are the word; of a picture's masks there is one."""
    if "mask" in entry:
        label, values = entry["mask"], tuple(int(value) for value in entry["labels"])
    else:
        (label,) = entry["masks"].values()
        values = ABSENT if entry.get("absent") else ()
    return Case(
        entry["id"], pool / entry["image"], pool / label, {task.word: values}, entry["group"], "background"
    )
