"""Judge all cases one after the other, and write what is known after each.

Stopping early loses nothing. Knows cases, answers and reports; not which model answers.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wordmask.errors import CancelledError, RequestError, VolumeError, WordMaskError
from wordmask.learning.cases import Case
from wordmask.learning.evaluation.answers import Answers
from wordmask.learning.evaluation.contact_sheet import ContactSheet
from wordmask.learning.evaluation.metrics import agreement
from wordmask.learning.evaluation.reliability import Reliability, Trust, draw, write_table
from wordmask.learning.evaluation.statistics import CaseResult, WordSummary, summarise
from wordmask.learning.evaluation.tables import CaseTable, summary_text

logger = logging.getLogger(__name__)

CASES, SUMMARY, SHEET = "cases.csv", "summary.md", "contact_sheet.png"
TRUST_TABLE, TRUST_PICTURE = "reliability.csv", "reliability.png"
TOLERANCE = 2.0  # mm of volumes, pixels of pictures: what the papers use for pictures


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        scores: of every case and word.
        words: a summary of each word.
        failed: a sentence per case that was left out.
        total: how many cases there were.
        stopped: whether the user ended it before all cases were judged.
        trust: word -> how far its probabilities can be trusted; empty for answers without maps.
    """

    scores: list[CaseResult]
    words: list[WordSummary]
    failed: list[str]
    total: int
    stopped: bool
    trust: dict[str, Trust] = field(default_factory=dict)

    @property
    def judged(self) -> int:
        """Number of cases with scores."""
        return len({score.case for score in self.scores})


def evaluate(
    cases: Sequence[Case],
    answers: Answers,
    folder: Path,
    *,
    how: Mapping[str, str],
    notes: Sequence[str] = (),
    tolerance: float = TOLERANCE,
    seed: int = 1,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Evaluation:
    """Judge the answers to all cases; writes cases.csv, summary.md and contact_sheet.png into ``folder``.

    Answers with maps also give reliability.csv and reliability.png.

    A case that cannot be read or judged is left out and counted; Ctrl-C ends the evaluation early.

    Args:
        cases: with the truth.
        answers: a model, or ready label maps.
        folder: for the reports.
        how: setting -> value, for the summary.
        notes: sentences for the summary.
        tolerance: of the surface, in mm for volumes and in pixels for pictures.
        seed: of the bootstrap.
        progress: called with the stage, the cases that are done and their number.

    Raises:
        RequestError: two cases have one name, or no case could be judged.
        VolumeError: the folder cannot be written.
    """
    _check(cases, tolerance)
    _prepare(folder)
    scores: list[CaseResult] = []
    failed: list[str] = []
    stopped = False
    counted: dict[str, Reliability] = {}
    with (
        tempfile.TemporaryDirectory(prefix="wordmask-evaluate-") as pictures,
        CaseTable(folder / CASES) as table,
    ):
        sheet = ContactSheet(Path(pictures))
        try:
            for number, case in enumerate(cases):
                progress(f"judging {case.name}", number, len(cases))
                try:
                    judged = _judge(case, answers, tolerance, sheet, counted)
                except CancelledError:
                    raise
                except WordMaskError as error:
                    logger.debug("The case %s is left out.", case.name, exc_info=True)
                    failed.append(f"{case.name}: {error}")
                else:
                    scores += judged
                    table.add(judged)
        except KeyboardInterrupt:
            stopped = True
        if not scores and not stopped:
            raise RequestError(f"None of the {len(cases)} cases could be judged. {failed[0]}")
        trust = {word: found for word, one in counted.items() if (found := one.summary())}
        evaluation = Evaluation(scores, summarise(scores, seed=seed), failed, len(cases), stopped, trust)
        settings = _settings(evaluation, how, tolerance, seed)
        _write(folder / SUMMARY, summary_text(evaluation.words, how=settings, failed=failed, notes=notes))
        sheet.write(folder / SHEET)
        if trust:
            with _explain(folder / TRUST_TABLE):
                write_table(folder / TRUST_TABLE, trust)
                draw(folder / TRUST_PICTURE, trust)
    return evaluation


def _judge(
    case: Case, answers: Answers, tolerance: float, sheet: ContactSheet, counted: dict[str, Reliability]
) -> list[CaseResult]:
    """All words of a case, or the error of one of them, because half a case would distort the means."""
    read = case.read()
    unit: Literal["mm", "pixels"] = "pixels" if read.volume.is_picture else "mm"
    spacing = (1.0, 1.0, 1.0) if read.volume.is_picture else read.volume.geometry.spacing[::-1]
    given = list(answers(read))
    scores = []
    for answer in given:
        found = agreement(answer.mask, read.masks[answer.word], spacing=spacing, tolerance=tolerance)
        scores.append(
            CaseResult(case.name, case.group or case.name, answer.word, found, answer.presence, unit)
        )
        sheet.add(read, answer.word, answer.mask, found.dice)
    for answer in given:
        if answer.probability is not None and answer.uncertainty is not None:
            counts = counted.setdefault(answer.word, Reliability())
            counts.add(answer.probability, answer.uncertainty, answer.mask, read.masks[answer.word])
    return scores


def _check(cases: Sequence[Case], tolerance: float) -> None:
    if not 0 <= tolerance < float("inf"):
        raise RequestError(f"The tolerance is a distance of 0 or more, got {tolerance:g}.")
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"Two cases are called {twice!r}; give each its own name.")


def _prepare(folder: Path) -> None:
    """A folder without the reports of an earlier evaluation."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CASES, SUMMARY, SHEET, TRUST_TABLE, TRUST_PICTURE):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise VolumeError(
            f"The folder {folder.name} cannot be written ({error.strerror or error}); choose another one."
        ) from error


def _settings(evaluation: Evaluation, how: Mapping[str, str], tolerance: float, seed: int) -> dict[str, str]:
    units = " and ".join(
        f"{tolerance:g} {unit}" for unit in sorted({score.unit for score in evaluation.scores})
    )
    judged = f"{evaluation.judged} of {evaluation.total}" + (", stopped early" if evaluation.stopped else "")
    return {
        **how,
        "tolerance of NSD": units or f"{tolerance:g}",
        "cases judged": judged,
        "cases left out": str(len(evaluation.failed)),
        "seed of the bootstrap": str(seed),
    }


def _write(path: Path, text: str) -> None:
    with _explain(path):
        path.write_text(text, encoding="utf-8")


@contextmanager
def _explain(path: Path) -> Iterator[None]:
    """Turn an OSError into a VolumeError that names the file."""
    try:
        yield
    except OSError as error:
        raise VolumeError(
            f"{path.name} cannot be written ({error.strerror or error}); choose another folder."
        ) from error
