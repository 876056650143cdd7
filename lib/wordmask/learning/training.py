"""What every training does the same way.

Where it starts, how it tells how far it is, what it publishes, and what it reports.

Knows the store of versions and cards; not models, not data. Nothing is published before the very end, so a
training that is killed leaves the model in use untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from wordmask.errors import RequestError
from wordmask.progress import CancelToken
from wordmask.weights.card import Card
from wordmask.weights.versions import ModelStore


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is.

    stage: for people; done, total: of the stage; the rest as soon as it is known.
    """

    stage: str
    done: int = 0
    total: int = 0
    loss: float | None = None
    dice: float | None = None
    dice_before: float | None = None
    seconds: float = 0.0


Report = Callable[[TrainingProgress], None]


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """What came of a training on cases.

    Attributes:
        version: its number when it was published.
        parent: the version that it started from; None: the preset's own weights.
        message: for people.
        mean: Dice on the validation cases; None without any.
        mean_before: the same of the model in use.
        dice: word -> mean on the validation cases.
        dice_before: the same of the model in use.
        kept: word of the bundled weights -> mean on phantoms that trained nothing; empty for other weights.
        kept_before: the same of the model in use.
        start_sha256: of the file of weights that it started from; None when the preset has no trained ones.
    """

    version: int | None
    parent: int | None
    message: str
    mean: float | None
    mean_before: float | None
    dice: dict[str, float]
    dice_before: dict[str, float]
    epochs: int
    seconds: float
    training_cases: list[str]
    validation_cases: list[str]
    skipped: list[str] = field(default_factory=list)
    kept: dict[str, float] = field(default_factory=dict)
    kept_before: dict[str, float] = field(default_factory=dict)
    start_sha256: str | None = None

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


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


def find_start(store: ModelStore, start: int | None) -> int | None:
    """The version that a training goes on from; None: the preset's own weights.

    Args:
        start: its number, 0 for the preset's own weights; None: the version in use.

    Raises:
        RequestError: there is no such version.
    """
    if start is None:
        return store.served()
    if start and not store.folder(start).is_dir():
        raise RequestError(f"There is no version {start} of {store.path.name} to go on from.")
    return start or None


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
        f"Version {number} is published and serves"
        if number
        else "Nothing was published, because the training did not help"
    )
    return number, f"{outcome}, without a check." if check is None else f"{outcome}: {check.description}."
