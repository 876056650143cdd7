"""Train tasks: one per model, as MONAI Label lists and runs them, in a process of their own.

Knows MONAI Label's requests and the datastore; what a training is, is the library's business. How far it is stands in a file beside the
versions, for the server's process to read.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.basic_train import BasicTrainTask, Context
from monailabel.utils.async_tasks.task import processes, tasks

from wordmask.errors import RequestError, WordMaskError
from wordmask.training.recipes import Recipe, load_recipe, recipe_names
from wordmask.versions import ModelStore
from wordmask_app.labelled import labelled_cases
from wordmask_app.requests import switch

logger = logging.getLogger(__name__)

STATE = "training.json"
DEFAULT_RECIPE = "few_shot"
_SET_BY_RECIPE = sorted(Recipe.model_fields.keys() - {"name", "description"})


class WordMaskTrain(BasicTrainTask):  # type: ignore[misc]  # monailabel has no types
    """Learn from the final labels of the datastore, and publish when it helps.

    MONAI Label's own loop would start from the last run's file, publish at every epoch and validate on nothing; the library's is run in
    its place, the same that `wordmask train` runs.
    """

    def __init__(self, name: str, preset: str, device: str, store: ModelStore) -> None:
        super().__init__(
            model_dir=str(store.path / "runs"),
            description=f"Learn from the submitted labels; recipes: {', '.join(recipe_names())}",
            stats_path=str(store.path / STATE),
        )
        self.name, self.preset, self.store = name, preset, store
        self._config = {  # what MONAI Label's own plugin shows in its table of options; a list is a choice
            "name": "wordmask",
            "recipe": [DEFAULT_RECIPE, *(other for other in recipe_names() if other != DEFAULT_RECIPE)],
            "device": device,
            "force": False,
            "multi_gpu": False,
        }

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """request: ``recipe``, ``force``, ``start``, ``device``, and any number of the recipe by its name. Returns the report.

        A failure that a person can mend ends the process with its sentence as the last line, for `GET /train/` shows the last lines.
        """
        asked = {**self._config, "recipe": DEFAULT_RECIPE, **request}
        run_folder = Path(self._model_dir) / str(os.getpid())
        try:
            return self._run(asked, datastore, run_folder)
        except WordMaskError as error:
            self._write({"state": "failed", "message": str(error)})
            raise SystemExit(str(error)) from None
        except BaseException as error:
            self._write({"state": "failed", "message": "The training failed; the server's log says why."})
            logger.exception("The training failed (%s)", type(error).__name__)
            raise
        finally:
            shutil.rmtree(run_folder, ignore_errors=True)

    def _run(self, asked: dict[str, Any], datastore: Datastore, run_folder: Path) -> dict[str, Any]:
        from wordmask.training.finetune import TrainingRequest, train_model  # torch's engines are needed in this process alone

        recipe = load_recipe(_text(asked, "recipe"), **{name: asked[name] for name in _SET_BY_RECIPE if name in asked})
        start = asked.get("start")
        if start is not None and (type(start) is not int or start < 0):
            raise RequestError("start is the number of the version to go on from, 0 for the preset's own weights.")
        request = TrainingRequest(self.name, self.preset, recipe, _text(asked, "device"), start, switch(asked, "force", default=False))
        cases, problems = labelled_cases(datastore)
        for problem in problems:
            logger.warning("Left out: %s", problem)
        if not cases and problems:
            raise RequestError(f"No label can be learned from; the first reason: {problems[0]}")
        for old in Path(self._model_dir).glob("*"):  # of trainings that were killed: one runs at a time
            shutil.rmtree(old, ignore_errors=True)
        report = train_model(
            cases, request, self.store, run_folder=run_folder, report=lambda progress: self._write({"state": "running", **asdict(progress)})
        )
        summary = report.summary()
        summary["skipped"] = [*problems, *summary["skipped"]]
        self._write({"state": "done", **summary})
        logger.info("%s", report.message)
        return summary

    def stats(self) -> dict[str, Any]:
        """How far the training is, or how the last one ended; see `training_state`."""
        return training_state(self.store)

    def _write(self, state: Mapping[str, Any]) -> None:
        self.store.path.mkdir(parents=True, exist_ok=True)
        part = self.store.path / f"{STATE}.part"
        part.write_text(json.dumps({"model": self.name, "process": os.getpid(), **state}), encoding="utf-8")
        part.replace(self.store.path / STATE)

    def network(self, context: Context) -> None:
        """Not used: see the class. The same holds for the other parts of MONAI Label's own loop."""
        raise NotImplementedError

    optimizer = loss_function = train_pre_transforms = train_post_transforms = val_inferer = network


def training_state(store: ModelStore) -> dict[str, Any]:
    """``state`` (none, running, done, failed, stopped) and what is known: stage, done, total, loss, dice, dice_before, message, version."""
    try:
        state: dict[str, Any] = json.loads((store.path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        state = {"state": "none"}
    alive = {process.pid for process in processes("train").values()}
    begun = any(task["status"] in ("SUBMITTED", "RUNNING") and task["request"].get("model") == store.path.name for task in tasks("train"))
    if begun and state.get("process") not in alive:  # what is written is of the training before
        return {"model": store.path.name, "state": "running", "stage": "starting", "done": 0, "total": 0}
    if state["state"] == "running" and state.get("process") not in alive:
        return {**state, "state": "stopped", "message": "The training was stopped before its end; what serves is as it was."}
    return state


def _text(asked: Mapping[str, Any], name: str) -> str:
    value = asked[name]
    if not isinstance(value, str):
        raise RequestError(f"{name} is a text, not {type(value).__name__}.")
    return value
