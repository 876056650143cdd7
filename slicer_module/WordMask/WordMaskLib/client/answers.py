"""What a server says about itself, checked and typed: models, words and cases.

Answers about jobs and trainings are in `job_answers`. Unknown fields are ignored, so a newer server can say
more. A missing field or one of another type raises a ValueError, which the reader of the answer turns into a
sentence. Knows JSON; not HTTP, not files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .json_fields import (
    int_in,
    list_in,
    mapping_in,
    numbers_in,
    object_in,
    rows_in,
    text_in,
    texts_in,
)

T = TypeVar("T")


@dataclass(frozen=True)
class ServerInfo:
    """What any MONAI Label server says about itself.

    Attributes:
        name: of the app
        version: of the app
        models: names
        images: number of cases
    """

    name: str
    version: str
    models: tuple[str, ...]
    images: int

    @classmethod
    def from_json(cls, found: Any) -> ServerInfo:
        """Read it from JSON; ValueError if a MONAI Label server does not answer like this."""
        return cls(
            text_in(found, "name"),
            str(found.get("version", "")),
            tuple(object_in(found, "models")),
            int_in(object_in(found, "datastore"), "total", 0),
        )


@dataclass(frozen=True)
class Health:
    """What a WordMask server says about itself.

    Attributes:
        version: of WordMask
        waiting, running: numbers of jobs
        models: name -> version
    """

    version: str
    waiting: int
    running: int
    models: Mapping[str, str]

    @classmethod
    def from_json(cls, found: Any) -> Health:
        """Read it from JSON; ValueError if WordMask does not answer like this."""
        queue = object_in(found, "queue")
        models = {text_in(model, "name"): str(model.get("version", "")) for model in rows_in(found, "models")}
        jobs = (int_in(queue, "waiting", 0), int_in(queue, "running", 0))
        return cls(text_in(found, "wordmask"), *jobs, models)


@dataclass(frozen=True)
class ModelVersion:
    """One published version of a model.

    Attributes:
        number: counted from 1
        served: whether the server uses it
        words: words that it learned from labels
        dice, dice_before: word -> Dice on its validation cases, after and before the training
    """

    number: int
    served: bool
    date: str
    words: tuple[str, ...]
    dice: Mapping[str, float]
    dice_before: Mapping[str, float]

    @classmethod
    def from_json(cls, found: Any) -> ModelVersion:
        """Read it from JSON. A card that cannot be read becomes an empty one, as on the server."""
        card = object_in(found, "card")
        return cls(
            number=int_in(found, "number"),
            served=found.get("served") is True,
            date=text_in(card, "date", ""),
            words=texts_in(card, "learned"),
            dice=numbers_in(card.get("validation_dice")),
            dice_before=numbers_in(card.get("validation_dice_before")),
        )


@dataclass(frozen=True)
class ModelInfo:
    """A model and what it can do.

    Attributes:
        hints: "points" and "box", as far as the model takes them
        output_volumes: which of labels, probability, uncertainty and attribution it can return
        trained_words: empty if the model is not limited to a list
        refuses_unknown: whether it marks nothing for words outside that list
        version: the version in use
        recipes: of its trainings with the default first; empty if the server does not train it
        learns_words: whether a training needs a list of words
    """

    name: str
    title: str
    description: str
    device: str
    hints: tuple[str, ...]
    output_volumes: tuple[str, ...]
    trained_words: frozenset[str]
    refuses_unknown: bool
    version: str
    versions: tuple[ModelVersion, ...]
    recipes: tuple[str, ...] = ()
    learns_words: bool = False

    @classmethod
    def from_json(cls, found: Any) -> ModelInfo:
        """Read it from JSON; ValueError if WordMask does not answer like this."""
        training = object_in(found, "training")
        return cls(
            name=text_in(found, "name"),
            title=text_in(found, "title", "") or text_in(found, "name"),
            description=text_in(found, "description", ""),
            device=text_in(found, "device", ""),
            hints=texts_in(found, "hints"),
            output_volumes=texts_in(found, "output_volumes") or ("labels",),
            trained_words=frozenset(texts_in(found, "trained_words")),
            refuses_unknown=found.get("unknown_words") == "refuse",
            version=str(found.get("version", "")),
            versions=tuple(ModelVersion.from_json(version) for version in rows_in(found, "versions")),
            recipes=texts_in(training, "recipes"),
            learns_words=training.get("words") is True,
        )


@dataclass(frozen=True)
class Code:
    """A coded concept; scheme "SCT" is SNOMED CT."""

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
    """An entry of the vocabulary that fits what was typed.

    Attributes:
        word: the vocabulary's own word
        matched: the text of the entry that fits
        kind: prefix, synonym or misspelling
        trained: whether the model was trained on it, None if the model is not limited to a list
        modalities: as the vocabulary names them ("CT", "MR")
        color: 0..255
    """

    word: str
    matched: str
    kind: str
    synonyms: tuple[str, ...]
    trained: bool | None
    modalities: tuple[str, ...]
    color: tuple[int, int, int]
    category: Code | None
    code: Code | None
    modifier: Code | None
    region: Code | None

    @classmethod
    def from_json(cls, found: Any) -> Suggestion:
        """Read it from JSON; ValueError if WordMask does not answer like this."""
        word, trained = text_in(found, "word"), found.get("trained")
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
            category=Code.from_json(found.get("category")),
            code=Code.from_json(found.get("code")),
            modifier=Code.from_json(found.get("modifier")),
            region=Code.from_json(found.get("region")),
        )


@dataclass(frozen=True)
class DatastoreImage:
    """One case of the server's datastore.

    Attributes:
        labels: tag ("final", "original") -> what was stored with the label
    """

    id: str
    info: Mapping[str, Any]
    labels: Mapping[str, Mapping[str, Any]]

    @property
    def is_labelled(self) -> bool:
        """Whether the case has a final label."""
        return "final" in self.labels


def images_from_json(found: Any) -> tuple[DatastoreImage, ...]:
    """Read every case from the answer to ``GET /datastore/?output=all``, sorted by id; ValueError."""
    images = []
    for image_id, entry in sorted(object_in(found, "objects", required=True).items()):
        image, labels = object_in(entry, "image"), object_in(entry, "labels")
        kept = {tag: object_in(label, "info") for tag, label in labels.items()}
        images.append(DatastoreImage(image_id, object_in(image, "info"), kept))
    return tuple(images)


def rows_of(name: str, row: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    """Make a reader of an object whose list ``name`` has rows."""
    return lambda found: tuple(row(entry) for entry in rows_in(found, name, required=True))


def text_of(name: str, default: str | None = None) -> Callable[[Any], str]:
    """Make a reader of an object with a text or a number ``name``; without ``default`` it must be there."""

    def read(found: Any) -> str:
        value = mapping_in(found).get(name, default)
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            raise ValueError(name)
        return str(value)

    return read


def ignore_answer(found: Any) -> None:
    """Read an answer that says only that the request was carried out."""
