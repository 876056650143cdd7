"""What every training does at its two ends: where it starts, and whether its result is published.

Knows the store of versions and cards; not models, not data. Nothing is published before the very end, so a
training that is killed leaves the model in use untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from wordmask.errors import RequestError
from wordmask.progress import CancelToken
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import read_card
from wordmask.weights.versions import ModelStore


@dataclass(frozen=True)
class Check:
    """A result and what it has to beat, on data that was not learned from.

    Attributes:
        after: the measure of the result; more is better.
        before: the same measure of what there was.
        description: what was measured, for people.
    """

    after: float
    before: float
    description: str


def find_start(store: ModelStore, start: int | None, preset: str, *, taught: bool = False) -> int | None:
    """The version that a training starts from; None: the preset's own weights.

    Args:
        store: the published versions.
        start: a number, 0 for the preset's own weights; None: the version in use.
        preset: that is trained.
        taught: whether the training can continue a version that was taught words.

    Raises:
        RequestError: there is no such version, or this training cannot continue it.
    """
    number = store.served() if start is None else start
    if not number:
        return None
    if not store.folder(number).is_dir():
        raise RequestError(
            f"There is no version {number} of {store.path.name} to start from; `wordmask models list` shows "
            "the versions."
        )
    card = read_card(store.folder(number))
    trained = card.preset
    if trained not in (None, "", preset):
        raise RequestError(
            f"Version {number} was trained from the preset {trained!r}; train that preset, or start from 0."
        )
    if card.committee is not None and not taught:
        raise RequestError(
            f"Version {number} was taught words with labelled cases, which this recipe cannot continue; use "
            "recipe few_shot, or start from 0 (or from a version without taught words)."
        )
    return number


def fill_card(
    *,
    model: str,
    preset: str,
    parent: int | None,
    recipe: BaseModel,
    forced: bool,
    libraries: Iterable[str],
    **content: Any,
) -> Card:
    """The card of a version that is made now.

    Args:
        libraries: distributions whose version could matter.
        content: fields of one kind of training.
    """
    common = {
        "model": model,
        "preset": preset,
        "parent": parent,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": recipe.model_dump(mode="json"),
        "forced": forced,
        "libraries": {name: version(name) for name in libraries},
    }
    return Card.model_validate({**common, **content})


def publish_if_better(
    store: ModelStore, check: Check | None, write: Callable[[Path], None], cancel: CancelToken, *, force: bool
) -> tuple[int | None, str]:
    """Publish what is better on data that was not learned from, or what is forced.

    Args:
        check: None where nothing was held out: then only force publishes.
        write: puts weights and card into the folder that it is given.
        force: publish whatever the check says.

    Returns:
        The number of the version, None when nothing was published, and a sentence for people.
    """
    number = None
    if force or (check is not None and check.after > check.before):
        cancel.check()
        number = store.publish(write)
    outcome = (
        f"Version {number} is published and in use"
        if number
        else "Nothing was published, because the training did not help"
    )
    return number, f"{outcome}, without a check." if check is None else f"{outcome}: {check.description}."
