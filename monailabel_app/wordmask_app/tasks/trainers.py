"""Train tasks: one per model, as MONAI Label lists and runs them, in a process of their own.

Knows MONAI Label's requests and the datastore; what a training is, is the library's business. How far it is
stands in a file beside the versions, for the server's process to read.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.basic_train import BasicTrainTask, Context
from monailabel.utils.async_tasks.task import processes, tasks
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from wordmask.errors import RequestError, WordMaskError
from wordmask.files import replace_text
from wordmask.learning.cases import Case
from wordmask.learning.finetuning.trainee import TRAINEES
from wordmask.learning.recipes import Recipe, load_recipe, recipe_names
from wordmask.learning.weak.pseudo_labels import WeakImage
from wordmask.learning.weak.recipe import WeakRecipe, load_weak_recipe, weak_recipe_names
from wordmask.weights.versions import ModelStore
from wordmask_app.jobs.requests import read_words, switch
from wordmask_app.tasks.labelled import labelled_cases

if TYPE_CHECKING:
    from wordmask.learning.training import Report, TrainingProgress, TrainingReport

logger = logging.getLogger(__name__)

WEAK = "medclip_samv2_weak"
STATE = "training.json"
DEFAULT_RECIPE = "few_shot"
WAITING = timedelta(
    hours=12
)  # for the first of several devices, which validates alone; one that ends early ends the others
STOPPED = "The training was stopped before its end; what serves is as it was."
UNEXPLAINED = "The training failed; the server's log says why."
_SET_BY_RECIPE = sorted(Recipe.model_fields.keys() - {"name", "description"})
_SET_BY_WEAK_RECIPE = sorted(WeakRecipe.model_fields.keys() - {"name", "description"})


class WordMaskTrain(BasicTrainTask):  # type: ignore[misc]  # monailabel has no types
    """Learn from the final labels of the datastore, and publish when it helps.

    MONAI Label's own loop would start from the last run's file, publish at every epoch and validate on
    nothing; the library's is run in its place, the same that `wordmask train` runs.
    """

    what = "Learn from the submitted labels"
    default_recipe = DEFAULT_RECIPE
    asks_for_words = False

    def __init__(self, name: str, preset: str, device: str, store: ModelStore) -> None:
        super().__init__(
            model_dir=str(store.path / "runs"),
            description=f"{self.what}; recipes: {', '.join(self.recipe_choice())}",
            stats_path=str(store.path / STATE),
        )
        self.name, self.preset, self.store = name, preset, store
        self._config = {  # what MONAI Label's own plugin shows in its table of options; a list is a choice
            "name": "wordmask",
            "recipe": self.recipe_choice(),
            "device": device,
            "force": False,
            **self.options(),
        }

    @classmethod
    def recipes(cls) -> list[str]:
        """Names of the recipes for this kind of training."""
        return recipe_names()

    @classmethod
    def recipe_choice(cls) -> list[str]:
        """The same, that which is taken unasked first."""
        return [cls.default_recipe, *(other for other in cls.recipes() if other != cls.default_recipe)]

    def options(self) -> dict[str, Any]:
        """What else can be asked for, with its default."""
        return {"multi_gpu": False}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """request: ``recipe``, ``force``, ``start``, ``device``, ``multi_gpu``, ``gpus``, and any number of
        the recipe by its name.

        Returns the report. A failure that a person can mend ends the process with its sentence as the last
        line, for `GET /train/` shows the last lines.
        """
        self._process, self._newest = os.getpid(), newest(self.store)
        try:
            defaults = {"recipe": self.default_recipe, "device": self._config["device"], "gpus": "all"}
            asked = {**defaults, **request, "name": self._config["name"]}
            for name in ("recipe", "device", "gpus"):
                _check_text(asked, name)
            asked["multi_gpu"] = switch(request, "multi_gpu", default=False)
            report: dict[str, Any] = super().__call__(
                asked, datastore
            )  # calls `pre_process`, and `train` once per device
            return report
        except WordMaskError as error:
            raise self._failed(str(error)) from None
        except (
            ProcessRaisedException,
            ProcessExitedException,
        ) as error:  # one of several devices, which may have said why
            logger.error("%s", error)
            told = json.loads(Path(self._stats_path).read_text(encoding="utf-8"))
            raise self._failed(told["message"] if told["state"] == "failed" else UNEXPLAINED) from None
        except BaseException as error:
            self._failed(UNEXPLAINED)
            logger.exception("The training failed (%s)", type(error).__name__)
            raise
        finally:
            shutil.rmtree(self._run_folder(), ignore_errors=True)

    def pre_process(self, request: dict[str, Any], datastore: Datastore) -> list[Any]:
        """The labelled cases; what cannot be used is kept in the request. RequestError: there is none."""
        cases = self._begin(request, datastore)
        if not cases and request["problems"]:
            raise RequestError(f"No label can be learned from; the first reason: {request['problems'][0]}")
        return cases

    def _begin(self, request: dict[str, Any], datastore: Datastore) -> list[Case]:
        """The labelled cases; ``problems`` of the request says what cannot be used."""
        self._write({"state": "running", "stage": "starting", "done": 0, "total": 0})
        cases, problems = labelled_cases(datastore)
        for problem in problems:
            logger.warning("Left out: %s", problem)
        for old in Path(self._model_dir).glob("*"):  # of trainings that were killed: one runs at a time
            shutil.rmtree(old, ignore_errors=True)
        request["problems"] = problems
        return cases

    def train(
        self, rank: int, world_size: int, request: dict[str, Any], datalist: list[Any]
    ) -> dict[str, Any]:
        """One process of a training: the whole of it, or that of one device of several.

        MONAI Label spawns those; the first one reports.
        """
        if not request["multi_gpu"]:
            return self._run(request, datalist, self._run_folder(), leads=True)
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(rank)
        torch.distributed.init_process_group(
            "nccl" if on_gpu else "gloo", world_size=world_size, rank=rank, timeout=WAITING
        )
        asked = {**request, "device": f"cuda:{rank}" if on_gpu else "cpu"}
        try:
            report = self._run(asked, datalist, self._run_folder() / str(rank), leads=rank == 0)
        except WordMaskError as error:
            raise self._failed(str(error)) from None
        torch.distributed.destroy_process_group()
        return report

    def _run(
        self, asked: dict[str, Any], cases: list[Any], run_folder: Path, *, leads: bool
    ) -> dict[str, Any]:
        tell = self._write_progress if leads else lambda _: None
        summary = self._learn(asked, cases, run_folder, tell).summary()
        summary["skipped"] = [*asked["problems"], *summary["skipped"]]
        if leads:
            self._write({"state": "done", **summary})
            logger.info("%s", summary["message"])
        return summary

    def _learn(
        self, asked: dict[str, Any], cases: list[Any], run_folder: Path, tell: Report
    ) -> TrainingReport:
        """The training itself, in this process."""
        from wordmask.learning.finetuning.run import (
            TrainingRequest,
            train_model,
        )  # torch's engines are needed in this process alone

        recipe = load_recipe(
            asked["recipe"], **{name: asked[name] for name in _SET_BY_RECIPE if name in asked}
        )
        start = asked.get("start")
        if start is not None and (type(start) is not int or start < 0):
            raise RequestError(
                "start is the number of the version to go on from, 0 for the preset's own weights."
            )
        request = TrainingRequest(
            self.name, self.preset, recipe, asked["device"], start, switch(asked, "force", default=False)
        )
        return train_model(cases, request, self.store, run_folder=run_folder, report=tell)

    def stats(self) -> dict[str, Any]:
        """How far the training is, or how the last one ended; see `training_state`."""
        return training_state(self.store)

    def _run_folder(self) -> Path:
        return Path(self._model_dir) / str(self._process)

    def _failed(self, message: str) -> SystemExit:
        self._write({"state": "failed", "message": message})
        return SystemExit(message)

    def _write(self, state: Mapping[str, Any]) -> None:
        self.store.path.mkdir(parents=True, exist_ok=True)
        known = {"model": self.name, "process": self._process, "newest": self._newest}
        replace_text(self.store.path / STATE, json.dumps({**known, **state}))

    def _write_progress(self, progress: TrainingProgress) -> None:
        self._write({"state": "running", **asdict(progress)})

    def network(self, context: Context) -> None:
        """Not used: see the class. The same holds for the other parts of MONAI Label's own loop."""
        raise NotImplementedError

    optimizer = loss_function = train_pre_transforms = train_post_transforms = val_inferer = network


class WeakTrain(WordMaskTrain):
    """Learn words from every image of the datastore, labelled or not.

    nnU-Net on the zero-shot masks, as `wordmask train-weak`.

    request: as of `WordMaskTrain` but ``start`` and ``multi_gpu``; ``words`` (or ``prompt``): what to learn,
    else the words of the submitted labels.
    """

    what = "Learn from zero-shot masks of all images, labelled or not"
    default_recipe = "small"
    asks_for_words = True

    @classmethod
    def recipes(cls) -> list[str]:
        """Those of weak supervision."""
        return weak_recipe_names()

    def options(self) -> dict[str, Any]:
        """What to learn; empty: the words of the submitted labels."""
        return {"words": ""}

    def pre_process(self, request: dict[str, Any], datastore: Datastore) -> list[WeakImage]:
        """Every image, with its final label where there is one. RequestError: there are no words."""
        cases = {case.name: case for case in self._begin(request, datastore)}
        request["words"] = read_words(request) or sorted(
            {word for case in cases.values() for word in case.words}
        )
        if not request["words"]:
            raise RequestError(
                'Nothing says what to learn: give words, such as "liver, spleen", or submit named labels.'
            )
        return [
            WeakImage(
                name,
                Path(datastore.get_image_uri(name)),
                str(datastore.get_image_info(name).get("group", "")),
                cases.get(name),
            )
            for name in sorted(datastore.list_images())
        ]

    def train(
        self, rank: int, world_size: int, request: dict[str, Any], datalist: list[Any]
    ) -> dict[str, Any]:
        """RequestError: on several devices, which this training cannot use."""
        if request["multi_gpu"]:
            raise RequestError("Weak supervision learns on one device; leave multi_gpu out.")
        return super().train(rank, world_size, request, datalist)

    def _learn(
        self, asked: dict[str, Any], cases: list[Any], run_folder: Path, tell: Report
    ) -> TrainingReport:
        from wordmask.learning.weak.run import WeakRequest, train_weakly

        recipe = load_weak_recipe(
            asked["recipe"], **{name: asked[name] for name in _SET_BY_WEAK_RECIPE if name in asked}
        )
        request = WeakRequest(
            asked["words"], self.preset, recipe, asked["device"], switch(asked, "force", default=False)
        )
        return train_weakly(cases, request, self.store, run_folder=run_folder, report=tell)


def train_task(model: str) -> type[WordMaskTrain] | None:
    """How the server trains a model; None: it does not."""
    if model == WEAK:
        return WeakTrain
    return WordMaskTrain if model in TRAINEES else None


def newest(store: ModelStore) -> int:
    """The highest number of a version, 0 when there is none."""
    return max((version.number for version in store.versions()), default=0)


def training_state(store: ModelStore) -> dict[str, Any]:
    """``state`` (none, running, done, failed, stopped) and what is known.

    stage, done, total, loss, dice, dice_before, message, version.
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
    elif (
        own and written < datetime.strptime(own[-1]["start_ts"], "%Y-%m-%d %H:%M:%S").timestamp()
    ):  # it wrote nothing at all
        return {"model": store.path.name, "state": "stopped", "message": STOPPED}
    if state["state"] == "running" and state.get("process") not in alive:
        return _stopped(state, newest(store))
    return state


def _stopped(state: dict[str, Any], number: int) -> dict[str, Any]:
    """Of a training that could not write its end; number: of the newest version, which may be its own."""
    if number > state.get("newest", number):
        told = f"Version {number} is published and serves; the training was stopped right after that."
        return {**state, "state": "done", "version": number, "message": told}
    return {**state, "state": "stopped", "message": STOPPED}


def _check_text(asked: Mapping[str, Any], name: str) -> None:
    if not isinstance(asked[name], str):
        raise RequestError(f"{name} is a text, not {type(asked[name]).__name__}.")
