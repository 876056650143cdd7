"""Jobs: requests that are computed one after the other on a thread of their own.

Results are kept until they are fetched or expire. Knows states, time and order; not HTTP, volumes or models,
because the work of a job is a function that it is given.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from wordmask.errors import CancelledError, WordMaskError
from wordmask.progress import CancelToken, Progress

logger = logging.getLogger(__name__)

FETCHED_KEEP = 60.0  # seconds that a fetched result is kept, so that a broken download can be repeated
MOST_FINISHED = 1000  # jobs whose state is remembered


class QueueFullError(WordMaskError):
    """The queue is full.

    Attributes:
        retry_after: seconds until there should be room.
    """

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnknownJobError(WordMaskError):
    """There is no job of that id."""


class JobNotReadyError(WordMaskError):
    """The result was asked for before there is one."""


class ResultGoneError(WordMaskError):
    """The result has been fetched or has expired."""


class TimeLimitError(WordMaskError):
    """A job took longer than the server allows."""


class JobState(StrEnum):
    """Where a job is; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True)
class JobResult:
    """What a job made: a file, and its description as JSON."""

    file: Path
    fields: dict[str, Any]

    @property
    def bytes(self) -> int:
        """Size of the file; 0 when it is gone."""
        try:
            return self.file.stat().st_size
        except FileNotFoundError:  # a client fetches it at this moment
            return 0


@dataclass(eq=False)
class Job:
    """One request. Only the queue changes it.

    Attributes:
        model: for people, like image and words.
        files: what came with the request, removed when the job ends.
        outcome: resolves to the result or the error when the state is final.
    """

    model: str
    image: str
    words: tuple[str, ...]
    work: Callable[[Job], JobResult]
    files: Sequence[Path] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: JobState = JobState.QUEUED
    message: str = "Waiting."
    progress: Progress | None = None
    cancel: CancelToken = field(default_factory=CancelToken)
    outcome: Future[JobResult] = field(default_factory=Future)
    created: float = field(default_factory=time.time)  # seconds since 1970, for people
    started: float | None = None  # monotonic, like all below
    ended: float | None = None
    fetched: float | None = None
    deadline: float | None = None

    def report(self, progress: Progress) -> None:
        """Note how far the work is.

        Raises:
            TimeLimitError: the time is up.
        """
        self.progress, self.message = progress, progress.stage
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TimeLimitError(
                "The request took longer than this server allows; ask for fewer words or slices at a time."
            )

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self.state not in (JobState.QUEUED, JobState.RUNNING)

    @property
    def seconds(self) -> float:
        """How long it has been computing, 0 while it waits."""
        if self.started is None:
            return 0.0
        return (time.monotonic() if self.ended is None else self.ended) - self.started


class JobQueue:
    """Runs jobs in the order in which they came, one at a time; every method may be called from any thread.

    The thread starts with the first job.

    Args:
        limit: jobs that may wait.
        time_limit: seconds that one job may compute.
        keep_seconds: how long a result is kept.
        keep_bytes: how much all results may take.
    """

    def __init__(self, *, limit: int, time_limit: float, keep_seconds: float, keep_bytes: int) -> None:
        self.limit, self.time_limit = limit, time_limit
        self.keep_seconds, self.keep_bytes = keep_seconds, keep_bytes
        self._jobs: dict[str, Job] = {}  # in the order in which they came
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._closed = False
        self._recent: deque[float] = deque(maxlen=20)  # seconds of the last jobs: how long the next may take

    def submit(self, job: Job, *, first: bool = False) -> Job:
        """Let a job wait for its turn.

        Args:
            job: new.
            first: it comes before all that wait, because a person waits for it with the mouse in hand.

        Raises:
            QueueFullError: too many jobs wait; the error says when to try again.
        """
        with self._changed:
            if len(self._waiting) >= self.limit or self._closed:
                seconds = self._seconds_until_room()
                raise QueueFullError(
                    f"{len(self._waiting)} requests are waiting, which is as "
                    f"many as this server accepts; try again in {seconds} s.",
                    retry_after=seconds,
                )
            job.outcome.set_running_or_notify_cancel()  # from now on only the queue decides how it ends
            self._jobs[job.id] = job
            (self._waiting.appendleft if first else self._waiting.append)(job)
            if self._worker is None:
                self._worker = threading.Thread(target=self._run, name="wordmask-jobs", daemon=True)
                self._worker.start()
            self._changed.notify_all()
        return job

    def get(self, job_id: str) -> Job:
        """The job of an id.

        Raises:
            UnknownJobError: there is no such job.
        """
        self.expire()
        job = self._jobs.get(job_id)
        if job is None:
            raise UnknownJobError(
                "There is no such job on this server; it expired, or "
                "the server was restarted: send the request again."
            )
        return job

    def all(self) -> list[Job]:
        """Every job that is still known, newest first."""
        self.expire()
        with self._changed:
            return list(self._jobs.values())[::-1]

    def cancel(self, job_id: str) -> Job:
        """Take a waiting job out, or ask the running one to stop between two batches.

        A job that has ended stays as it is.
        """
        job = self.get(job_id)
        with self._changed:
            job.cancel.cancel()
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job, CancelledError("The request was cancelled before it began."))
        return job

    def result(self, job_id: str) -> JobResult:
        """What a job made, to be fetched now.

        JobNotReadyError, CancelledError, ResultGoneError, or the error that ended the job.
        """
        job = self.get(job_id)
        if not job.final:
            raise JobNotReadyError(
                f"The job is {job.state}: {job.message} Ask for its result when its state is done."
            )
        result = job.outcome.result()
        if not result.file.exists():
            raise ResultGoneError(
                "The result is no longer kept: it was fetched, or it expired; send the request again."
            )
        job.fetched = job.fetched or time.monotonic()
        return result

    def ahead_of(self, job: Job) -> int | None:
        """How many jobs come before a waiting one, the running one included; None when it does not wait."""
        with self._changed:
            if job not in self._waiting:
                return None
            return self._waiting.index(job) + sum(
                other.state is JobState.RUNNING for other in self._jobs.values()
            )

    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    def kept_bytes(self) -> int:
        """How much the results take that are kept for clients."""
        with self._changed:
            return sum(result.bytes for _, result in self._results())

    def expire(self) -> None:
        """Forget what is too old, and what was kept longest while there is too much."""
        now = time.monotonic()
        with self._changed:
            for job in [job for job in self._jobs.values() if job.ended is not None]:
                if now - (job.ended or now) > self.keep_seconds:
                    del self._jobs[job.id]
                    _remove_result(job)
                elif job.fetched is not None and now - job.fetched > FETCHED_KEEP:
                    _remove_result(job)
            kept = sorted(self._results(), key=lambda pair: (pair[0].fetched is None, pair[0].ended or 0.0))
            excess = sum(result.bytes for _, result in kept) - self.keep_bytes
            for job, result in kept[:-1]:  # the newest one stays: its client has had no chance yet
                if excess <= 0:
                    break
                excess -= result.bytes
                _remove_result(job)
            finished = [job for job in self._jobs.values() if job.final]
            for job in finished[: max(0, len(finished) - MOST_FINISHED)]:
                del self._jobs[job.id]
                _remove_result(job)

    def close(self, timeout: float = 10.0) -> None:
        """Cancel everything and wait for the thread to end."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                job.cancel.cancel()
            while self._waiting:
                self._end(
                    self._waiting.popleft(),
                    CancelledError("The server was stopped before the request began."),
                )
            self._changed.notify_all()
        if self._worker is not None:
            self._worker.join(timeout)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                outcome: JobResult | BaseException = job.work(job)
            except BaseException as error:  # noqa: BLE001 - whatever a job dies of, the next one must run
                outcome = error
            try:
                self._finish(job, outcome)
                self.expire()
            except Exception:  # this thread is the only one: without it nothing would ever be computed again
                logger.exception("Cleaning up after job %s failed.", job.id)

    def _next(self) -> Job | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            job = self._waiting.popleft()
            job.state, job.message, job.started = JobState.RUNNING, "Reading the image.", time.monotonic()
            job.deadline = job.started + self.time_limit
            return job

    def _finish(self, job: Job, outcome: JobResult | BaseException) -> None:
        with self._changed:
            self._end(job, outcome)
            self._recent.append(job.seconds)

    def _end(self, job: Job, outcome: JobResult | BaseException) -> None:
        """Set the final state; with the lock held."""
        job.ended = time.monotonic()
        job.work = _nothing  # it holds on to the request
        for path in job.files:
            path.unlink(missing_ok=True)
        if isinstance(outcome, JobResult):
            job.state, job.message = JobState.DONE, "Done."
            job.outcome.set_result(outcome)
            return
        cancelled = isinstance(outcome, CancelledError)
        job.state = JobState.CANCELLED if cancelled else JobState.FAILED
        job.message = (
            str(outcome)
            if isinstance(outcome, WordMaskError)
            else "Something went wrong on the server; its log says what."
        )
        job.outcome.set_exception(outcome)

    def _results(self) -> Iterator[tuple[Job, JobResult]]:
        for job in self._jobs.values():
            if job.state is JobState.DONE and (result := job.outcome.result()).file.exists():
                yield job, result

    def _seconds_until_room(self) -> int:
        return max(1, round(sum(self._recent) / len(self._recent))) if self._recent else 5


def expires(job: Job, keep_seconds: float) -> str | None:
    """When a final job is forgotten, as ISO 8601 in UTC; None while it is not final."""
    if job.ended is None:
        return None
    return datetime.fromtimestamp(time.time() + job.ended + keep_seconds - time.monotonic(), UTC).isoformat(
        timespec="seconds"
    )


def _nothing(job: Job) -> JobResult:
    raise AssertionError(f"Job {job.id} was run twice.")


def _remove_result(job: Job) -> None:
    if job.state is JobState.DONE:
        job.outcome.result().file.unlink(missing_ok=True)
