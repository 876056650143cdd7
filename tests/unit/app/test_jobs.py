"""The queue of jobs: order, bounds, cancelling, and what is kept.

The work is a few lines each; no model is needed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wordmask.errors import CancelledError, RequestError
from wordmask.progress import Progress
from wordmask_app.jobs import queue as jobs
from wordmask_app.jobs.queue import (
    Job,
    JobNotReadyError,
    JobQueue,
    JobResult,
    JobState,
    QueueFullError,
    ResultGoneError,
    UnknownJobError,
)

PATIENCE = 120.0  # seconds, after which something hangs


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    made = JobQueue(limit=3, time_limit=60, keep_seconds=60, keep_bytes=10_000)
    yield made
    made.close()


class Work:
    """A job that writes ``size`` bytes, and waits for ``release`` between two reports of its progress when
    told to.
    """

    def __init__(self, folder: Path, *, size: int = 10, hold: bool = False) -> None:
        self.folder, self.size = folder, size
        self.began, self.release = threading.Event(), threading.Event()
        if not hold:
            self.release.set()

    def __call__(self, job: Job) -> JobResult:
        self.began.set()
        while not self.release.wait(0.01):
            if job.cancel.cancelled:
                raise CancelledError("The request was cancelled; nothing was written.")
            job.report(Progress(1, 2, "marking", 1))
        file = self.folder / f"{job.id}.nii"
        file.write_bytes(b"0" * self.size)
        return JobResult(file, {"job": job.id})


def job_of(work: Work, **more: object) -> Job:
    return Job("model", "ct", ("liver",), work, **more)  # type: ignore[arg-type]


def wait_for(job: Job) -> Job:
    job.outcome.exception(timeout=PATIENCE)
    return job


def test_jobs_run_in_the_order_in_which_they_came(queue, tmp_path):
    order: list[int] = []
    first = Work(tmp_path, hold=True)
    queue.submit(job_of(first))
    first.began.wait(PATIENCE)

    def noting(number: int):
        def work(job: Job) -> JobResult:
            order.append(number)
            return Work(tmp_path)(job)

        return work

    later = [queue.submit(Job("model", "ct", (), noting(number))) for number in range(3)]
    assert [queue.ahead_of(job) for job in later] == [1, 2, 3]
    first.release.set()
    assert [wait_for(job).state for job in later] == [JobState.DONE] * 3
    assert order == [0, 1, 2]


def test_a_job_that_comes_first_passes_those_that_wait(queue, tmp_path):
    held = Work(tmp_path, hold=True)
    queue.submit(job_of(held))
    held.began.wait(PATIENCE)
    slow, click = queue.submit(job_of(Work(tmp_path))), queue.submit(job_of(Work(tmp_path)), first=True)
    assert [queue.ahead_of(job) for job in (click, slow)] == [1, 2]
    held.release.set()
    assert [wait_for(job).state for job in (click, slow)] == [JobState.DONE] * 2
    assert (click.ended or 0) <= (slow.started or 0)


def test_a_full_queue_says_when_to_come_back(queue, tmp_path):
    held = Work(tmp_path, hold=True)
    queue.submit(job_of(held))
    held.began.wait(PATIENCE)
    for _ in range(3):
        queue.submit(job_of(Work(tmp_path)))
    with pytest.raises(QueueFullError, match="3 requests are waiting") as refusal:
        queue.submit(job_of(Work(tmp_path)))
    assert refusal.value.retry_after >= 1
    held.release.set()


def test_a_running_job_stops_when_it_is_cancelled_and_the_next_one_runs(queue, tmp_path):
    held = Work(tmp_path, hold=True)
    running, waiting = queue.submit(job_of(held)), queue.submit(job_of(Work(tmp_path)))
    held.began.wait(PATIENCE)
    queue.cancel(running.id)
    assert wait_for(running).state is JobState.CANCELLED
    assert wait_for(waiting).state is JobState.DONE
    with pytest.raises(CancelledError):
        queue.result(running.id)


def test_a_waiting_job_that_is_cancelled_never_begins_and_leaves_no_upload(queue, tmp_path):
    held, never = Work(tmp_path, hold=True), Work(tmp_path)
    upload = tmp_path / "upload.nii"
    upload.touch()
    queue.submit(job_of(held))
    held.began.wait(PATIENCE)
    waiting = queue.submit(job_of(never, files=[upload]))
    assert queue.cancel(waiting.id).state is JobState.CANCELLED
    held.release.set()
    assert not never.began.is_set()
    assert not upload.exists()


def test_cancelling_a_finished_job_changes_nothing(queue, tmp_path):
    job = wait_for(queue.submit(job_of(Work(tmp_path))))
    assert queue.cancel(job.id).state is JobState.DONE
    assert queue.result(job.id).fields == {"job": job.id}


@pytest.mark.parametrize(
    "error", [RequestError("There is no such plane."), ValueError("a defect"), KeyboardInterrupt()]
)
def test_whatever_a_job_dies_of_the_next_one_runs(queue, tmp_path, error):
    def die(job: Job) -> JobResult:
        raise error

    failed = queue.submit(Job("model", "ct", (), die))
    assert wait_for(queue.submit(job_of(Work(tmp_path)))).state is JobState.DONE
    assert failed.state is JobState.FAILED
    assert "a defect" not in failed.message
    with pytest.raises(type(error)):
        queue.result(failed.id)


def test_a_client_that_gives_up_on_the_outcome_does_not_end_the_queue(queue, tmp_path):
    held = Work(tmp_path, hold=True)
    given_up = queue.submit(job_of(held))
    assert not given_up.outcome.cancel()
    held.release.set()
    assert wait_for(queue.submit(job_of(Work(tmp_path)))).state is JobState.DONE


def test_a_job_that_takes_too_long_is_stopped(tmp_path):
    queue = JobQueue(limit=3, time_limit=0.05, keep_seconds=60, keep_bytes=10_000)
    job = wait_for(queue.submit(job_of(Work(tmp_path, hold=True))))
    assert job.state is JobState.FAILED
    assert "longer than this server allows" in job.message
    queue.close()


def test_a_result_can_be_fetched_again_for_a_while_and_then_is_gone(queue, tmp_path, monkeypatch):
    job = wait_for(queue.submit(job_of(Work(tmp_path))))
    assert queue.result(job.id).file.exists()
    assert queue.result(job.id).file.exists()
    monkeypatch.setattr(jobs, "FETCHED_KEEP", -1.0)
    with pytest.raises(ResultGoneError):
        queue.result(job.id)
    assert queue.get(job.id).state is JobState.DONE
    assert list(tmp_path.iterdir()) == []


def test_a_result_is_not_there_before_the_job_is_done(queue, tmp_path):
    held = Work(tmp_path, hold=True)
    job = queue.submit(job_of(held))
    held.began.wait(PATIENCE)
    with pytest.raises(JobNotReadyError, match="running"):
        queue.result(job.id)
    held.release.set()


def test_an_expired_job_is_forgotten_with_its_file(queue, tmp_path):
    job = wait_for(queue.submit(job_of(Work(tmp_path))))
    queue.keep_seconds = -1.0
    with pytest.raises(UnknownJobError):
        queue.get(job.id)
    assert list(tmp_path.iterdir()) == []


def test_what_was_fetched_goes_first_when_results_take_too_much_and_the_newest_stays(queue, tmp_path):
    done = [wait_for(queue.submit(job_of(Work(tmp_path, size=4000)))) for _ in range(2)]
    queue.result(done[1].id)
    last = wait_for(queue.submit(job_of(Work(tmp_path, size=4000))))
    deadline = time.monotonic() + PATIENCE
    while queue.kept_bytes() > queue.keep_bytes and time.monotonic() < deadline:
        time.sleep(0.01)
    assert queue.kept_bytes() == 8000
    assert queue.result(done[0].id).bytes == queue.result(last.id).bytes == 4000
    with pytest.raises(ResultGoneError):
        queue.result(done[1].id)


def test_states_are_kept_for_a_bounded_number_of_jobs(queue, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "MOST_FINISHED", 4)
    made = [wait_for(queue.submit(job_of(Work(tmp_path)))) for _ in range(7)]
    assert {job.id for job in queue.all()} == {job.id for job in made[-4:]}


def test_a_result_that_is_fetched_while_its_size_is_asked_for_has_none(tmp_path):
    assert JobResult(tmp_path / "fetched.nii", {}).bytes == 0


def test_the_worker_outlives_what_goes_wrong_between_two_jobs(queue, tmp_path, monkeypatch, caplog):
    def fail() -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(queue, "expire", fail)
    made = [queue.submit(job_of(Work(tmp_path))) for _ in range(2)]
    assert [wait_for(job).state for job in made] == [JobState.DONE] * 2
    monkeypatch.undo()
    assert wait_for(queue.submit(job_of(Work(tmp_path)))).state is JobState.DONE
    assert "Cleaning up after job" in caplog.text


def test_closing_cancels_what_runs_and_what_waits(queue, tmp_path):
    held = Work(tmp_path, hold=True)
    running, waiting = queue.submit(job_of(held)), queue.submit(job_of(Work(tmp_path)))
    held.began.wait(PATIENCE)
    queue.close()
    assert (wait_for(running).state, wait_for(waiting).state) == (JobState.CANCELLED, JobState.CANCELLED)
    with pytest.raises(QueueFullError):
        queue.submit(job_of(Work(tmp_path)))
