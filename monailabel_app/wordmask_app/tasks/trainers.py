"""Train tasks: one per model, as MONAI Label lists and runs them, in a process of their own.

Knows MONAI Label's requests and the datastore; the library does the training. Its progress is written to a
file beside the versions, for the server's process to read.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.async_tasks.task import processes, tasks
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from wordmask.errors import RequestError, WordMaskError
from wordmask.files import replace_text
from wordmask.learning.training import (
    Training,
    TrainingOptions,
    TrainingProgress,
    TrainingRequest,
    find_training,
    find_trainings,
    recipe_names,
)
from wordmask.models.registry import find_model
from wordmask.weights.versions import ModelStore
from wordmask_app.jobs.requests import read_words, switch
from wordmask_app.tasks.labelled import studies_of

logger = logging.getLogger(__name__)

STATE = "training.json"
# For the first of several devices, which validates alone; one that ends early ends the others.
WAITING = timedelta(hours=12)
STOPPED = "The training was stopped before its end; the model in use is unchanged."
UNEXPLAINED = "The training failed; the server's log says why."


class WordMaskTrain(TrainTask):  # type: ignore[misc]  # monailabel has no types
    """Learn from the images of the datastore and their final labels, and publish what got better.

    It runs the model's `Training`, the same that `wordmask train` runs.
    """

    def __init__(self, name: str, preset: str, device: str, store: ModelStore) -> None:
        self.name, self.preset, self.device, self.store = name, preset, device, store
        self.recipes = recipe_names(name, preset)
        super().__init__(f"{find_training(name).description}; recipes: {', '.join(self.recipes)}")

    def config(self) -> dict[str, Any]:
        """What MONAI Label's own plugin shows in its table of options; a list is a choice."""
        options: dict[str, Any] = {"recipe": self.recipes, "device": self.device, "force": False}
        trainings = find_trainings(self.name)
        if any(training.uses_devices for training in trainings):
            options["multi_gpu"] = False
        if any(training.takes_words for training in trainings):
            options["words"] = ""
        return {"name": "wordmask", **options}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train.

        Args:
            request: ``recipe``, ``words`` (or ``prompt``), ``force``, ``start``, ``device``, any number of
                the recipe by its name; ``multi_gpu`` and ``gpus`` ("all" or "0,1") for several devices.
            datastore: of the server.

        Returns:
            The report. A failure that a person can mend ends the process with its sentence as the last line,
            because `GET /train/` shows the last lines.
        """
        self._process, self._newest = os.getpid(), newest(self.store)
        try:
            return self._train(request, datastore)
        except WordMaskError as error:
            raise self._record_failure(str(error)) from None
        except (ProcessRaisedException, ProcessExitedException) as error:
            logger.error("%s", error)  # one of several devices, which may have said why
            state = json.loads((self.store.path / STATE).read_text(encoding="utf-8"))
            raise self._record_failure(
                state["message"] if state["state"] == "failed" else UNEXPLAINED
            ) from None
        except BaseException as error:
            self._record_failure(UNEXPLAINED)
            logger.exception("The training failed (%s)", type(error).__name__)
            raise
        finally:
            shutil.rmtree(self._run_folder(), ignore_errors=True)

    def _train(self, body: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        self._write({"state": "running", "stage": "starting", "done": 0, "total": 0})
        for old in (self.store.path / "runs").glob("*"):  # of trainings that were killed: one runs at a time
            shutil.rmtree(old, ignore_errors=True)
        recipe = body.get("recipe")
        if recipe is not None and not isinstance(recipe, str):
            raise RequestError(f"recipe must be text, not {type(recipe).__name__}.")
        training = find_training(self.name, recipe)
        request = training.make_request(self.name, self.preset, self._options(body, training))
        devices = _count_devices(body)
        if devices > 1 and not training.uses_devices:
            raise RequestError(
                f"The training of {self.name} with recipe {request.recipe.name!r} uses one device; leave "
                "multi_gpu out."
            )
        studies, problems = studies_of(datastore)
        for problem in problems:
            logger.warning("Left out: %s", problem)
        if problems and not request.words and not any(study.case for study in studies):
            raise RequestError(f"None of the labels can be used; the first reason: {problems[0]}")
        data = training.choose_data(studies, request)
        if devices == 1:
            return self._run(data, request, problems, self._run_folder(), leads=True)
        spawn(_train_on_device, nprocs=devices, args=(devices, self, data, request, problems))
        report: dict[str, Any] = json.loads((self.store.path / STATE).read_text(encoding="utf-8"))
        return report

    def _options(self, body: Mapping[str, Any], training: Training[Any]) -> TrainingOptions:
        """Read the options of a request.

        Raises:
            RequestError: a value is of the wrong kind.
        """
        for name in ("device", "gpus"):
            if not isinstance(body.get(name, ""), str):
                raise RequestError(f"{name} must be text, not {type(body[name]).__name__}.")
        start = body.get("start")
        if start is not None and (type(start) is not int or start < 0):
            raise RequestError(
                "start is the number of the version to start from, 0 for the preset's own weights."
            )
        numbers = training.recipe.model_fields.keys() - {"name"}
        return TrainingOptions(
            recipe=body.get("recipe"),
            settings={name: body[name] for name in sorted(numbers) if name in body},
            words=read_words(body) or "",
            device=body.get("device", self.device),
            start=start,
            force=switch(body, "force", default=False),
        )

    def train_on(
        self, rank: int, devices: int, data: Any, request: TrainingRequest[Any], problems: list[str]
    ) -> None:
        """The part of one device of several, in a process of its own; the first one reports."""
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(rank)
        torch.distributed.init_process_group(
            "nccl" if on_gpu else "gloo", world_size=devices, rank=rank, timeout=WAITING
        )
        own = replace(request, device=f"cuda:{rank}" if on_gpu else "cpu")
        try:
            self._run(data, own, problems, self._run_folder() / str(rank), leads=rank == 0)
        except WordMaskError as error:
            raise self._record_failure(str(error)) from None
        torch.distributed.destroy_process_group()

    def _run(
        self,
        data: Any,
        request: TrainingRequest[Any],
        problems: list[str],
        run_folder: Path,
        *,
        leads: bool,
    ) -> dict[str, Any]:
        tell = self._write_progress if leads else lambda _: None
        training = find_training(self.name, request.recipe.name)
        report = training.run(data, request, self.store, run_folder=run_folder, report=tell)
        summary = report.summary()
        summary["skipped"] = [*problems, *report.skipped]
        if leads:
            self._write({"state": "done", **summary})
            logger.info("%s", report.message)
        return summary

    def stats(self) -> dict[str, Any]:
        """How far the training is, or how the last one ended; see `training_state`."""
        return training_state(self.store)

    def _run_folder(self) -> Path:
        return self.store.path / "runs" / str(self._process)

    def _record_failure(self, message: str) -> SystemExit:
        self._write({"state": "failed", "message": message})
        return SystemExit(message)

    def _write(self, state: Mapping[str, Any]) -> None:
        self.store.path.mkdir(parents=True, exist_ok=True)
        known = {"model": self.name, "process": self._process, "newest": self._newest}
        replace_text(self.store.path / STATE, json.dumps({**known, **state}))

    def _write_progress(self, progress: TrainingProgress) -> None:
        self._write({"state": "running", **asdict(progress)})


def is_trained(model: str) -> bool:
    """Whether the server can train a model."""
    return bool(find_model(model).trainings)


def _train_on_device(rank: int, devices: int, task: WordMaskTrain, *work: Any) -> None:
    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] device %(process)d: %(message)s")
    task.train_on(rank, devices, *work)


def _count_devices(body: Mapping[str, Any]) -> int:
    """How many devices are to train together: 1, unless ``multi_gpu`` asks for more and there are more."""
    if not switch(body, "multi_gpu", default=False):
        return 1
    gpus = body.get("gpus", "all")
    return max(1, torch.cuda.device_count() if gpus in ("", "all") else len(gpus.split(",")))


def newest(store: ModelStore) -> int:
    """The highest number of a version, 0 when there is none."""
    return max((version.number for version in store.versions()), default=0)


def training_state(store: ModelStore) -> dict[str, Any]:
    """The state of the last training of a model, as JSON.

    Returns:
        ``state`` (none, running, done, failed, stopped) and what is known of stage, done, total, loss, dice,
            dice_before, message and version.
    """
    try:
        state: dict[str, Any] = json.loads((store.path / STATE).read_text(encoding="utf-8"))
        written = (store.path / STATE).stat().st_mtime
    except (OSError, ValueError):
        state, written = {"state": "none"}, 0.0
    alive = {process.pid for process in processes("train").values()}
    own = [task for task in tasks("train") if task["request"].get("model") == store.path.name]
    if own and own[-1]["status"] in ("SUBMITTED", "RUNNING"):
        if state.get("process") not in alive:  # what is written is of the training before
            return {"model": store.path.name, "state": "running", "stage": "starting", "done": 0, "total": 0}
    elif own and written < datetime.strptime(own[-1]["start_ts"], "%Y-%m-%d %H:%M:%S").timestamp():
        # It wrote nothing at all.
        return {"model": store.path.name, "state": "stopped", "message": STOPPED}
    if state["state"] == "running" and state.get("process") not in alive:
        return _describe_stop(state, newest(store))
    return state


def _describe_stop(state: dict[str, Any], number: int) -> dict[str, Any]:
    """The state of a training that could not write its end.

    Args:
        state: what it wrote last.
        number: of the newest version, which may be its own.
    """
    if number > state.get("newest", number):
        message = f"Version {number} is published and in use; the training was stopped right after that."
        return {**state, "state": "done", "version": number, "message": message}
    return {**state, "state": "stopped", "message": STOPPED}
