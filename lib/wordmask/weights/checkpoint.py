"""Checkpoints: folders with weights.safetensors (the trained weights only) and card.json (what they are).

Nothing is ever unpickled. Knows files and modules; not what the modules compute.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from wordmask.errors import WeightsError
from wordmask.files import replace_file, sync
from wordmask.weights.card import Card

if TYPE_CHECKING:  # listing versions need not wait for torch
    from torch import Tensor, nn

BUNDLED = "bundled/"  # the prefix of folders that ship with the package
WEIGHTS, CARD = "weights.safetensors", "card.json"


@dataclass(frozen=True)
class Checkpoint:
    """Weights and their card.

    Attributes:
        name: of the folder.
        tensors: name of a parameter -> its values.
        card: what the weights are and what they were trained on.
    """

    name: str
    tensors: dict[str, Tensor]
    card: Card = field(default_factory=Card)

    @property
    def words(self) -> tuple[str, ...]:
        """The words these weights were trained on."""
        return self.card.words

    @property
    def learned(self) -> tuple[str, ...]:
        """The words that were learned from labelled cases after the preset's own training."""
        return self.card.learned

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Token ids that have a row in the text table of preset tiny."""
        return self.card.token_ids

    def only(self, prefixes: tuple[str, ...]) -> Checkpoint:
        """A checkpoint with only the tensors whose names begin with one of these prefixes."""
        return replace(
            self, tensors={name: tensor for name, tensor in self.tensors.items() if name.startswith(prefixes)}
        )

    def apply(self, module: nn.Module) -> None:
        """Load the weights into a module of the same architecture.

        Raises:
            WeightsError: the architecture differs; the message names the first parameters that do not fit.
        """
        wanted = module.state_dict()
        self._refuse([name for name in wanted if name not in self.tensors] + self._misfits(wanted))
        module.load_state_dict(self.tensors)

    def overlay(self, module: nn.Module) -> None:
        """Replace only the parameters of a module that the checkpoint has.

        Raises:
            WeightsError: the architecture differs; the message names the first parameters that do not fit.
        """
        self._refuse(self._misfits(module.state_dict()))
        module.load_state_dict(self.tensors, strict=False)

    def _misfits(self, wanted: Mapping[str, Tensor]) -> list[str]:
        return [
            name
            for name, tensor in self.tensors.items()
            if name not in wanted or tensor.shape != wanted[name].shape
        ]

    def _refuse(self, wrong: list[str]) -> None:
        if wrong:
            shown = ", ".join(wrong[:3])
            raise WeightsError(
                f"The weights {self.name!r} have another architecture than the preset: {len(wrong)} parts "
                f"do not fit ({shown}); choose the preset that they were trained with."
            )


def load_checkpoint(location: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        location: a folder, or ``bundled/NAME`` for one that ships with the package.

    Raises:
        WeightsError: it is missing, damaged, or without its card.
    """
    from safetensors.torch import load_file

    folder = checkpoint_folder(location)
    card = read_card(folder)
    if not (folder / WEIGHTS).is_file():
        raise _missing_error(folder, WEIGHTS)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise _damaged_error(folder, error) from error
    return Checkpoint(folder.name, tensors, card)


def read_card(folder: Path) -> Card:
    """Read the card of a checkpoint.

    Numbers that JSON does not have (NaN, Infinity) become None, because no answer in JSON may hold them.

    Raises:
        WeightsError: the card is missing or damaged.
    """
    try:
        return Card.model_validate(
            json.loads((folder / CARD).read_text(encoding="utf-8"), parse_constant=lambda _: None)
        )
    except FileNotFoundError as error:
        raise _missing_error(folder, CARD) from error
    except (OSError, ValueError, RecursionError) as error:  # pydantic's ValidationError is a ValueError
        raise _damaged_error(folder, error) from error


def _missing_error(folder: Path, name: str) -> WeightsError:
    return WeightsError(f"The weights {folder.name!r} have no {name}; install them again.")


def _damaged_error(folder: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"The weights {folder.name!r} are damaged ({type(error).__name__}); install them again."
    )


def checkpoint_folder(location: str | Path) -> Path:
    """The folder of a checkpoint: a path, or ``bundled/NAME`` for one that ships with the package."""
    text = str(location)
    return Path(str(files("wordmask") / text)) if text.startswith(BUNDLED) else Path(text)


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], card: Card) -> None:
    """Write weights and their card to the disk.

    Even when the process is killed, weights in the folder always have the card that belongs to them.

    Args:
        folder: is created when it is missing.
        tensors: a state dict, or the trained part of it.
        card: of these weights.

    Raises:
        OSError: the disk is full or fails; the content of the folder stays as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replace_file(folder / WEIGHTS) as weights_part, replace_file(folder / CARD) as card_part:
        card_part.write_text(json.dumps(card.as_json(), indent=1) + "\n", encoding="utf-8")
        _save_tensors(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, weights_part
        )
        for part in (card_part, weights_part):
            sync(part)
        # The card is replaced first, so that there are never weights beside the card of others.
        (folder / WEIGHTS).unlink(missing_ok=True)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        # Callers recognise a full disk by its number.
        raise OSError(int(number[1]), os.strerror(int(number[1])), path.name) from error
