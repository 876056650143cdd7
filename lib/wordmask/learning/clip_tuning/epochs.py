"""The epochs of a tuning: batches, loss, optimizer, and a checkpoint after every epoch.

Knows a CLIP, its pairs and the recipe; not where they come from, not what is published. An interrupted run
and an uninterrupted one end with the same weights, bit for bit on a CPU, because all random numbers depend on
seed, epoch and step alone.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from wordmask.encoders.clip import ClipEncoder
from wordmask.errors import DiskFullError, RequestError
from wordmask.files import replace_file
from wordmask.learning.clip_tuning.batches import Bytes, epoch_batches
from wordmask.learning.clip_tuning.dhn_nce import dhn_nce, info_nce
from wordmask.learning.clip_tuning.embedding import image_embeddings, unit_pixels
from wordmask.learning.clip_tuning.recipe import TuneRecipe
from wordmask.learning.schedules import decay_in_steps
from wordmask.learning.seeds import step_seed
from wordmask.progress import CancelToken

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
BETAS, EPSILON = (0.9, 0.98), 1e-6  # of AdamW, as open_clip trains vision transformers


@dataclass(frozen=True)
class TuningPairs:
    """What is learned from: some of the pictures of a file, and a caption of each.

    Rows with equal ``said`` or equal ``shown`` never meet in a batch.

    Attributes:
        pictures: [all, 3, S, S] uint8.
        rows: [N], places in ``pictures``.
        captions: [N], as text.
        said: [N], the captions as the text tower reads them.
        shown: [N], which picture it is.
    """

    pictures: Bytes
    rows: Sequence[int]
    captions: Sequence[str]
    said: Sequence[Hashable]
    shown: Sequence[Hashable]

    def pixels(self, batch: Sequence[int], device: torch.device) -> Tensor:
        """Pictures of some rows, [B, 3, S, S] in 0..1."""
        return unit_pixels(self.pictures, [self.rows[row] for row in batch], device)


def tune(
    clip: ClipEncoder,
    data: TuningPairs,
    recipe: TuneRecipe,
    folder: Path,
    tell: Callable[[int, float], None],
    cancel: CancelToken,
) -> None:
    """Train both towers in place, on their device, from the last complete epoch in ``folder``.

    Args:
        clip: the towers.
        data: what to learn from.
        recipe: how.
        folder: for the checkpoint.
        tell: called after each epoch with its number and mean loss.
        cancel: its ``cancel()`` ends the training with CancelledError between two steps.

    Raises:
        RequestError: all captions say the same, or the loss became infinite.
        DiskFullError: a checkpoint cannot be written.
    """
    device = clip.logit_scale.device
    clip.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(
        _groups(clip, recipe.weight_decay), lr=recipe.learning_rate, betas=BETAS, eps=EPSILON
    )
    half = torch.float16 if device.type == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16
    scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)
    checkpoint = _Checkpoint(folder / CHECKPOINT, clip, optimizer, scaler)
    for epoch in range(checkpoint.resume(), recipe.epochs):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * decay_in_steps(
                epoch, decay=recipe.decay, every=recipe.decay_every
            )
        batches = epoch_batches(data.said, data.shown, batch=recipe.batch, seed=recipe.seed, epoch=epoch)
        if not batches:
            raise RequestError(
                "All these captions say the same, so there is nothing "
                "to learn from them; add pairs with other captions."
            )
        losses = []
        for step, rows in enumerate(batches):
            cancel.check()
            torch.manual_seed(step_seed(step_seed(recipe.seed, epoch), step))  # a text tower may have dropout
            with torch.autocast(device.type, dtype=half, enabled=device.type == "cuda"):
                image = image_embeddings(clip, data.pixels(rows, device))
                text = clip.encode_text([data.captions[row] for row in rows])
                loss = contrast(image, text, recipe)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(float(loss.detach()))
        if not math.isfinite(sum(losses)):
            raise RequestError(
                f"The loss became infinite in epoch {epoch + 1}; tune with a lower learning_rate."
            )
        checkpoint.save(epoch + 1)
        tell(epoch + 1, sum(losses) / len(losses))
    clip.eval().requires_grad_(False)


def contrast(image: Tensor, text: Tensor, recipe: TuneRecipe) -> Tensor:
    """The recipe's loss of [B, E] and [B, E]."""
    if recipe.loss == "info_nce":
        return info_nce(image, text, recipe.temperature)
    return dhn_nce(
        image, text, temperature=recipe.temperature, beta_image=recipe.beta_image, beta_text=recipe.beta_text
    )


def _groups(clip: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    parameters = list(clip.parameters())
    matrices, vectors = ([p for p in parameters if (p.ndim > 1) == wanted] for wanted in (True, False))
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


class _Checkpoint:
    """Weights, optimizer and epoch in one file, which stays whole whenever the process is killed."""

    def __init__(
        self, path: Path, clip: ClipEncoder, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> None:
        self.path, self.clip, self.optimizer, self.scaler = path, clip, optimizer, scaler

    def save(self, epoch: int) -> None:
        tensors = {f"clip.{name}": value for name, value in self.clip.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
        metadata = {"epoch": str(epoch), "scaler": json.dumps(self.scaler.state_dict())}
        try:
            with replace_file(self.path) as part:
                save_file(
                    {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
                    part,
                    metadata=metadata,
                )
        except (OSError, SafetensorError) as error:
            raise DiskFullError(
                f"The checkpoint of epoch {epoch} cannot be written "
                f"({error}); free some space and start again."
            ) from error

    def resume(self) -> int:
        """Load the checkpoint and return how many epochs are done; 0 without a readable one."""
        if not self.path.exists():
            return 0
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        except (SafetensorError, OSError) as error:
            logger.warning(
                "The checkpoint of this tuning is damaged (%s); it starts from scratch.", type(error).__name__
            )
            return 0
        self.clip.load_state_dict(
            {name.removeprefix("clip."): value for name, value in tensors.items() if name.startswith("clip.")}
        )
        state = self.optimizer.state_dict()
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, part = name.split(".", 2)
                state["state"].setdefault(int(number), {})[part] = value
        self.optimizer.load_state_dict(state)
        self.scaler.load_state_dict(json.loads(metadata["scaler"]))
        logger.info("The tuning continues after epoch %s.", metadata["epoch"])
        return int(metadata["epoch"])
