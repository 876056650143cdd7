"""The registry of models: WordMask's own, and those that other packages bring.

Listing models and reading presets imports no torch. Another package brings a model through an entry point of
the group `wordmask.models`, whose name is the model's and whose value is a `ModelEntry`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.resources.abc import Traversable
from typing import Any

import yaml
from pydantic import ValidationError

from wordmask.errors import UnknownModelError
from wordmask.models.presets import Preset
from wordmask.resources import look_up, suggest, yaml_names

GROUP = "wordmask.models"
OWN = {  # name on the wire -> its entry; the first is the default
    "simple_vilmedsam": "wordmask.models.simple_vilmedsam:MODEL",
    "medclip_samv2": "wordmask.models.medclip_samv2:MODEL",
    "medclip_samv2_weak": "wordmask.models.medclip_samv2_weak:MODEL",
    "medclipseg": "wordmask.models.medclipseg:MODEL",
    "clip_guided_sam": "wordmask.models.clip_guided_sam:MODEL",
}


@dataclass(frozen=True)
class ModelEntry:
    """Where the parts of a model are.

    Attributes:
        preset: class of its presets.
        presets: folder with one YAML file per preset.
        segmenter: ``module:class`` of the model, a `wordmask.models.base.Segmenter`.
        trainings: ``module:object`` of each way to train it, a `wordmask.learning.training.Training`, the
            usual one first; empty: it is not trained.
    """

    preset: type[Preset]
    presets: Traversable
    segmenter: str
    trainings: tuple[str, ...] = ()


def model_names() -> list[str]:
    """WordMask's own models, the default first, then those of other packages in alphabetical order."""
    return [*OWN, *sorted(_external_models())]


@cache
def find_model(name: str) -> ModelEntry:
    """The entry of a model.

    Raises:
        UnknownModelError: there is none of this name, or the package that brings it does not load.
    """
    look_up(name, model_names(), "model", UnknownModelError)
    if name in OWN:
        own: ModelEntry = pkgutil.resolve_name(OWN[name])
        return own
    package = _package_of(name)
    with _explain_fault(name):
        entry = _external_models()[name].load()
    if not isinstance(entry, ModelEntry):
        raise UnknownModelError(
            f"The model {name!r} of the package {package} is not a ModelEntry; repair or remove {package}."
        )
    return entry


def load_part(model: str, address: str) -> Any:
    """Import a part of a model that its entry names, such as its segmenter.

    Raises:
        UnknownModelError: the package that brings the model does not load.
    """
    if model in OWN:
        return pkgutil.resolve_name(address)
    with _explain_fault(model):
        return pkgutil.resolve_name(address)


def preset_names(model: str) -> list[str]:
    """The presets of a model, in alphabetical order; UnknownModelError: there is no such model."""
    return yaml_names(find_model(model).presets)


def load_preset(model: str, name: str) -> Preset:
    """Read a preset of a model.

    Returns:
        An instance of the model's own preset class.

    Raises:
        UnknownModelError: there is no such model or preset, or the preset is not valid.
    """
    names = preset_names(model)
    if name not in names:
        raise UnknownModelError(
            f"Model {model!r} has no preset {name!r}.{suggest(name, names)} Presets: {', '.join(names)}."
        )
    entry = find_model(model)
    try:
        values = yaml.safe_load((entry.presets / f"{name}.yaml").read_text(encoding="utf-8"))
        return entry.preset(model=model, name=name, **values)
    except (ValidationError, TypeError, yaml.YAMLError) as error:
        raise UnknownModelError(f"Preset {name!r} of model {model!r} is not valid: {error}") from error


@contextmanager
def _explain_fault(model: str) -> Iterator[None]:
    """Whatever another package raises while it is imported as an UnknownModelError that names it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        package = _package_of(model)
        raise UnknownModelError(
            f"The model {model!r} of the package {package} cannot be loaded ({error}); "
            f"repair or remove {package}."
        ) from error


def _package_of(model: str) -> str:
    point = _external_models()[model]
    return point.dist.name if point.dist else point.module


@cache
def _external_models() -> dict[str, EntryPoint]:
    """Models of other packages, by name; they cannot replace WordMask's own."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in OWN}
