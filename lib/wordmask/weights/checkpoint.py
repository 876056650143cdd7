"""A folder of trained weights: weights.safetensors (only what was trained) and card.json (what it is and what
it was trained on).

Knows files and modules; not what the modules do. Nothing is ever unpickled.
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

if TYPE_CHECKING:  # what only lists versions need not wait for torch
    from torch import Tensor, nn

BUNDLED = "bundled/"  # the prefix of folders that ship with the package
WEIGHTS, CARD = "weights.safetensors", "card.json"


@dataclass(frozen=True)
class Checkpoint:
    """Weights and their card."""

    name: str
    tensors: dict[str, Tensor]
    card: Card = field(default_factory=Card)

    @property
    def words(self) -> tuple[str, ...]:
        """The words these weights were trained on."""
        return self.card.words

    @property
    def learned(self) -> tuple[str, ...]:
        """Those of them that were learned from labelled cases after the preset's own training."""
        return self.card.learned

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Rows of the tiny text table."""
        return self.card.token_ids

    def only(self, prefixes: tuple[str, ...]) -> Checkpoint:
        """The part whose names begin with one of these."""
        return replace(
            self, tensors={name: tensor for name, tensor in self.tensors.items() if name.startswith(prefixes)}
        )

    def apply(self, module: nn.Module) -> None:
        """Load into a module of the same architecture; WeightsError names the first parts that do not fit."""
        wanted = module.state_dict()
        self._refuse([name for name in wanted if name not in self.tensors] + self._misfits(wanted))
        module.load_state_dict(self.tensors)

    def overlay(self, module: nn.Module) -> None:
        """Replace those parts of a module that the checkpoint has; WeightsError as for `apply`."""
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
                f"The weights {self.name!r} are of another architecture than the preset: {len(wrong)} parts "
                f"do not fit ({shown})."
            )


def load_checkpoint(location: str | Path) -> Checkpoint:
    """Read a folder: a path, or ``bundled/NAME`` for one that ships with the package.

    WeightsError: missing, damaged, or without its card.
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
    return WeightsError(f"The weights {folder.name!r} lack {name}; reinstall them.")


def _damaged_error(folder: Path, error: Exception) -> WeightsError:
    return WeightsError(f"The weights {folder.name!r} are damaged ({type(error).__name__}); reinstall them.")


def checkpoint_folder(location: str | Path) -> Path:
    """Where a checkpoint lies."""
    text = str(location)
    return Path(str(files("wordmask") / text)) if text.startswith(BUNDLED) else Path(text)


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], card: Card) -> None:
    """Write both files to the disk; tensors: a state dict, or the part of it that was trained.

    Killed at any moment, a folder that has weights has the card that belongs to them.

    OSError: the disk is full or fails; what was in the folder stays as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replace_file(folder / WEIGHTS) as weights_part, replace_file(folder / CARD) as card_part:
        card_part.write_text(json.dumps(card.as_json(), indent=1) + "\n", encoding="utf-8")
        _save_tensors(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, weights_part
        )
        for part in (card_part, weights_part):
            sync(part)
        (folder / WEIGHTS).unlink(
            missing_ok=True
        )  # the card is replaced first: there are never weights beside another's card


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(
            int(number[1]), os.strerror(int(number[1])), path.name
        ) from error  # a full disk is told by its number
