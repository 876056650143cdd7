"""What every training on labelled cases does around its learning: read, start, report.

Knows cases, the store of versions and requests; not what learns.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from wordmask.errors import RequestError, WordMaskError
from wordmask.learning.cases import Case, LabelledVolume, Study, read_cases
from wordmask.learning.publishing import find_start
from wordmask.learning.recipes import AnyRecipe
from wordmask.learning.training import Report, Training, TrainingProgress, TrainingRequest
from wordmask.models.registry import load_preset
from wordmask.progress import CancelToken
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import checkpoint_folder, read_card
from wordmask.weights.versions import ModelStore, weights_digest

logger = logging.getLogger(__name__)
R = TypeVar("R", bound=AnyRecipe)


class LabelledTraining(Training[R]):
    """A training on labelled cases."""

    def read_data(
        self, path: Path, request: TrainingRequest[R], *, word: str | None, labels: Path | None
    ) -> list[Case]:
        """Read a JSON list of cases, or a folder in the papers' layout."""
        return read_cases(path, word)

    def choose_data(self, studies: Sequence[Study], request: TrainingRequest[R]) -> list[Case]:
        """The labelled studies."""
        return [study.case for study in studies if study.case]


def refuse_empty(cases: Sequence[LabelledVolume]) -> None:
    """Raise RequestError when no case has a voxel of any word."""
    if not any(case.shows_anything for case in cases):
        raise RequestError(
            "No labelled case has a voxel of any word, so there is nothing to learn; check the label maps."
        )


@dataclass
class LabelledRun(Generic[R]):
    """One training on labelled cases.

    Attributes:
        request: what was asked for.
        store: of the versions.
        run_folder: for what this run keeps.
        report: called with the progress.
        cancel: ends the run with CancelledError.
        began: time.monotonic() at its start.
        parent: the version that it starts from; None: the preset's own weights.
        parent_card: its card.
        skipped: a sentence for each case that was left out.
        mean_before: Dice of the model in use, as soon as it is known.
    """

    request: TrainingRequest[R]
    store: ModelStore
    run_folder: Path
    report: Report
    cancel: CancelToken
    began: float = field(default_factory=time.monotonic)
    parent: int | None = None
    parent_card: Card = field(default_factory=Card)
    skipped: list[str] = field(default_factory=list)
    mean_before: float | None = None

    def open_start(self, *, taught: bool = False) -> Path | None:
        """Find the version to start from and read its card; returns its folder.

        Args:
            taught: whether this training can continue a version that was taught words.

        Raises:
            RequestError: there is no such version, or this training cannot continue it.
        """
        self.parent = find_start(self.store, self.request.start, self.request.preset, taught=taught)
        if self.parent is None:
            return None
        start = self.store.folder(self.parent)
        self.parent_card = read_card(start)
        return start

    def digest_start(self, start: Path | None) -> str | None:
        """Digest of the weights to start from; None when the preset has none of its own."""
        folder = start or self.base_folder()
        return None if folder is None else weights_digest(folder)

    def base_folder(self) -> Path | None:
        """Folder of the preset's own weights."""
        base = load_preset(self.request.model, self.request.preset).weights
        return None if base is None else checkpoint_folder(base)

    def base_title(self) -> dict[str, str | None] | None:
        """Name and title of the preset's own weights, for the card."""
        folder = self.base_folder()
        return None if folder is None else {"name": folder.name, "title": read_card(folder).title}

    def read(self, cases: Sequence[Case]) -> list[LabelledVolume]:
        """Read cases; one that cannot be read is noted in `skipped` and left out."""
        read = []
        for number, case in enumerate(cases):
            self.cancel.check()
            self.tell("reading cases", number, len(cases))
            try:
                read.append(case.read())
            except WordMaskError as error:
                logger.warning("The case %s is left out: %s", case.name, error)
                self.skipped.append(f"{case.name}: {error}")
        return read

    def explain_skipped(self) -> str:
        """How many cases could not be read, for the end of a sentence; empty when all could."""
        if not self.skipped:
            return ""
        return f" {len(self.skipped)} could not be read; the first: {self.skipped[0]}"

    def refuse_too_few(self, learned: int, judging: int) -> None:
        """Raise RequestError when nothing is left to learn from, or, without force, nothing that judges.

        Args:
            learned: number of cases to learn from.
            judging: number of cases that judge.
        """
        first = self.explain_skipped()
        if not learned:
            raise RequestError(
                f"There is no labelled case to learn from; label and submit some first.{first}"
            )
        if not judging and not self.request.force:
            raise RequestError(
                f"There are too few labelled cases ({learned}), so none is left to check the "
                f"result; label another one, or force the publication without a check.{first}"
            )

    def tell(
        self,
        stage: str,
        done: int = 0,
        total: int = 0,
        *,
        loss: float | None = None,
        dice: float | None = None,
    ) -> None:
        """Report the progress of a stage."""
        self.report(TrainingProgress(stage, done, total, loss, dice, self.mean_before, self.elapsed()))

    def elapsed(self) -> float:
        """Seconds since the start."""
        return round(time.monotonic() - self.began, 1)
