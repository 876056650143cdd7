"""A folder of trained weights: weights.safetensors (only what was trained) and card.json (what it is and what it was trained on).

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
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from wordmask.errors import WeightsError
from wordmask.files import replace_file, sync

if TYPE_CHECKING:  # what only lists versions need not wait for torch
    from torch import Tensor, nn

BUNDLED = "bundled/"  # the prefix of folders that ship with the package
LEARNED = "learned"  # in the card: every word that was learned from labels, by this version or those before it
WEIGHTS, CARD = "weights.safetensors", "card.json"


@dataclass(frozen=True)
class Bundle:
    """Weights and their card."""

    name: str
    tensors: dict[str, Tensor]
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        """The words these weights were trained on."""
        return tuple(self.card.get("words", ()))

    @property
    def learned(self) -> tuple[str, ...]:
        """Those of them that were learned from labelled cases after the preset's own training."""
        return tuple(self.card.get(LEARNED, ()))

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Rows of the tiny text table."""
        return tuple(self.card.get("token_ids", ()))

    def only(self, prefixes: tuple[str, ...]) -> Bundle:
        """The part whose names begin with one of these."""
        return replace(self, tensors={name: tensor for name, tensor in self.tensors.items() if name.startswith(prefixes)})

    def apply(self, module: nn.Module) -> None:
        """Load into a module of the same architecture; WeightsError names the first parts that do not fit."""
        wanted = module.state_dict()
        self._refuse([name for name in wanted if name not in self.tensors] + self._misfits(wanted))
        module.load_state_dict(self.tensors)

    def overlay(self, module: nn.Module) -> None:
        """Replace those parts of a module that the bundle has; WeightsError as for `apply`."""
        self._refuse(self._misfits(module.state_dict()))
        module.load_state_dict(self.tensors, strict=False)

    def _misfits(self, wanted: Mapping[str, Tensor]) -> list[str]:
        return [name for name, tensor in self.tensors.items() if name not in wanted or tensor.shape != wanted[name].shape]

    def _refuse(self, wrong: list[str]) -> None:
        if wrong:
            shown = ", ".join(wrong[:3])
            raise WeightsError(
                f"The weights {self.name!r} are of another architecture than the preset: {len(wrong)} parts do not fit ({shown})."
            )


def load_bundle(location: str | Path) -> Bundle:
    """Read a folder: a path, or ``bundled/NAME`` for one that ships with the package.

    WeightsError: missing, damaged, or without its card.
    """
    from safetensors.torch import load_file

    folder = bundle_folder(location)
    card = read_card(folder)
    if not (folder / WEIGHTS).is_file():
        raise _lacking(folder, WEIGHTS)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise _damaged(folder, error) from error
    return Bundle(folder.name, tensors, card)


def read_card(folder: Path) -> dict[str, Any]:
    """What a bundle says of itself; numbers that are none (NaN, Infinity) are None, as no answer in JSON may hold them.

    WeightsError: there is no card, or it is damaged.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError as error:
        raise _lacking(folder, CARD) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, error) from error
    lists = {"words": str, LEARNED: str, "token_ids": int}
    if not isinstance(card, dict) or not all(_is_list_of(kind, card.get(name, [])) for name, kind in lists.items()):
        raise _damaged(folder, TypeError())
    return card


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _lacking(folder: Path, name: str) -> WeightsError:
    return WeightsError(f"The weights {folder.name!r} lack {name}; reinstall them.")


def _damaged(folder: Path, error: Exception) -> WeightsError:
    return WeightsError(f"The weights {folder.name!r} are damaged ({type(error).__name__}); reinstall them.")


def bundle_folder(location: str | Path) -> Path:
    """Where a bundle lies."""
    text = str(location)
    return Path(str(files("wordmask") / text)) if text.startswith(BUNDLED) else Path(text)


def save_bundle(folder: Path, tensors: Mapping[str, Tensor], card: dict[str, Any]) -> None:
    """Write both files to the disk; tensors: a state dict, or the part of it that was trained.

    Killed at any moment, a folder that has weights has the card that belongs to them.

    OSError: the disk is full or fails; what was in the folder stays as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replace_file(folder / WEIGHTS) as weights_part, replace_file(folder / CARD) as card_part:
        card_part.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        _save_tensors({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, weights_part)
        for part in (card_part, weights_part):
            sync(part)
        (folder / WEIGHTS).unlink(missing_ok=True)  # the card is replaced first: there are never weights beside another's card


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), path.name) from error  # a full disk is told by its number
