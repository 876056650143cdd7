"""The process in which nnU-Net runs: ``python -m wordmask.learning.weak.nnunet_process RUN``.

nnunet_run.py starts it. It is a process of its own because nnU-Net reads its folders from the environment
when it is imported, prints, and seeds global generators. Knows nnU-Net and the run folder; not words, not
images. Each line on stdout is JSON: [stage, done, total, loss]; what nnU-Net prints goes to stderr. When its
parent has ended, it ends, too, because it cannot write the next line.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import save_file

from wordmask.learning.weak.nnunet_run import DATASET, MEMBERS, ORDER, PLAN, PREPROCESSED, RAW, WORKERS, Order
from wordmask.learning.weak.nnunet_trainer import SquarePlanner, WeakTrainer

CONFIGURATION = "2d"


def run(folder: Path, lines: TextIO) -> None:
    """Plan, preprocess, train; leaves the plan of the network and its members in the run folder."""
    order = Order.model_validate_json((folder / ORDER).read_text(encoding="utf-8"))
    recipe = order.recipe
    random.seed(recipe.seed)
    np.random.seed(recipe.seed)  # noqa: NPY002  # nnU-Net draws from the global generator
    torch.manual_seed(recipe.seed)

    def tell(stage: str, done: int, total: int, loss: float | None = None) -> None:
        lines.write(json.dumps([stage, done, total, loss]) + "\n")

    dataset: dict[str, Any] = json.loads(
        (folder / RAW / DATASET / "dataset.json").read_text(encoding="utf-8")
    )
    write_fingerprint(
        folder / PREPROCESSED / DATASET,
        slices=dataset["numTraining"],
        channels=len(dataset["channel_names"]),
        side=recipe.side,
    )
    plans = SquarePlanner(DATASET, recipe).plan_experiment()
    preprocess(folder, plans, dataset, tell)
    # Only now: nnU-Net's planner uses as many threads and refuses 0.
    os.environ[WORKERS] = str(recipe.workers)
    trainer = WeakTrainer.from_plan(
        plans,
        dataset,
        recipe,
        torch.device(order.device),
        mirror=order.mirror,
        tell=lambda *done: tell("training", *done),
    )
    trainer.run_training()
    configuration = PlansManager(plans).get_configuration(CONFIGURATION)
    plan = {
        "network_class": configuration.network_arch_class_name,
        "arguments": configuration.network_arch_init_kwargs,
        "imported": list(configuration.network_arch_init_kwargs_req_import),
        "inputs": trainer.num_input_channels,
        "outputs": trainer.label_manager.num_segmentation_heads,
    }
    (folder / MEMBERS).mkdir()
    for number, member in enumerate(trainer.members):
        save_file(member, folder / MEMBERS / f"{number}.safetensors")
    (folder / PLAN).write_text(json.dumps(plan), encoding="utf-8")


def write_fingerprint(folder: Path, *, slices: int, channels: int, side: int) -> None:
    """Write what nnU-Net would measure: all slices are one square, and their values need no normalisation."""
    folder.mkdir(parents=True)
    values = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 0.0)
    fingerprint = {
        "spacings": [[999.0, 1.0, 1.0]] * slices,  # as nnU-Net calls the spacing of pictures
        "shapes_after_crop": [[1, side, side]] * slices,
        "foreground_intensity_properties_per_channel": {str(channel): values for channel in range(channels)},
        "median_relative_size_after_cropping": 1.0,
    }
    (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint), encoding="utf-8")


def preprocess(folder: Path, plans: dict[str, Any], dataset: dict[str, Any], tell: Any) -> None:
    """Run nnU-Net's preprocessor on every slice, in this process, because starting its pool takes longer."""
    manager = PlansManager(plans)
    configuration = manager.get_configuration(CONFIGURATION)
    output = folder / PREPROCESSED / DATASET / configuration.data_identifier
    output.mkdir()
    preprocessor = configuration.preprocessor_class(verbose=False)
    for number, (name, files) in enumerate(dataset["dataset"].items()):
        tell("preparing slices", number, len(dataset["dataset"]))
        raw = folder / RAW / DATASET
        images, label = [str(raw / image) for image in files["images"]], str(raw / files["label"])
        preprocessor.run_case_save(str(output / name), images, label, manager, configuration, dataset)


def main() -> None:
    """The real stdout is for our lines alone."""
    with os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8") as lines:
        os.dup2(2, 1)
        run(Path(sys.argv[1]), lines)


if __name__ == "__main__":
    main()
