"""The whole loop on real cases over HTTP: submit 10 corrected label maps, train, ask for 2 more.

    python -m docs.experiments.server_loop

A real server runs on copies of 12 hippocampus volumes and of the app, as 3D Slicer would use it. The 2 that
are asked for come from the test division.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from docs.experiments.pool import load_pool
from docs.experiments.training import MODEL
from wordmask.demo.client import AppClient, running_server
from wordmask.demo.learn import MADE_BY_SERVERS
from wordmask.demo.run import labels_of
from wordmask.demo.samples import source_folder
from wordmask.learning.cases import Case, LabelledVolume
from wordmask.learning.evaluation.metrics import dice

WORD, SUBMITTED, ASKED = "hippocampus", 10, 2
LOOK = 1.0  # seconds between looks at the training


def submit(client: AppClient, case: LabelledVolume, scratch: Path) -> None:
    """Submit a case's own mask as a person's correction."""
    label = sitk.GetImageFromArray(case.masks[WORD].astype(np.uint8))
    label.CopyInformation(sitk.ReadImage(str(case.case.image)))
    path = scratch / f"{case.case.name}_label.nii.gz"
    sitk.WriteImage(label, str(path))
    client.submit_label(case.case.name, path, {WORD: 1})


def ask(client: AppClient, case: LabelledVolume, scratch: Path) -> tuple[float, float]:
    """Dice of the server's answer, and the seconds that it took."""
    answer = client.infer(MODEL, case.case.name, {"words": WORD})
    found: NDArray[np.bool_] = labels_of(answer, scratch, "answer") == 1
    return float(dice(found, case.masks[WORD])), answer.seconds


def train(client: AppClient, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train from the submitted labels and wait for the end."""
    client.start_training(MODEL, settings)
    while (state := client.training(MODEL))["state"] == "running":
        print(f"\r{state['stage']} {state['done']}/{state['total']}    ", end="", flush=True)
        time.sleep(LOOK)
    print()
    if state["state"] != "done":
        raise RuntimeError(state.get("message", state["state"]))
    return state


def main() -> None:
    """Run the loop once and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recipe", default="few_shot")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--results", type=Path, default=Path("runs/experiments/server_loop.jsonl"))
    asked = parser.parse_args()
    pool = load_pool(WORD)
    taught: list[Case] = pool.draw(SUBMITTED, asked.seed)
    more = sorted(pool.test, key=lambda case: case.name)[:ASKED]
    settings = {"recipe": asked.recipe} | ({"steps": asked.steps} if asked.steps else {})
    with tempfile.TemporaryDirectory(prefix="wordmask-loop-") as folder:
        scratch = Path(folder)
        studies = scratch / "studies"
        studies.mkdir()
        for case in (*taught, *more):
            shutil.copy(case.image, studies / f"{case.name}.nii.gz")
        app = Path(
            shutil.copytree(
                source_folder("monailabel_app"),
                scratch / "app",
                ignore=shutil.ignore_patterns(*MADE_BY_SERVERS),
            )
        )
        with running_server(app, studies, log=scratch / "server.log") as server:
            client = AppClient(server.url)
            judged = [case.read() for case in more]
            before = [ask(client, case, scratch) for case in judged]
            for case in taught:
                submit(client, case.read(), scratch)
            report = train(client, settings)
            after = [ask(client, case, scratch) for case in judged]
    print(report["message"])
    print(f"training: {report['seconds']:.0f} s")
    for case, (old, _), (new, seconds) in zip(judged, before, after, strict=True):
        print(f"{case.case.name}: Dice {old:.3f} before, {new:.3f} after (answered in {seconds:.1f} s)")
    record = {
        "seed": asked.seed,
        **settings,
        "training_seconds": report["seconds"],
        "before": [round(old, 4) for old, _ in before],
        "after": [round(new, 4) for new, _ in after],
    }
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    with asked.results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
