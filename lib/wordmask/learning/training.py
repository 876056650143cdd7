"""The contract of every training: its request, its progress and its report.

A model names its training in its `ModelEntry`; `find_training` finds it. The command line and the server's
train task know this file only, so that a new kind of training needs no change there.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from wordmask.errors import RequestError
from wordmask.learning.cases import Study
from wordmask.learning.recipes import AnyRecipe
from wordmask.models.registry import OWN, find_model, load_part
from wordmask.progress import CancelToken
from wordmask.resources import look_up
from wordmask.weights.versions import ModelStore
from wordmask.words.prompts import Prompt, parse_prompts

R = TypeVar("R", bound=AnyRecipe)


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is.

    Attributes:
        stage: what it does now, for people.
        done: steps of the stage that are behind it.
        total: steps of the stage.
        loss: mean of the last epoch, as soon as it is known.
        dice: on the validation cases, likewise.
        dice_before: the same of the model in use, likewise.
        seconds: since the start.
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
class TrainingOptions:
    """What a person may choose: the options of `wordmask train`, and the body of `POST /train/{model}`.

    Attributes:
        recipe: its name; None: the default of the kind of training.
        settings: numbers of the recipe that differ, by name.
        words: what to learn, where the data do not say it.
        device: ``auto``, ``cpu`` or ``cuda:0``.
        start: version to start from, 0 for the preset's own weights; None: the version in use.
        force: publish even if validation shows no improvement or there is nothing to validate on.
    """

    recipe: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    words: str | Sequence[str] = ""
    device: str = "auto"
    start: int | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingRequest(Generic[R]):
    """`TrainingOptions` for one model, read and checked."""

    model: str
    preset: str
    recipe: R
    words: tuple[Prompt, ...] = ()
    device: str = "auto"
    start: int | None = None
    force: bool = False


@dataclass(frozen=True)
class Comparison:
    """Figures before and after a training: rows of (name, before, after), more is better."""

    title: str
    heading: str
    rows: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """The result of a training.

    Attributes:
        version: its number when it was published.
        parent: the version that it started from; None: the preset's own weights.
        message: for people.
        epochs: how many were run.
        seconds: that it took.
        skipped: a sentence for each part of the data that was left out.
    """

    version: int | None
    parent: int | None
    message: str
    epochs: int
    seconds: float
    skipped: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        return asdict(self)

    def comparison(self) -> Comparison | None:
        """What to show of the figures; None where nothing was measured."""
        return None


@dataclass(frozen=True, kw_only=True)
class CaseReport(TrainingReport):
    """The result of a training that labelled cases judge.

    Attributes:
        mean: Dice on the validation cases; None without any.
        mean_before: the same of the model in use.
        dice: word -> mean on the validation cases.
        dice_before: the same of the model in use.
        training_cases: names of the cases that were learned from.
        validation_cases: names of the cases that judged.
        kept: word of the bundled weights -> mean on phantoms that trained nothing; empty for other weights.
        kept_before: the same of the model in use.
        start_sha256: of the file of weights that it started from; None when the preset has no trained ones.
    """

    mean: float | None
    mean_before: float | None
    dice: dict[str, float]
    dice_before: dict[str, float]
    training_cases: list[str]
    validation_cases: list[str]
    kept: dict[str, float] = field(default_factory=dict)
    kept_before: dict[str, float] = field(default_factory=dict)
    start_sha256: str | None = None

    def comparison(self) -> Comparison | None:
        """Mean Dice of each word."""
        if not self.dice:
            return None
        rows = tuple((word, self.dice_before[word], dice) for word, dice in self.dice.items())
        return Comparison(f"Mean Dice on {len(self.validation_cases)} validation cases", "word", rows)


class Training(abc.ABC, Generic[R]):
    """One way to train a model; a model's `ModelEntry` names an instance.

    Attributes:
        description: what it does, for lists.
        recipe: class of its recipes.
        takes_words: whether words have to be given.
        takes_labels: whether the command line may add labels to unlabelled images.
        takes_start: whether it can start from a version.
        resumes: whether an interrupted run continues in the run folder that it left.
        uses_devices: whether several processes may train together, each with a device of its own.
    """

    description: ClassVar[str]
    recipe: type[R]
    takes_words: ClassVar[bool] = False
    takes_labels: ClassVar[bool] = False
    takes_start: ClassVar[bool] = True
    resumes: ClassVar[bool] = False
    uses_devices: ClassVar[bool] = False

    def recipe_names(self, preset: str) -> list[str]:
        """The recipes that ship, the default for a preset first."""
        default = self.recipe.default_for(preset)
        return [default, *(name for name in self.recipe.names() if name != default)]

    def make_request(self, model: str, preset: str, options: TrainingOptions) -> TrainingRequest[R]:
        """Read what a person chose.

        Raises:
            RequestError: there is no such recipe or number, or this training cannot use a given option.
            PromptError: the words cannot be read.
        """
        if options.start is not None and not self.takes_start:
            raise RequestError(f"The training of {model} always starts from scratch; leave start out.")
        if options.words and not self.takes_words:
            raise RequestError(f"The training of {model} takes its words from the labels; leave words out.")
        name = options.recipe or self.recipe.default_for(preset)
        return TrainingRequest(
            model=model,
            preset=preset,
            recipe=self.recipe.load(name, **options.settings),
            words=tuple(parse_prompts(options.words)) if options.words else (),
            device=options.device,
            start=options.start,
            force=options.force,
        )

    @abc.abstractmethod
    def read_data(
        self, path: Path, request: TrainingRequest[R], *, word: str | None, labels: Path | None
    ) -> Any:
        """What to learn from, as the command line names it.

        Args:
            path: a file or folder; which, is a matter of the kind of training.
            word: what the label maps of a folder show.
            labels: a list of cases whose labels belong to images of the folder.

        Raises:
            VolumeError, LabelError, RequestError: a file cannot be read, or there is nothing to learn from.
        """

    @abc.abstractmethod
    def choose_data(self, studies: Sequence[Study], request: TrainingRequest[R]) -> Any:
        """Choose what to learn from among the studies of a server.

        Raises:
            RequestError: there is nothing to learn from.
        """

    @abc.abstractmethod
    def run(
        self,
        data: Any,
        request: TrainingRequest[R],
        store: ModelStore,
        *,
        run_folder: Path,
        report: Report = lambda _: None,
        cancel: CancelToken | None = None,
    ) -> TrainingReport:
        """Learn, and publish in ``store`` what got better.

        Args:
            data: what `read_data` or `choose_data` returned.
            run_folder: for what this run keeps; the caller removes it, unless the training resumes.
            report: called with the progress.
            cancel: its ``cancel()`` ends the training with CancelledError, and nothing is published.

        Raises:
            RequestError: there is too little data, or nothing to learn.
            WeightsError, OutOfMemoryError, DiskFullError, CancelledError: a sentence about what to do.
        """


def find_trainings(model: str) -> list[Training[Any]]:
    """All ways to train a model, the usual one first.

    Raises:
        UnknownModelError: there is no such model.
        RequestError: it is not trained.
    """
    addresses = find_model(model).trainings
    if not addresses:
        names = [name for name in OWN if find_model(name).trainings]
        raise RequestError(f"The model {model!r} cannot be trained; models that can: {', '.join(names)}.")
    return [load_part(model, address) for address in addresses]


def find_training(model: str, recipe: str | None = None) -> Training[Any]:
    """The way to train a model that has a recipe of this name.

    Args:
        model: its name.
        recipe: name; None: the usual way.

    Raises:
        UnknownModelError: there is no such model.
        RequestError: it is not trained, or has no such recipe.
    """
    trainings = find_trainings(model)
    if recipe is None:
        return trainings[0]
    names = [name for training in trainings for name in training.recipe.names()]
    look_up(recipe, names, "recipe", RequestError)
    return next(training for training in trainings if recipe in training.recipe.names())


def recipe_names(model: str, preset: str) -> list[str]:
    """The recipes of all ways to train a model, the default for a preset first."""
    return [name for training in find_trainings(model) for name in training.recipe_names(preset)]
