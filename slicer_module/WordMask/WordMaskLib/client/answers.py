"""What a server says of itself, checked and with types: models, words and cases.

Of work that takes time: `job_answers`.

Fields that are not known here are left out of account, so a newer server can say more. A field that is
missing, or of another type, makes a ValueError; whoever reads the answer turns it into a sentence. Knows
JSON; not HTTP, not files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .json_fields import (
    int_in,
    list_in,
    mapping_in,
    number_in,
    numbers_in,
    object_in,
    rows_in,
    text_in,
    texts_in,
)

T = TypeVar("T")


@dataclass(frozen=True)
class ServerInfo:
    """What any MONAI Label server says of itself.

    images, labelled: how many cases there are, and how many have a final label.
    """

    name: str
    description: str
    version: str
    models: tuple[str, ...]
    trainers: tuple[str, ...]
    strategies: tuple[str, ...]
    images: int
    labelled: int

    @classmethod
    def from_json(cls, found: Any) -> ServerInfo:
        """ValueError: it is not what MONAI Label answers."""
        cases = object_in(found, "datastore")
        return cls(
            text_in(found, "name"),
            text_in(found, "description", ""),
            str(found.get("version", "")),
            tuple(object_in(found, "models")),
            tuple(object_in(found, "trainers")),
            tuple(object_in(found, "strategies")),
            int_in(cases, "total", 0),
            int_in(cases, "completed", 0),
        )


@dataclass(frozen=True)
class Health:
    """What a WordMask server says of itself.

    Attributes:
        version: of WordMask
        waiting, running: jobs
        uptime: seconds
        models: name -> version
    """

    version: str
    uptime: float
    waiting: int
    running: int
    models: Mapping[str, str]

    @classmethod
    def from_json(cls, found: Any) -> Health:
        """ValueError: it is not what WordMask answers."""
        queue = object_in(found, "queue")
        models = {text_in(model, "name"): str(model.get("version", "")) for model in rows_in(found, "models")}
        jobs = (int_in(queue, "waiting", 0), int_in(queue, "running", 0))
        return cls(text_in(found, "wordmask"), number_in(found, "uptime", 0.0), *jobs, models)


@dataclass(frozen=True)
class ModelVersion:
    """One published version.

    Attributes:
        words: what it learned from labels
        dice, dice_before: word -> on its validation cases
        card: all of it
    """

    number: int
    served: bool
    date: str
    words: tuple[str, ...]
    dice: Mapping[str, float]
    dice_before: Mapping[str, float]
    card: Mapping[str, Any]

    @classmethod
    def from_json(cls, found: Any) -> ModelVersion:
        """A card that cannot be read is an empty one, as it is on the server."""
        card = object_in(found, "card")
        return cls(
            number=int_in(found, "number"),
            served=found.get("served") is True,
            date=text_in(card, "date", ""),
            words=texts_in(card, "learned"),
            dice=numbers_in(card.get("validation_dice")),
            dice_before=numbers_in(card.get("validation_dice_before")),
            card=card,
        )


@dataclass(frozen=True)
class ModelInfo:
    """A model.

    Attributes:
        hints: points, box, as far as it takes them
        output_volumes: labels, probability, uncertainty, attribution
        trained_words: empty when it is not limited to a list
        refuses_unknown: whether it marks nothing for other words
        version: that serves
        recipes: of its trainings, the usual one first, empty when the server does not train it
        learns_words: whether a training needs words
    """

    name: str
    preset: str
    title: str
    description: str
    device: str
    hints: tuple[str, ...]
    output_volumes: tuple[str, ...]
    windows: tuple[str, ...]
    trained_words: frozenset[str]
    refuses_unknown: bool
    version: str
    versions: tuple[ModelVersion, ...]
    recipes: tuple[str, ...] = ()
    learns_words: bool = False

    @classmethod
    def from_json(cls, found: Any) -> ModelInfo:
        """ValueError: it is not what WordMask answers."""
        training = object_in(found, "training")
        return cls(
            name=text_in(found, "name"),
            preset=text_in(found, "preset", ""),
            title=text_in(found, "title", "") or text_in(found, "name"),
            description=text_in(found, "description", ""),
            device=text_in(found, "device", ""),
            hints=texts_in(found, "hints"),
            output_volumes=texts_in(found, "output_volumes") or ("labels",),
            windows=texts_in(found, "windows"),
            trained_words=frozenset(texts_in(found, "trained_words")),
            refuses_unknown=found.get("unknown_words") == "refuse",
            version=str(found.get("version", "")),
            versions=tuple(ModelVersion.from_json(version) for version in rows_in(found, "versions")),
            recipes=texts_in(training, "recipes"),
            learns_words=training.get("words") is True,
        )


@dataclass(frozen=True)
class Code:
    """One coded concept; scheme SCT is SNOMED CT."""

    scheme: str
    value: str
    meaning: str

    @classmethod
    def from_json(cls, found: Any) -> Code | None:
        """Read a code from JSON; None where the server says null."""
        return (
            None
            if found is None
            else cls(text_in(found, "scheme"), text_in(found, "value"), text_in(found, "meaning"))
        )


@dataclass(frozen=True)
class Suggestion:
    """One thing of the vocabulary.

    Attributes:
        matched: the text that fits what was typed
        kind: prefix, synonym, misspelling
        trained: None when the model is not limited to a list of words
        color: 0..255
        modalities: as the vocabulary names them ("CT", "MR")
    """

    word: str
    matched: str
    kind: str
    synonyms: tuple[str, ...]
    trained: bool | None
    modalities: tuple[str, ...]
    color: tuple[int, int, int]
    window: str | None
    category: Code | None
    code: Code | None
    modifier: Code | None
    region: Code | None

    @classmethod
    def from_json(cls, found: Any) -> Suggestion:
        """ValueError: it is not what WordMask answers."""
        word, trained, window = text_in(found, "word"), found.get("trained"), found.get("window")
        channels = [
            channel for channel in list_in(found, "color") if type(channel) is int and 0 <= channel <= 255
        ]
        if len(channels) != 3 or not (trained is None or isinstance(trained, bool)):
            raise ValueError("color or trained")
        return cls(
            word=word,
            matched=text_in(found, "matched", word),
            kind=text_in(found, "kind", "prefix"),
            synonyms=texts_in(found, "synonyms"),
            trained=trained,
            modalities=texts_in(found, "modalities"),
            color=(channels[0], channels[1], channels[2]),
            window=window if isinstance(window, str) else None,
            category=Code.from_json(found.get("category")),
            code=Code.from_json(found.get("code")),
            modifier=Code.from_json(found.get("modifier")),
            region=Code.from_json(found.get("region")),
        )


@dataclass(frozen=True)
class DatastoreImage:
    """One case.

    Attributes:
        extension: of its file, such as ".nii.gz"
        labels: tag ("final", "original") -> what was kept with the label
    """

    id: str
    extension: str
    info: Mapping[str, Any]
    labels: Mapping[str, Mapping[str, Any]]

    @property
    def is_labelled(self) -> bool:
        """Whether it has a final label."""
        return "final" in self.labels


def images_from_json(found: Any) -> tuple[DatastoreImage, ...]:
    """Every case of ``GET /datastore/?output=all``, by id; ValueError."""
    images = []
    for image_id, entry in sorted(object_in(found, "objects", required=True).items()):
        image, labels = object_in(entry, "image"), object_in(entry, "labels")
        kept = {tag: object_in(label, "info") for tag, label in labels.items()}
        images.append(DatastoreImage(image_id, text_in(image, "ext", ""), object_in(image, "info"), kept))
    return tuple(images)


def rows_of(name: str, row: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    """A reader of an object whose list ``name`` holds rows."""
    return lambda found: tuple(row(entry) for entry in rows_in(found, name, required=True))


def text_of(name: str) -> Callable[[Any], str]:
    """A reader of an object that holds a text or a number ``name``."""

    def read(found: Any) -> str:
        value = mapping_in(found).get(name)
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            raise ValueError(name)
        return str(value)

    return read


def ignore_answer(found: Any) -> None:
    """A reader of an answer that says only that it was done."""
