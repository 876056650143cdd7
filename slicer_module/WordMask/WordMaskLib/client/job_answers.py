"""What a server says about work that takes time: jobs and their results, trainings, and the next case.

As in `answers`, unknown fields are ignored, and a missing or wrong one raises a ValueError. Knows JSON; not
HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .json_fields import (
    choice_in,
    indices_in,
    int_in,
    mapping_in,
    number_in,
    number_or_none,
    object_in,
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
        state: one of `STATES`
        words: what the server understood of the typed words
        done, total: slices
        seconds: computing time so far
        waiting: number of jobs before it, None unless it is queued
        message: a sentence
        status_code: HTTP's code for why it failed, None unless it did
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
        """Read it from JSON; ValueError if WordMask does not answer like this."""
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
        """Whether the job has ended."""
        return self.state in FINAL_STATES

    @property
    def seconds_left(self) -> float | None:
        """Estimate by the pace so far, None while that is not known. Rough, because the first slices include
        one-time work.
        """
        if self.state != "running" or self.done <= 0 or self.total <= 0:
            return None
        return max(0.0, self.seconds * (self.total - self.done) / self.done)


@dataclass(frozen=True)
class WordStatistics:
    """What the server measured for one word.

    Attributes:
        presence, mean_probability: 0..1
        millilitres: None for pictures
        mean_uncertainty: nats
        slices_to_check: the slices that are worth a look, the most uncertain first
    """

    presence: float | None
    voxels: int
    millilitres: float | None
    mean_probability: float | None
    mean_uncertainty: float | None
    slices_to_check: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, found: Any) -> WordStatistics:
        """Read it from JSON; ValueError if WordMask does not answer like this."""
        names = ("presence", "millilitres", "mean_probability", "mean_uncertainty")
        presence, millilitres, probability, uncertainty = (
            number_or_none(mapping_in(found).get(name)) for name in names
        )
        slices = indices_in(found, "slices_to_check")
        return cls(presence, int_in(found, "voxels"), millilitres, probability, uncertainty, slices)


@dataclass(frozen=True)
class JobResult:
    """The result of a job.

    Attributes:
        path: the file, None if only JSON was requested
        label_names: word -> value in the file, 1..N in the order of the request
        not_found: words without a voxel
        warnings: sentences
        plane: along which the server cut the volume
        slices: number of slices along it, 0 if the server does not say so
    """

    path: Path | None
    label_names: Mapping[str, int]
    statistics: Mapping[str, WordStatistics]
    not_found: tuple[str, ...]
    warnings: tuple[str, ...]
    model: str
    version: str
    plane: str
    slices: int = 0

    @classmethod
    def from_json(cls, found: Any, path: Path | None = None) -> JobResult:
        """Read it from JSON; ValueError if WordMask does not answer like this, or if two words have one
        value.
        """
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
            slices=int_in(found, "slices", 0),
        )


@dataclass(frozen=True)
class TrainingState:
    """How far a training is, or how the last one ended.

    Attributes:
        state: one of `TRAINING_STATES`
        dice, dice_before: means over the words
        message: a sentence when the training has ended
        version: number of the published version, None without one
    """

    state: str
    model: str = ""
    stage: str = ""
    done: int = 0
    total: int = 0
    loss: float | None = None
    dice: float | None = None
    dice_before: float | None = None
    message: str = ""
    version: int | None = None
    seconds: float = 0.0

    @classmethod
    def from_json(cls, found: Any) -> TrainingState:
        """Read it from JSON; ValueError.

        A running training reports means, one that has ended a table of words and the means as ``mean``.
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
            message=text_in(found, "message", ""),
            version=version if type(version) is int else None,
            seconds=number_in(found, "seconds", 0.0),
        )


@dataclass(frozen=True)
class NextCase:
    """The case to label next.

    Attributes:
        case: its id, None if none is left
        reason: why this case, or why none
        preview: the job that makes a label map to start from; None with ``preview_message``
    """

    case: str | None
    reason: str
    preview: JobStatus | None
    preview_message: str

    @classmethod
    def from_json(cls, found: Any) -> NextCase:
        """Read it from JSON; ValueError if WordMask does not answer like this."""
        case, preview = mapping_in(found).get("case"), found.get("preview")
        if not (case is None or (isinstance(case, str) and case)):
            raise ValueError("case")
        return cls(
            case=case,
            reason=text_in(found, "reason"),
            preview=None if preview is None else JobStatus.from_json(preview),
            preview_message=text_in(found, "preview_message", ""),
        )
