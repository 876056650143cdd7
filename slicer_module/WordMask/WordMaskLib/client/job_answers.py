"""What a server says of work that takes time: jobs and their results, trainings, and the case that comes
next.

As in `answers`: fields that are not known here are left out of account, a missing or wrong one makes a
ValueError. Knows JSON; not HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .json_fields import (
    choice_in,
    int_in,
    mapping_in,
    number_in,
    number_or_none,
    numbers_in,
    object_in,
    rows_in,
    text_in,
    texts_in,
)

FINAL_STATES = ("done", "cancelled", "failed")
STATES = ("queued", "running", *FINAL_STATES)
TRAINING_STATES = ("none", "running", "done", "failed", "stopped")


@dataclass(frozen=True)
class JobStatus:
    """How far a job is.

    Attributes:
        state: one of `STATES`; done of total: slices
        seconds: of computing
        waiting: jobs before it, None unless queued
        message: a sentence
        status_code: of HTTP, of what a failed one died of
    """

    id: str
    state: str
    model: str
    image: str
    words: tuple[str, ...]
    done: int
    total: int
    stage: str
    seconds: float
    waiting: int | None
    message: str
    status_code: int | None

    @classmethod
    def from_json(cls, found: Any) -> JobStatus:
        """ValueError: it is not what WordMask answers."""
        waiting, code = mapping_in(found).get("waiting"), found.get("status_code")
        return cls(
            id=text_in(found, "id"),
            state=choice_in(found, "state", STATES),
            model=text_in(found, "model", ""),
            image=text_in(found, "image", ""),
            words=texts_in(found, "words"),
            done=int_in(found, "done", 0),
            total=int_in(found, "total", 0),
            stage=text_in(found, "stage", ""),
            seconds=number_in(found, "seconds", 0.0),
            waiting=waiting if type(waiting) is int else None,
            message=text_in(found, "message", ""),
            status_code=code if type(code) is int else None,
        )

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in FINAL_STATES

    @property
    def fraction(self) -> float | None:
        """0..1, None while it is not known."""
        if self.state == "done":
            return 1.0
        return min(1.0, self.done / self.total) if self.total > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far, None while that is not known.

        Rough: the first slices carry what is done once.
        """
        if self.state != "running" or self.done <= 0 or self.total <= 0:
            return None
        return max(0.0, self.seconds * (self.total - self.done) / self.done)


@dataclass(frozen=True)
class WordStatistics:
    """presence, mean_probability: 0..1; millilitres: None for pictures; mean_uncertainty: nats;
    largest_slice: along the slicing plane.
    """

    presence: float | None
    voxels: int
    millilitres: float | None
    mean_probability: float | None
    mean_uncertainty: float | None
    largest_slice: int | None

    @classmethod
    def from_json(cls, found: Any) -> WordStatistics:
        """ValueError: it is not what WordMask answers."""
        slice_index = mapping_in(found).get("largest_slice")
        names = ("presence", "millilitres", "mean_probability", "mean_uncertainty")
        presence, millilitres, probability, uncertainty = (number_or_none(found.get(name)) for name in names)
        index = slice_index if type(slice_index) is int else None
        return cls(presence, int_in(found, "voxels"), millilitres, probability, uncertainty, index)


@dataclass(frozen=True)
class JobResult:
    """What a job made.

    Attributes:
        path: the file, None when only JSON was asked for
        label_names: word -> value in the file, 1..N in the order asked
        not_found: words without a voxel
        warnings: sentences
        window: word -> name
        plane: along which slices were cut
        fields: all of it
    """

    path: Path | None
    label_names: Mapping[str, int]
    statistics: Mapping[str, WordStatistics]
    not_found: tuple[str, ...]
    warnings: tuple[str, ...]
    model: str
    version: str
    plane: str
    window: Mapping[str, str]
    fields: Mapping[str, Any]

    @classmethod
    def from_json(cls, found: Any, path: Path | None = None) -> JobResult:
        """ValueError: it is not what WordMask answers, or two words have one value."""
        names = {
            word: int_in(object_in(found, "label_names"), word) for word in object_in(found, "label_names")
        }
        if not names or len(set(names.values())) != len(names) or min(names.values()) < 1:
            raise ValueError("label_names")
        return cls(
            path=path,
            label_names=names,
            statistics={
                word: WordStatistics.from_json(row) for word, row in object_in(found, "statistics").items()
            },
            not_found=texts_in(found, "not_found"),
            warnings=texts_in(found, "warnings"),
            model=text_in(found, "model", ""),
            version=str(found.get("version", "")),
            plane=text_in(found, "plane", ""),
            window={word: str(name) for word, name in object_in(found, "window").items()},
            fields=found,
        )


@dataclass(frozen=True)
class TrainingState:
    """How far a training is, or how the last one ended.

    Attributes:
        state: one of `TRAINING_STATES`
        dice, dice_before: means over the words
        dice_by_word: at the end
        message: a sentence at the end
        version: number that was published, None without one
    """

    state: str
    model: str = ""
    stage: str = ""
    done: int = 0
    total: int = 0
    loss: float | None = None
    dice: float | None = None
    dice_before: float | None = None
    dice_by_word: Mapping[str, float] = field(default_factory=dict)
    dice_by_word_before: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    version: int | None = None
    seconds: float = 0.0
    skipped: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, found: Any) -> TrainingState:
        """While it runs the server gives means, at its end a table of words beside ``mean``; both become both
        here. ValueError.
        """
        dice, before, version = mapping_in(found).get("dice"), found.get("dice_before"), found.get("version")
        return cls(
            state=choice_in(found, "state", TRAINING_STATES),
            model=text_in(found, "model", ""),
            stage=text_in(found, "stage", ""),
            done=int_in(found, "done", 0),
            total=int_in(found, "total", 0),
            loss=number_or_none(found.get("loss")),
            dice=number_or_none(found.get("mean") if isinstance(dice, Mapping) else dice),
            dice_before=number_or_none(found.get("mean_before") if isinstance(before, Mapping) else before),
            dice_by_word=numbers_in(dice),
            dice_by_word_before=numbers_in(before),
            message=text_in(found, "message", ""),
            version=version if type(version) is int else None,
            seconds=number_in(found, "seconds", 0.0),
            skipped=texts_in(found, "skipped"),
        )


@dataclass(frozen=True)
class NextCase:
    """The case to label next.

    Attributes:
        case: None when none is left, and ``reason`` says so
        uncertainty: 0..1, None without a score
        skipped: id -> why it cannot be read
        preview: the job that makes a label map to start from, None with ``preview_message``
    """

    case: str | None
    strategy: str
    model: str
    version: str
    words: tuple[str, ...]
    reason: str
    uncertainty: float | None
    unlabelled: int
    skipped: Mapping[str, str]
    preview: JobStatus | None
    preview_message: str

    @classmethod
    def from_json(cls, found: Any) -> NextCase:
        """ValueError: it is not what WordMask answers."""
        case, preview = mapping_in(found).get("case"), found.get("preview")
        if not (case is None or (isinstance(case, str) and case)):
            raise ValueError("case")
        return cls(
            case=case,
            strategy=text_in(found, "strategy", ""),
            model=text_in(found, "model", ""),
            version=str(found.get("version", "")),
            words=texts_in(found, "words"),
            reason=text_in(found, "reason"),
            uncertainty=number_or_none(object_in(found, "score").get("uncertainty")),
            unlabelled=int_in(object_in(found, "scores"), "unlabelled", 0),
            skipped={text_in(row, "case"): text_in(row, "reason", "") for row in rows_in(found, "skipped")},
            preview=None if preview is None else JobStatus.from_json(preview),
            preview_message=text_in(found, "preview_message", ""),
        )
