"""A folder of trained weights: weights.safetensors (only what was trained) and card.json (what it is and what it was trained on).

Knows files and modules; not what the modules do. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wordmask.errors import WeightsError

BUNDLED = "bundled/"  # the prefix of folders that ship with the package
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
    def token_ids(self) -> tuple[int, ...]:
        """Rows of the tiny text table."""
        return tuple(self.card.get("token_ids", ()))

    def apply(self, module: nn.Module) -> None:
        """Load into a module of the same architecture; WeightsError names the first parts that do not fit."""
        wanted = module.state_dict()
        wrong = [n for n in wanted if n not in self.tensors or self.tensors[n].shape != wanted[n].shape] + [
            n for n in self.tensors if n not in wanted
        ]
        if wrong:
            shown = ", ".join(wrong[:3])
            raise WeightsError(
                f"The weights {self.name!r} are of another architecture than the preset: {len(wrong)} parts do not fit ({shown})."
            )
        module.load_state_dict(self.tensors)


def load_bundle(location: str | Path) -> Bundle:
    """Read a folder: a path, or ``bundled/NAME`` for one that ships with the package.

    WeightsError: missing, damaged, or without its card.
    """
    folder = bundle_folder(location)
    for name in (WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise WeightsError(f"The weights {folder.name!r} lack {name}; reinstall them.")
    try:
        tensors = load_file(folder / WEIGHTS)
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise WeightsError(f"The weights {folder.name!r} are damaged ({type(error).__name__}); reinstall them.") from error
    return Bundle(folder.name, tensors, card)


def bundle_folder(location: str | Path) -> Path:
    """Where a bundle lies."""
    text = str(location)
    return Path(str(files("wordmask") / text)) if text.startswith(BUNDLED) else Path(text)


def save_bundle(folder: Path, module: nn.Module, card: dict[str, Any]) -> None:
    """Write both files; the weights last, so that a folder with weights is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    partial = folder / f"{WEIGHTS}.part"
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, partial)
    partial.replace(folder / WEIGHTS)
