"""The values of label maps: which value stands for which word, for every file and message.

Label values are assigned and looked up here only. Knows prompts and the vocabulary; not torch, files, HTTP
or Slicer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from wordmask.errors import WordMaskError
from wordmask.words.prompts import Prompt
from wordmask.words.vocabulary import Code, load_vocabulary, same_text

BACKGROUND = 0
LARGEST_VALUE = 65535  # label maps are uint8 or uint16
MOST_NAMED = 8  # labels or values that one sentence lists


class LabelError(WordMaskError):
    """A label map and the names that came with it do not fit together."""


@dataclass(frozen=True)
class Label:
    """One label of a label map.

    Attributes:
        value: above 0.
        word: the word that it stands for.
        code: of the word, where the vocabulary has one.
        modifier: left or right, likewise.
        color: 0..255 each.
    """

    value: int
    word: str
    code: Code | None = None
    modifier: Code | None = None
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class LabelTable:
    """Which value stands for which word in one label map.

    Gaps between values are normal, and so is a label that no voxel has.

    Attributes:
        labels: in ascending order of value.

    Raises:
        LabelError: two labels have the same value or the same word (in any case or spelling of spaces), or a
            value lies outside 1..65535.
    """

    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        words: dict[str, Label] = {}
        values: dict[int, Label] = {}
        for label in self.labels:
            word, value, key = label.word, label.value, same_text(label.word)
            if not BACKGROUND < value <= LARGEST_VALUE:
                raise LabelError(
                    f"Label {word!r} has the value {value}; it must lie in 1 to {LARGEST_VALUE}."
                )
            if not key:
                raise LabelError(f"The label with the value {value} has no name; name it and save again.")
            if value in values:
                raise LabelError(
                    f"The value {value} stands for {values[value].word!r} and for {word!r}; give each word "
                    "its own value."
                )
            if key in words:
                raise LabelError(
                    f"The word {word!r} has two values, {words[key].value} and {value}; merge or rename one."
                )
            words[key] = values[value] = label
        object.__setattr__(self, "labels", tuple(sorted(self.labels, key=lambda label: label.value)))

    @classmethod
    def from_prompts(cls, prompts: Sequence[Prompt]) -> Self:
        """Values 1..N in the order of the words."""
        return cls(
            tuple(
                Label(value, p.word, p.code, p.modifier, p.color) for value, p in enumerate(prompts, start=1)
            )
        )

    @classmethod
    def from_names(cls, names: Mapping[str, int]) -> Self:
        """From {"liver": 1}, as answers carry it; codes and colours come from the vocabulary."""
        return cls.from_label_info([{"name": word, "idx": value} for word, value in names.items()])

    @classmethod
    def from_label_info(cls, label_info: Sequence[Mapping[str, Any]]) -> Self:
        """From what MONAI Label keeps with a submitted label map: [{"name": "liver", "idx": 1}, ...].

        The value is ``idx`` (Slicer's plugin) or ``id`` (its scribbles), never the position in the list:
        MONAI Label's own converters count positions, which is wrong as soon as one label is missing. An entry
        for the background (0) is dropped, other keys are ignored. Call `check_values` afterwards, because
        the plugin counts its scribbles in idx and then does not export them.

        Raises:
            LabelError: it is not a list of names with values, or two entries contradict each other.
        """
        if isinstance(label_info, str | bytes) or not isinstance(label_info, Sequence):
            raise LabelError(
                f"label_info must be a list of labels with name and idx, not {type(label_info).__name__}."
            )
        rows = [_name_and_value(row) for row in label_info]
        return cls(tuple(_label(value, name) for name, value in rows if value != BACKGROUND))

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def value(self, word: str) -> int:
        """The value of a word; case, hyphens, underscores and repeated spaces do not matter.

        LabelError when it has none.
        """
        for label in self.labels:
            if same_text(label.word) == same_text(word):
                return label.value
        raise LabelError(f"There is no label {word!r} in this label map; it has {self._list_labels()}.")

    def word(self, value: int) -> str:
        """The word of a value; LabelError when it has none."""
        for label in self.labels:
            if label.value == value:
                return label.word
        raise LabelError(f"The value {value} has no word in this label map; it has {self._list_labels()}.")

    def names(self) -> dict[str, int]:
        """{"liver": 1, "spleen": 2}, in ascending order of value: `label_names` of an answer."""
        return {label.word: label.value for label in self.labels}

    def to_label_info(self) -> list[dict[str, Any]]:
        """The rows that MONAI Label keeps with a label map.

        Returns:
            Per label name, idx and, where known, color (0..255), code and modifier.
        """
        return [_row(label) for label in self.labels]

    def check_values(self, array: npt.NDArray[Any]) -> None:
        """Check that every value of a label map has a name in this table.

        Args:
            array: a label map of any shape.

        Raises:
            LabelError: it does not hold integers, or it holds a value without a name.
        """
        check_values(array, {label.word: (label.value,) for label in self.labels})

    def _list_labels(self) -> str:
        return _shorten_for_message([f"{label.word} = {label.value}" for label in self.labels]) or "no labels"


def check_values(
    array: npt.NDArray[Any], names: Mapping[str, Sequence[int]], owner: str = "The label map"
) -> None:
    """Refuse a label map whose values are not those that its names announce.

    Training, evaluation and uploads go through this check: a value without a name would be learned as
    absent.

    Args:
        array: a label map of any shape.
        names: word -> its values; no value at all stands for every value but 0.
        owner: how a sentence begins.

    Raises:
        LabelError: the array is not integer, or contains a value without a name; the sentence lists the
            values and says what is likely wrong.
    """
    if array.dtype.kind not in "iub":
        raise LabelError(
            f"A label map contains integers, but this one contains {array.dtype}; save it as integers."
        )
    if any(not values for values in names.values()):
        return
    announced = {value for values in names.values() for value in values}
    found = {int(value) for value in np.unique(array)} - {BACKGROUND}
    if stray := sorted(found - announced):
        values = (
            f"value{'s' if len(stray) > 1 else ''} {_shorten_for_message([str(value) for value in stray])}"
        )
        listed = _shorten_for_message([f"{word} = {'/'.join(map(str, own))}" for word, own in names.items()])
        raise LabelError(
            f"{owner} contains the {values} without a name; the named values are {listed or 'none'}. "
            f"{_guess_cause(stray, found, announced)}"
        )


def _guess_cause(stray: Sequence[int], found: set[int], announced: set[int]) -> str:
    """Say what is likely wrong with values without a name, and what to do."""
    if found == {255} and len(announced) == 1:
        return f"The mask is 0 and 255: write 255 as the value of its name, not {min(announced)}."
    if set(stray) <= {-1, 255} and announced & found:
        return "Such values often mean 'ignore': give them a name of their own, or 0."
    if not announced & found and len(found) == len(announced):
        return "Give each name the value that the label map holds for it."
    if len(stray) > MOST_NAMED:
        return "So many values come from interpolation: resample with nearest neighbour, and not to JPEG."
    return "Name every value, or set those without a name to 0."


def _shorten_for_message(items: Sequence[str]) -> str:
    return ", ".join(items[:MOST_NAMED]) + (", ..." if len(items) > MOST_NAMED else "")


def _label(value: int, word: str) -> Label:
    entry = load_vocabulary().lookup(word)
    return Label(value, word, entry.code, entry.modifier, entry.color) if entry else Label(value, word)


def _name_and_value(row: object) -> tuple[str, int]:
    if not isinstance(row, Mapping) or not isinstance(row.get("name"), str):
        raise LabelError('Each entry of label_info needs a name, like {"name": "liver", "idx": 1}.')
    value = row["idx"] if "idx" in row else row.get("id")
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise LabelError(f"The label {row['name']!r} has no value; label_info needs an idx for each name.")
    return row["name"].strip(), int(value)


def _row(label: Label) -> dict[str, Any]:
    row: dict[str, Any] = {"name": label.word, "idx": label.value}
    if label.color:
        row["color"] = list(label.color)
    if label.code:
        row["code"] = {"scheme": label.code.scheme, "value": label.code.value, "meaning": label.code.meaning}
    if label.modifier:
        row["modifier"] = {
            "scheme": label.modifier.scheme,
            "value": label.modifier.value,
            "meaning": label.modifier.meaning,
        }
    return row
