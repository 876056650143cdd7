"""The MONAI Label app: reads its configuration, and hands models, datastore and routes to MONAI Label.

Knows MONAI Label; what is computed is the library's business.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import psutil
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from wordmask import __version__
from wordmask.environment.packages import require_sound_environment
from wordmask.errors import RequestError
from wordmask.learning.active.strategies import STRATEGIES
from wordmask.words.labels import LabelTable
from wordmask_app.hardening import background
from wordmask_app.hardening.authentication import accept_signed_tokens
from wordmask_app.hardening.datastore import GuardedDatastore
from wordmask_app.hardening.images import IMAGE_PATTERNS, find_image, safe_tag
from wordmask_app.http import guards, routes
from wordmask_app.jobs.queue import JobResult
from wordmask_app.jobs.requests import InferRequest, switch
from wordmask_app.jobs.runtime import runtime_for
from wordmask_app.settings import AppSettings
from wordmask_app.tasks.claims import Claims
from wordmask_app.tasks.infers import WordMaskInfer
from wordmask_app.tasks.keeping import KeptLabel, NewLabel, keep_label, restore_label
from wordmask_app.tasks.scoring import METHOD, CaseScoring, ScoreWatch
from wordmask_app.tasks.strategies import CaseChooser, NextCaseStrategy
from wordmask_app.tasks.summary import start_summary
from wordmask_app.tasks.trainers import WordMaskTrain, is_trained

logger = logging.getLogger(__name__)


class WordMaskApp(MONAILabelApp):  # type: ignore[misc]  # monailabel has no types
    """Type a word, get a mask: one infer task per configured model."""

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str] | None) -> None:
        require_sound_environment()
        background.end_with_server()
        self.chosen = AppSettings.from_conf(conf or {})
        self.runtime = runtime_for(Path(app_dir), self.chosen)
        self.claims = Claims(Path(app_dir) / "claims.json", studies, 60.0 * self.chosen.claim_minutes)
        self.next_case = CaseChooser(self.runtime, self.chosen.default_words, self.claims)
        # MONAI Label reads this list when the constructor below makes the datastore.
        known = settings.MONAI_LABEL_DATASTORE_FILE_EXT
        settings.MONAI_LABEL_DATASTORE_FILE_EXT = list(dict.fromkeys([*known, *IMAGE_PATTERNS]))
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=dict(conf or {}),
            name="WordMask",
            description="Type a word, get a mask: text-prompted segmentation of volumes and pictures",
            version=__version__,
        )
        # Otherwise MONAI Label queues a scoring at every start and every question.
        self._auto_update_scoring = False

    def init_datastore(self) -> Datastore:
        """A folder that accepts only ids, with a warning for images that share an id.

        For a remote store, MONAI Label's own class is used.
        """
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        _refuse_missing(Path(self.studies))
        return GuardedDatastore(
            self.studies,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_infers(self) -> dict[str, InferTask]:
        """One task per configured model.

        The weights are loaded when the server starts; in other processes, by the first request.
        """
        return {
            name: WordMaskInfer(name, self.runtime, self.chosen.default_words) for name in self.runtime.models
        }

    def init_trainers(self) -> dict[str, TrainTask]:
        """One task per configured model that can be trained."""
        return {
            name: WordMaskTrain(name, self.chosen.preset, self.chosen.device, served.store)
            for name, served in self.runtime.models.items()
            if is_trained(name)
        }

    def init_strategies(self) -> dict[str, Strategy]:
        """How the next image to label is chosen."""
        return {name: NextCaseStrategy(name, self.next_case) for name in STRATEGIES}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """How sure the models are of the cases that have no label."""
        return {METHOD: CaseScoring(self.runtime, self.chosen.default_words)}

    def on_init_complete(self) -> None:
        """Start the server: claim the app folder, load the models, take over the routes."""
        from monailabel.app import app as http  # here: it is this module that is being started

        _refuse_workers()
        background.become_server()
        self.runtime.start()
        atexit.register(self.runtime.stop)  # MONAI Label tells no app that the server ends
        ScoreWatch(self.runtime.models).start()
        if isinstance(datastore := self.datastore(), GuardedDatastore):
            start_summary(datastore, self.chosen.megavoxels * 10**6)
        accept_signed_tokens()
        routes.install(http)
        guards.install(http, upload_bytes=self.chosen.upload_mb * 2**20)
        super().on_init_complete()

    def task(self, model: object) -> WordMaskInfer:
        """The task of a model.

        Raises:
            UnknownModelError: there is no such model; the message lists the models.
        """
        return cast(WordMaskInfer, self._infers[self.runtime.find_model(model).name])

    def check_request(self, model: str, params: Mapping[str, Any]) -> InferRequest:
        """Check the parameters of a request against what the model can do.

        Raises:
            UnknownModelError: there is no such model.
            PromptError: the words cannot be used.
            RequestError: another parameter cannot be used.
        """
        return self.task(model).check_request(params)

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment an image of the datastore at once, as MONAI Label's batch inference asks for it.

        Replaces MONAI Label's own method, which reads any path that the request names as image. Batch
        inference calls it in a process of its own.

        Args:
            request: ``image``, an id of the datastore; ``save_label``, whether to keep the result as a label
                under ``label_tag``; the rest as in `wordmask_app.jobs.requests`.
            datastore: None: the server's.
        """
        task = self.task(request.get("model"))
        tag = safe_tag(request.get("label_tag") or DefaultLabelTag.ORIGINAL.value)
        path = find_image(request.get("image"), datastore or self.datastore())
        save = switch(request, "save_label", default=False)
        file, params = task({**request, "image": str(path)})
        if not save:
            return {"label": file, "tag": tag, "file": file, "params": params}
        kept = self.keep_result(request["image"], JobResult(Path(file), params), tag)
        return {"label": kept.label, "tag": kept.tag, "file": file, "params": params}

    def keep_result(self, image: str, result: JobResult, tag: str) -> KeptLabel:
        """Save a result as a label of its image, with the names of its values as MONAI Label keeps them."""
        fields = result.fields
        names = LabelTable.from_names(fields["label_names"]).to_label_info()
        info = {"model": fields["model"], "params": fields, "label_info": names}
        try:
            return self.keep_label(NewLabel(image, result.file, tag, info))
        except BaseException:
            result.file.unlink(missing_ok=True)
            raise

    def keep_label(self, new: NewLabel) -> KeptLabel:
        """Save a label if a training could use it; see `wordmask_app.tasks.keeping.keep_label`."""
        kept = keep_label(new, self.datastore(), self.chosen.megavoxels * 10**6)
        if new.tag == DefaultLabelTag.FINAL.value:
            self.claims.release([new.image])
        return kept

    def restore_label(self, image: str, annotator: str) -> KeptLabel:
        """Exchange the final label of an image with the one before it."""
        return restore_label(
            image, self.datastore(), annotator=annotator, max_voxels=self.chosen.megavoxels * 10**6
        )


def _refuse_missing(studies: Path) -> None:
    """RequestError: there is no studies folder, or MONAI Label's own start has just made an empty one."""
    if (
        _is_start_of_monai_label()
        and studies.is_dir()
        and not any(studies.iterdir())
        and studies.stat().st_ctime >= psutil.Process().create_time()
    ):
        studies.rmdir()
    if not studies.is_dir():
        raise RequestError(
            f"There is no studies folder {studies}; name the folder that holds your images with --studies."
        )


def _is_start_of_monai_label() -> bool:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == "monailabel.main"


def _refuse_workers() -> None:
    """Refuse `--workers 2`, because every worker would have a queue, a cache and models of its own.

    Raises:
        RequestError: this process is a worker.
    """
    if multiprocessing.parent_process() is None:
        return
    os.kill(os.getppid(), signal.SIGTERM)  # else it starts the worker again and again
    raise RequestError(
        "WordMask runs in one server process, which holds its "
        "jobs, cache and models; start it without --workers."
    )
