"""The papers' experiments: data sets to learn from and to test on, settings, and published figures.

configs/papers/<name>.yaml holds them, configs/papers/data_sets.yaml the data sets. Knows folders, words and
numbers; not models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from wordmask.errors import RequestError
from wordmask.learning.cases import Case, cases_from_folder
from wordmask.resources import config_names, look_up, read_config

DATA_SETS = "data_sets.yaml"

Part = Literal["train", "test"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSet(_Settings):
    """Where a data set lies below the folder that the user gives, and what its label maps show."""

    name: str
    folder: str = Field(description="with train/ and test/, each with images/ and labels/")
    word: str
    prompt: str = Field(description="a sentence that says the same, for runs with long prompts")
    images: str = Field(
        default="", description="data sets with one name here show the same images under the same file names"
    )
    source: str

    def cases(self, root: Path, part: Part, *, long_prompts: bool = False) -> list[Case]:
        """The cases of one part, in the papers' layout.

        Raises:
            VolumeError: a folder is empty, or an image has no label map.
        """
        found = cases_from_folder(root / self.folder / part, self.prompt if long_prompts else self.word)
        return [
            replace(case, name=f"{self.name}/{case.name}", group=f"{self.images or self.name}/{case.name}")
            for case in found
        ]


class Published(_Settings):
    """What a paper reports, in percent; None where it does not."""

    dice: float | None = Field(default=None, ge=0, le=100)
    iou: float | None = Field(default=None, ge=0, le=100)
    nsd: float | None = Field(default=None, ge=0, le=100)


class Run(_Settings):
    """One training and its test.

    Attributes:
        train: names of data sets whose train/ folders are learned from.
        test: names of data sets whose test/ folders are judged.
    """

    label: str
    train: tuple[str, ...] = Field(min_length=1)
    test: tuple[str, ...] = Field(min_length=1)
    train_cases: PositiveInt | None = Field(
        default=None, description="at most so many in all, evenly of each; None: the number of the experiment"
    )
    recipe_changes: dict[str, Any] = Field(
        default_factory=dict, description="checked by the recipe when the run starts"
    )
    long_prompts: bool = Field(
        default=False, description="learn and ask with the data sets' sentences in place of their words"
    )
    published: Published = Published()

    @property
    def folder(self) -> str:
        """A name for files."""
        return "_".join("".join(c if c.isalnum() else " " for c in self.label.lower()).split())


class Protocol(_Settings):
    """One experiment of a paper."""

    name: str
    title: str
    source: str
    description: str
    recipe: str
    train_cases: PositiveInt | None = None
    runs: tuple[Run, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({run.folder for run in self.runs}) < len(self.runs):
            raise ValueError("two runs have one label")
        for name in {name for run in self.runs for name in (*run.train, *run.test)}:
            data_set(name)
        return self

    def choose_runs(self, labels: Sequence[str]) -> list[Run]:
        """The runs with these labels; all when none is given.

        Raises:
            RequestError: there is no such run.
        """
        known = {run.label.lower(): run for run in self.runs}
        for label in labels:
            if label.lower() not in known:
                raise RequestError(
                    f"The experiment {self.name!r} has no run {label!r}; runs: "
                    f"{', '.join(run.label for run in self.runs)}."
                )
        return [
            run for run in self.runs if not labels or run.label.lower() in {label.lower() for label in labels}
        ]

    def cases(self, run: Run, part: Part, root: Path, *, most: int | None = None) -> list[Case]:
        """The cases of one part of a run.

        Args:
            run: of this protocol.
            part: train or test.
            root: folder with the data sets.
            most: training cases, in place of the run's number.

        Raises:
            VolumeError: a folder is empty, or an image has no label map.
        """
        names = run.train if part == "train" else run.test
        by_set = [data_set(name).cases(root, part, long_prompts=run.long_prompts) for name in names]
        if part == "test":
            return list(chain.from_iterable(by_set))
        return _evenly(by_set, most or run.train_cases or self.train_cases)


def protocol_names() -> list[str]:
    """The protocols that ship."""
    return [name for name in config_names("papers") if f"{name}.yaml" != DATA_SETS]


def load_protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        RequestError: there is no such protocol; the message names the nearest one.
    """
    look_up(name, protocol_names(), "experiment", RequestError)
    return Protocol(name=name, **yaml.safe_load(read_config("papers", f"{name}.yaml")))


@cache
def data_sets() -> dict[str, DataSet]:
    """All data sets of the protocols by name."""
    entries = yaml.safe_load(read_config("papers", DATA_SETS))
    return {name: DataSet(name=name, **entry) for name, entry in entries.items()}


def data_set(name: str) -> DataSet:
    """The data set of a name.

    Raises:
        ValueError: there is no such data set.
    """
    if name not in data_sets():
        raise ValueError(f"there is no data set {name!r}")
    return data_sets()[name]


def require_folders(runs: Sequence[Run], root: Path) -> None:
    """Check that every folder which the runs need is there.

    Raises:
        RequestError: folders are missing below ``root``; the message lists them all.
    """
    used = dict.fromkeys(
        (name, part)
        for run in runs
        for part, names in (("train", run.train), ("test", run.test))
        for name in names
    )
    needed = [root / data_set(name).folder / part for name, part in used]
    if missing := [
        str(path.relative_to(root))
        for path in needed
        if not all((path / kind).is_dir() for kind in ("images", "labels"))
    ]:
        raise RequestError(
            f"The folder {root.name or root} lacks {', '.join(missing)}, each with images/ and labels/; "
            "`wordmask papers list` names the data sets and where to get them."
        )


def _evenly(by_set: Sequence[Sequence[Case]], most: int | None) -> list[Case]:
    """At most so many cases, in turn from each data set, whatever the order of the file names."""
    shuffled = [
        sorted(cases, key=lambda case: hashlib.sha256(case.name.encode()).digest()) for cases in by_set
    ]
    in_turn = [case for row in zip_longest(*shuffled) for case in row if case is not None]
    return in_turn[:most]
