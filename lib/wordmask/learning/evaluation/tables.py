"""What people read of an evaluation: a CSV row per case and word, and a summary in Markdown.

The terminal shows the summary, too. Knows scores and numbers; computes nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from rich.markup import escape
from rich.table import Table

from wordmask.errors import VolumeError
from wordmask.learning.evaluation.reliability import Trust
from wordmask.learning.evaluation.statistics import METRICS, CaseResult, Estimate, WordSummary, overall

NAMES = {"dice": "Dice", "iou": "IoU", "nsd": "NSD"}
HEADINGS = ("word", "cases with it", "without", *NAMES.values(), "sensitivity", "specificity")
COLUMNS = (
    "case",
    "group",
    "word",
    "dice",
    "iou",
    "nsd",
    "predicted_voxels",
    "true_voxels",
    "presence",
    "shown",
    "found",
    "tolerance_unit",
)
LEGEND = (
    "Dice, IoU and NSD: means over the cases that show the word, in brackets the 95 % bootstrap "
    "interval over groups of cases. Sensitivity: share of these cases in which something was "
    "marked. Specificity: share of the cases without the structure in which nothing was marked."
)
MOST_FAILED = 20  # that are listed one by one


class CaseTable:
    """cases.csv, written as the cases are judged: after each case it is complete so far.

    Raises:
        VolumeError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file: TextIO = path.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise VolumeError(
                f"{path.name} cannot be written ({error.strerror or error}); choose another folder."
            ) from error
        self._writer = csv.writer(self._file)
        self._writer.writerow(COLUMNS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, scores: Sequence[CaseResult]) -> None:
        """Add a row for each word of a case."""
        self._writer.writerows(_row(score) for score in scores)
        self._file.flush()


def summary_text(
    words: Sequence[WordSummary], *, how: Mapping[str, str], failed: Sequence[str], notes: Sequence[str] = ()
) -> str:
    """The content of summary.md.

    Args:
        words: what was measured.
        how: setting -> value.
        failed: a sentence per case that was left out.
        notes: sentences above the table.
    """
    lines = [
        "# Evaluation",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in how.items()),
        "",
    ]
    lines += [f"{note}\n" for note in notes]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|---|" + "---:|" * (len(HEADINGS) - 1)]
    lines += ["| " + " | ".join([_cell(word.word), *_cells(word)]) + " |" for word in words]
    lines += ["| " + " | ".join(["mean over words", "", "", *_means(words), "", ""]) + " |", ""]
    lines += [LEGEND, ""]
    if failed:
        lines += ["## Left out", "", *(f"- {_cell(sentence)}" for sentence in failed[:MOST_FAILED])]
        lines += [f"- and {len(failed) - MOST_FAILED} more"] * (len(failed) > MOST_FAILED)
    return "\n".join(lines).rstrip() + "\n"


def summary_table(words: Sequence[WordSummary], title: str) -> Table:
    """The table of summary.md for the terminal."""
    table = Table(title=escape(title), title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "word" else "right")
    for word in words:
        table.add_row(escape(word.word), *_cells(word))
    table.add_section()
    table.add_row("mean over words", "", "", *_means(words), "", "")
    return table


def trust_table(words: Mapping[str, Trust]) -> Table:
    """reliability.csv for the terminal."""
    table = Table(title="Pixels around the structures", title_justify="left")
    for heading in ("word", "wrong", "ECE", "AUROC of wrong pixels", "AURC"):
        table.add_column(heading, justify="left" if heading == "word" else "right")
    for word, trust in words.items():
        numbers = (trust.wrong, trust.ece, trust.auroc, trust.aurc)
        table.add_row(escape(word), *(number(value) for value in numbers))
    return table


def _cells(word: WordSummary) -> list[str]:
    scores = [_estimate(word.scores[metric]) for metric in METRICS]
    return [str(word.shown), str(word.not_shown), *scores, number(word.sensitivity), number(word.specificity)]


def _means(words: Sequence[WordSummary]) -> list[str]:
    return [number(overall(words, metric)) for metric in METRICS]


def _estimate(estimate: Estimate) -> str:
    interval = "" if isnan(estimate.low) else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return number(estimate.mean) + interval


def number(value: float | None) -> str:
    """Three decimals; empty for what is not there."""
    return "" if value is None or isnan(value) else f"{value:.3f}"


def _row(score: CaseResult) -> list[str]:
    found = score.agreement
    numbers = ["" if isnan(value) else f"{value:.6f}" for value in (found.dice, found.iou, found.nsd)]
    presence = "" if score.presence is None else f"{score.presence:.6f}"
    answers = ["yes" if answer else "no" for answer in (found.shown, found.found)]
    return [
        score.case,
        score.group,
        score.word,
        *numbers,
        str(found.predicted_voxels),
        str(found.true_voxels),
        presence,
        *answers,
        score.unit,
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
