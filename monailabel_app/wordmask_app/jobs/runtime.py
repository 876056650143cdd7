"""What exists once per server process, however often MONAI Label builds the app again.

It is the models, the job queue and the files of requests. Knows models, jobs and files; not HTTP, not MONAI
Label's app or datastore.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wordmask.data.volumes import read_volume
from wordmask.errors import OutOfMemoryError, UnknownModelError
from wordmask.inference.memory import is_out_of_memory
from wordmask.inference.result import Segmentation
from wordmask.models.registry import preset_names
from wordmask.progress import CancelToken, Progress
from wordmask.weights.versions import ModelStore
from wordmask_app.jobs.queue import JobQueue, JobResult
from wordmask_app.jobs.recent_volumes import RecentVolumes
from wordmask_app.jobs.requests import InferRequest, RefineRequest
from wordmask_app.jobs.served_model import ServedModel
from wordmask_app.jobs.spool import Spool
from wordmask_app.jobs.writing import write_part, write_result
from wordmask_app.settings import AppSettings

logger = logging.getLogger(__name__)

USUAL_MODELS = ("simple_vilmedsam", "medclip_samv2", "medclipseg")


@dataclass
class StageClock:
    """Adds up seconds per stage of one request."""

    report: Callable[[Progress], None] | None = None

    def __post_init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.slices = 0
        self._stage, self._since = "reading", time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        """Take note of a stage, and pass the progress on."""
        self.enter(progress.stage)
        self.slices = progress.total
        if self.report is not None:
            self.report(progress)

    def enter(self, stage: str) -> None:
        """The next stage begins."""
        now = time.perf_counter()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now


class Runtime:
    """The configured models, the queue of their one worker, and the folder of requests' files."""

    def __init__(self, app_dir: Path, chosen: AppSettings) -> None:
        """Neither loads weights nor starts a thread; raises UnknownModelError."""
        self.chosen = chosen
        self.began = time.time()
        self.recent = RecentVolumes()
        self.spool = Spool(app_dir / "spool", upload_bytes=chosen.upload_mb * 2**20)
        names = chosen.models or [name for name in USUAL_MODELS if chosen.preset in preset_names(name)]
        self.models = {
            name: ServedModel(name, chosen, ModelStore(app_dir / "model" / name))
            for name in names or USUAL_MODELS  # the first of which says that it has no such preset
        }
        self.queue = JobQueue(
            limit=chosen.queue,
            time_limit=60.0 * chosen.job_minutes,
            keep_seconds=60.0 * chosen.keep_minutes,
            keep_bytes=chosen.results_mb * 2**20,
        )

    def start(self) -> None:
        """Claim the app folder and load the models that have weights.

        Raises:
            RequestError: another server uses the folder.
            WeightsError: weights cannot be used.
        """
        self.spool.claim()
        for served in self.models.values():
            if served.load_if_trained() is None:
                logger.info("The model %s waits for its first training.", served.name)

    def stop(self) -> None:
        """Cancel what runs and waits."""
        self.queue.close()
        self.spool.release()

    def find_model(self, name: object) -> ServedModel:
        """The model that a request names; the first one when it names none.

        Raises:
            UnknownModelError: there is no such model.
        """
        name = name or next(iter(self.models))
        if not isinstance(name, str) or name not in self.models:
            raise UnknownModelError(
                f"This server has no model {str(name)[:60]!r}. Models: {', '.join(self.models)}."
            )
        return self.models[name]

    def segment(
        self,
        model: str,
        path: Path,
        request: InferRequest,
        *,
        job_id: str = "direct",
        progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> JobResult:
        """Read, segment, write.

        The file is the caller's to remove. Leaves one line in the log, whatever happens.
        """
        served, clock = self.models[model], StageClock(progress)
        outcome = "failed"
        try:
            volume = read_volume(path, max_voxels=self.chosen.megavoxels * 10**6)
            clock.enter("loading")
            segmentation = served.segment(volume, request, progress=clock, cancel=cancel)
            clock.enter("writing")
            file = write_result(segmentation, request, self.spool.new_file(request.extension))
            clock.enter("end")
            outcome = _outcome(segmentation)
            return JobResult(
                file, {**segmentation.summary(), "seconds": round(sum(clock.seconds.values()), 3)}
            )
        except BaseException as error:
            clock.enter("end")
            outcome = f"{type(error).__name__}: {error}"
            if is_out_of_memory(error):
                raise OutOfMemoryError(
                    "There is not enough memory for this image; crop it, or ask for a part of it by slices."
                ) from None
            raise
        finally:
            stages = " ".join(
                f"{stage.replace(' ', '_')}={seconds:.3f}" for stage, seconds in clock.seconds.items()
            )
            words = "; ".join(prompt.word for prompt in request.prompts)
            logger.info(
                "job=%s model=%s version=%s words=%r slices=%d seconds=%.3f %s outcome=%r",
                *(
                    job_id,
                    model,
                    served.version,
                    words,
                    clock.slices,
                    sum(clock.seconds.values()),
                    stages,
                    outcome[:300],
                ),
            )

    def refine(
        self,
        model: str,
        path: Path,
        request: RefineRequest,
        *,
        progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> JobResult:
        """Draw the slices of a correction again, and write the part of the image that they span.

        The file is the caller's to remove.
        """
        served, began = self.models[model], time.perf_counter()
        volume = self.recent.read(path, max_voxels=self.chosen.megavoxels * 10**6)
        found = served.refine(volume, request, progress=progress, cancel=cancel)
        labels, first = found.cut_out()
        file = self.spool.new_file(request.extension)
        write_part(file, labels, volume.geometry.part(first, labels.shape[::-1]))
        seconds = time.perf_counter() - began
        logger.info(
            "refine model=%s version=%s word=%r slices=%d seconds=%.3f",
            *(model, served.version, request.word, len(found.masks), seconds),
        )
        return JobResult(
            file,
            {
                "word": request.word,
                "model": model,
                "version": served.version,
                "plane": found.plane,
                "slices": sorted(found.masks),
                "corrected": sorted(found.corrected),
                "first_voxel": list(first),
                "ends": list(found.ends),
                "seconds": round(seconds, 3),
            },
        )


def _outcome(segmentation: Segmentation) -> str:
    return f"not found: {'; '.join(segmentation.not_found)}" if segmentation.not_found else "ok"


@functools.cache  # MONAI Label's /reload builds a second app object: it finds queue, models and cache here
def runtime_for(app_dir: Path, chosen: AppSettings) -> Runtime:
    """The runtime of this process for an app folder and its configuration."""
    return Runtime(app_dir, chosen)
