"""Run nnU-Net on a data set in its raw format, in a process and in folders of its own.

Knows processes and the run folder; imports no nnU-Net. Settings for nnU-Net in the user's environment
(nnUNet_*) are neither used nor changed.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file

from wordmask.errors import OutOfMemoryError, TrainingError, WordMaskError
from wordmask.learning.weak.recipe import WeakRecipe
from wordmask.models.medclip_samv2_weak.network import NetworkPlan, as_members, require_nnunet
from wordmask.progress import CancelToken

logger = logging.getLogger(__name__)

DATASET = "Dataset001_weak"
RAW, PREPROCESSED, RESULTS = "raw", "preprocessed", "results"
WORKERS = "nnUNet_n_proc_DA"  # its variable for the number of processes that augment
ORDER, PLAN, MEMBERS, LOG = "order.json", "network.json", "members", "nnunet.log"
LOG_END = 2000  # characters of its log that ours repeats when it fails

Report = Callable[[str, int, int, float | None], None]  # stage, done, total, loss


class Order(BaseModel):
    """What the process is to do.

    Attributes:
        recipe: how to train.
        device: where to compute.
        mirror: whether slices may be mirrored.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: WeakRecipe
    device: str
    mirror: bool


def run_nnunet(
    folder: Path, order: Order, report: Report, cancel: CancelToken
) -> tuple[NetworkPlan, dict[str, Any]]:
    """Train on RUN/raw/Dataset001_weak.

    Args:
        folder: the run folder.
        order: what to do.
        report: called with the stage, the steps that are done, their number and the loss.
        cancel: its ``cancel()`` ends the process with CancelledError.

    Returns:
        The network's plan, and the tensors of all members of the ensemble.

    Raises:
        BrokenEnvironmentError: nnU-Net is not installed.
        OutOfMemoryError: there is not enough memory.
        TrainingError: nnU-Net failed; the end of its log is in ours.
    """
    require_nnunet()
    (folder / ORDER).write_text(order.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "wordmask.learning.weak.nnunet_process", str(folder)]
    with (
        (folder / LOG).open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command, env=environment(folder), stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                cancel.check()
                report(*json.loads(line))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise _failure(process.returncode, (folder / LOG).read_text(encoding="utf-8", errors="replace"))
    members = sorted((folder / MEMBERS).iterdir(), key=lambda path: int(path.stem))
    plan = NetworkPlan.model_validate_json((folder / PLAN).read_text(encoding="utf-8"))
    return plan, as_members(load_file(path) for path in members)


def environment(folder: Path) -> dict[str, str]:
    """The user's environment, with nnU-Net's folders in the run folder.

    torch.compile is off, because it needs a compiler and does not save time here.
    """
    own = {name: value for name, value in os.environ.items() if not name.lower().startswith("nnunet_")}
    folders = {f"nnUNet_{name}": str(folder / name) for name in (RAW, PREPROCESSED, RESULTS)}
    return own | folders | {WORKERS: "1", "nnUNet_compile": "false"}


def _failure(code: int, log: str) -> WordMaskError:
    if "out of memory" in log.lower() or "not enough memory" in log.lower() or code == -signal.SIGKILL:
        return OutOfMemoryError(
            "There is not enough memory for this training; use "
            "fewer slices per step (batch) or a smaller side."
        )
    logger.error("nnU-Net ended with status %d:\n%s", code, log[-LOG_END:])
    return TrainingError(
        f"nnU-Net failed (status {code}), so nothing was published; its log, in ours, says why."
    )
