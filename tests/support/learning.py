"""A server that learns "polyp" from three pictures, and what tests ask of it while it trains and scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
import SimpleITK as sitk
from tests.support.servers import MODEL, SAMPLES, RunningServer, eventually, training_process

from wordmask.demo.client import AppClient, ServerError
from wordmask.demo.samples import SampleCase, load_samples
from wordmask_app.tasks.scoring import SCORES

WORD = "polyp"
BROKEN = "a_broken_one"  # an image that cannot be read, the first by name
QUICK: dict[str, Any] = {
    "recipe": "quick",
    "steps": 2,
    "batch": 4,
    "sides": [64],
    "force": True,
}
HOURS: dict[str, Any] = {**QUICK, "steps": 100_000}
ENDED = ("done", "failed", "stopped")


def pictures() -> list[SampleCase]:
    """Those that show a polyp."""
    return [case for case in load_samples(SAMPLES) if WORD in case.words]


@dataclass(frozen=True)
class LearningServer:
    """Tests leave labels and versions behind; `forget` is for those that need none."""

    server: RunningServer

    @property
    def client(self) -> AppClient:
        return self.server.client

    @property
    def model(self) -> Path:
        """Where versions and scores are kept."""
        return self.server.app / "model" / MODEL

    def forget(self) -> None:
        """No case is labelled, and the bundled weights serve."""
        for label in (self.server.studies / "labels" / "final").glob("*.png"):
            query = {"id": label.name.split(".")[0], "tag": "final"}
            requests.delete(f"{self.server.url}/datastore/label", params=query, timeout=60).raise_for_status()
        if self.served()[0] != "bundled":
            self.client.rollback(MODEL, to=0)

    def submit(self, *cases: SampleCase) -> None:
        """The true label maps, as final ones."""
        for case in cases:
            self.client.submit_label(case.name, case.truth, {WORD: case.words[WORD][0]})

    def start(self, params: dict[str, Any]) -> None:
        """A training that has written its end may need a moment until its process is gone.

        Until then another one is refused.
        """

        def started() -> bool:
            try:
                self.client.start_training(MODEL, params)
            except ServerError as error:
                if error.status != 429:
                    raise
                return False
            return True

        eventually(started)

    def train(self, params: dict[str, Any]) -> dict[str, Any]:
        """From beginning to end."""
        self.start(params)
        return self.ended()

    def ended(self) -> dict[str, Any]:
        """How the training ended, as soon as it has."""
        return self.wait(lambda state: state["state"] in ENDED)

    def wait(self, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The state of the training, as soon as it is so."""
        state: dict[str, Any] = {}

        def look() -> bool:
            state.clear()
            state.update(self.client.training(MODEL))
            return done(state)

        eventually(look, every=0.1)
        return state

    def process(self) -> psutil.Process:
        """The one that trains, once there is one."""
        return training_process(self.server.process.process_id)

    def served(self) -> tuple[str, np.ndarray]:
        """The version that health names, and the answer to one request that is always the same.

        A probability for every pixel.
        """
        answer = self.client.infer(
            MODEL, pictures()[0].name, {"words": "lung", "output_volume": "probability"}
        )
        path = self.server.folder / "answer.nii.gz"
        path.write_bytes(answer.file or b"")
        version = self.client.health()["models"][0]["version"]
        assert version == answer.fields["version"]
        return version, sitk.GetArrayFromImage(sitk.ReadImage(path))

    def versions_scored(self) -> set[str]:
        """Of the scores that are kept; empty while there is not one for every file of the studies."""
        path = self.model / SCORES
        cases = json.loads(path.read_text())["cases"] if path.exists() else {}
        return {entry["version"] for entry in cases.values()} if len(cases) == len(pictures()) + 1 else set()
