"""Labelled cases, which models learn from and are judged by.

A case is an image, its label map, and which values stand for which word. Knows files, words and masks; not
models, not torch, not a server. A word that a case names and no voxel has is *absent* from that case; a word
that it does not name is *unknown* there and is neither learned nor judged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wordmask.data.image_files import suffix_of
from wordmask.data.label_maps import LabelMap, check_same_grid, read_label_map
from wordmask.data.studies import id_of, list_studies
from wordmask.data.volumes import Volume, read_volume
from wordmask.errors import RequestError, VolumeError, WordMaskError
from wordmask.words.labels import LabelError, LabelTable, check_values
from wordmask.words.prompts import Prompt, parse_name, parse_prompts

Mask = NDArray[np.bool_]
Unnamed = Literal["refuse", "background"]

logger = logging.getLogger(__name__)


def canonical_word(word: str) -> str:
    """`Prompt.key` of the name of a label.

    Raises:
        PromptError: the text does not name a structure.
    """
    return parse_name(word).key


@dataclass(frozen=True)
class Case:
    """One image with its label map.

    Attributes:
        name: of the case.
        image: the image file.
        label: the label map.
        words: word -> its values in the label map; without values, every value but 0.
        group: cases of one group (one patient, two sides of one body) are never divided between training and
            validation; empty: the case is a group of its own.
        unnamed: whether values of the label map that no word has are refused or taken as background.
    """

    name: str
    image: Path
    label: Path
    words: Mapping[str, tuple[int, ...]]
    group: str = ""
    unnamed: Unnamed = "refuse"

    def read(self, max_voxels: int | None = None) -> LabelledVolume:
        """Read both files.

        Args:
            max_voxels: larger images are refused; None: any size.

        Raises:
            VolumeError: a file cannot be read, or the two do not fit together.
            LabelError: the label map contains fractions or colours.
        """
        volume = read_volume(self.image, max_voxels=max_voxels)
        labels = read_label_map(self.label, max_voxels)
        check_same_grid(labels, self.label, volume, self.image)
        masks = make_masks(labels, self.words, unnamed=self.unnamed)
        for warning in labels.warnings:
            logger.warning("%s", warning)
        return LabelledVolume(self, volume, masks, (*volume.warnings, *labels.warnings))


@dataclass(frozen=True)
class Study:
    """An image to learn from, labelled or not.

    Attributes:
        name: of the study, unique among those that are used together.
        path: of the image.
        group: as of a `Case`.
        case: a person's labels of the image; None without any.
    """

    name: str
    path: Path
    group: str = ""
    case: Case | None = None

    @property
    def patient(self) -> str:
        """What is never divided between those that are learned from and those that judge."""
        return self.group or self.name

    def read(self) -> Volume:
        """Read the image.

        Raises:
            VolumeError: it cannot be read.
        """
        return read_volume(self.path)


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """A case in memory.

    Attributes:
        masks: word -> [k, j, i].
        warnings: sentences about what the files leave open.
    """

    case: Case
    volume: Volume
    masks: Mapping[str, Mask]
    warnings: tuple[str, ...] = ()

    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """Word -> prompt."""
        return {word: parse_prompts([word])[0] for word in self.masks}

    @cached_property
    def shows_anything(self) -> bool:
        """Whether it has a voxel of any word."""
        return any(mask.any() for mask in self.masks.values())

    def groups(self) -> list[list[str]]:
        """The words in as few groups as their order allows, none of which holds two words that share a voxel.

        A label map gives a voxel to one word: asked together, "kidney" and "left kidney" would take voxels
        from each other.
        """
        groups: list[list[str]] = []
        for word, mask in self.masks.items():
            free = (group for group in groups if not any((mask & self.masks[other]).any() for other in group))
            if (group := next(free, None)) is None:
                groups.append([word])
            else:
                group.append(word)
        return groups


def make_masks(
    labels: LabelMap, words: Mapping[str, tuple[int, ...]], *, unnamed: Unnamed = "refuse"
) -> dict[str, Mask]:
    """Make a mask [k, j, i] for each word.

    Args:
        labels: the label map.
        words: word -> its values, as of a `Case`.
        unnamed: what to do about values that no word has.

    Raises:
        LabelError: the values are not those of the words.
    """
    if labels.is_lossy:
        if len(words) > 1 or any(len(own) > 1 for own in words.values()):
            raise LabelError(
                f"The label map {labels.name} is a JPEG, whose compression changes values, and it has "
                "several labels; save it as PNG."
            )
        return dict.fromkeys(words, labels.array > 0)
    if unnamed == "refuse":
        check_values(labels.array, words, f"The label map {labels.name}")
    return {word: np.isin(labels.array, own) if own else labels.array != 0 for word, own in words.items()}


def read_entries(path: Path) -> list[Any]:
    """The entries of a JSON list, as they are.

    Raises:
        VolumeError: it cannot be read, or is not a list with an entry.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise VolumeError(f"There is no file {path.name}.") from error
    except IsADirectoryError as error:
        raise VolumeError(f"{path.name} is a folder, not a list of cases; name a JSON file.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise VolumeError(
            f'{path.name} is not readable JSON ({error}); write a list of {{"image", "label", "names"}}.'
        ) from error
    if not isinstance(entries, list) or not entries:
        raise VolumeError(
            f'{path.name} must be a list of {{"image", "label", "names"}}, with at least one entry.'
        )
    return entries


def cases_from_json(path: Path, *, missing: Literal["refuse", "skip"] = "refuse") -> list[Case]:
    """Read a list of ``{"image": ..., "label": ..., "names": {"liver": 1}}``; paths are relative to the list.

    ``names`` may give several values, ``{"kidney": [2, 3]}``, none, ``{"polyp": []}``, which means every
    value but 0, or be a ``label_info`` list as MONAI Label keeps it. ``name`` and ``group`` are optional, and
    so is ``"unnamed": "background"``, which takes values without a name as background instead of refusing
    them.

    Args:
        path: the list.
        missing: what to do about an entry whose files do not exist.

    Raises:
        VolumeError: the list or a file cannot be used; the message names the entry.
        LabelError: the names of an entry cannot be used.
    """
    made = [make_entry(entry, number, path) for number, entry in enumerate(read_entries(path))]
    for number, case in enumerate(made):
        for file in (case.image, case.label):
            if missing == "refuse" and not file.exists():
                raise VolumeError(f"There is no file {file.name}, which {_owner(number, path)} names.")
    return [case for case in made if case.image.exists() and case.label.exists()]


def cases_from_folder(folder: Path, word: str) -> list[Case]:
    """Read the papers' layout: ``images/`` and ``labels/`` with equal names before the ending.

    Every value but 0 is the word.

    Raises:
        VolumeError: a folder is missing or empty, or an image has no label map.
    """
    images, labels = find_images(folder / "images"), find_images(folder / "labels")
    if not images:
        raise VolumeError(
            f"{folder.name} has no images/ with files in it; put "
            "images into images/ and their label maps into labels/."
        )
    if missing := sorted(images.keys() - labels.keys()):
        raise VolumeError(
            f"{len(missing)} images of {folder.name} have no label "
            f"map of the same name in labels/, first {missing[0]!r}."
        )
    return [Case(stem, images[stem], labels[stem], {canonical_word(word): ()}) for stem in sorted(images)]


def words_of(names: Mapping[str, Any] | Sequence[Any], owner: str) -> dict[str, tuple[int, ...]]:
    """Names of a label map as `Case.words`; two names of one structure ("liver", "hepar") share an entry.

    Raises:
        LabelError: the names or values cannot be used.
    """
    if not isinstance(names, Mapping):
        with _explain(owner):
            names = LabelTable.from_label_info(names).names()
    words: dict[str, tuple[int, ...]] = {}
    for name, values in names.items():
        own = tuple(values) if isinstance(values, list | tuple) else (values,)
        if not all(type(value) is int and value > 0 for value in own):
            raise LabelError(
                f"The values of {name!r} in {owner} must be whole numbers above 0, got {values!r}."
            )
        with _explain(owner):
            word = canonical_word(str(name))
        words[word] = tuple(sorted({*words.get(word, ()), *own}))
    if not words:
        raise LabelError(f"{owner} does not name a label, so nothing can be learned from it; add names.")
    return words


def make_entry(entry: Any, number: int, path: Path) -> Case:
    """The case of one entry of a list.

    Raises:
        VolumeError, LabelError: it cannot be used; the message names it.
    """
    owner = _owner(number, path)
    named = [entry.get(key, "") for key in ("image", "label")] if isinstance(entry, dict) else [""]
    if not all(isinstance(name, str) and name.strip() for name in named):
        raise VolumeError(f"{owner[0].upper()}{owner[1:]} needs image and label, each the name of a file.")
    files = [path.parent / name for name in named]
    words = words_of(entry.get("names", {}), owner)
    unnamed = entry.get("unnamed", "refuse")
    if unnamed not in get_args(Unnamed):
        raise LabelError(f'{owner}: unnamed is "refuse" or "background", not {unnamed!r}.')
    name, group = entry.get("name") or _stem(files[0]), entry.get("group")
    group = "" if group is None else group
    return Case(str(name), files[0], files[1], words, str(group), unnamed)


@contextmanager
def _explain(owner: str) -> Iterator[None]:
    """Errors as LabelError that says what they are about."""
    try:
        yield
    except WordMaskError as error:
        raise LabelError(f"{owner}: {error}") from error


def _owner(number: int, path: Path) -> str:
    return f"entry {number} of {path.name}"


def find_images(folder: Path) -> dict[str, Path]:
    """Find the images of a folder, by their name before the ending; what is left out is logged, with why.

    Raises:
        VolumeError: two images have one name.
    """
    if not folder.is_dir():
        return {}
    found = list_studies(folder)
    for name, reason in found.left_out.items():
        if (image := id_of(folder / name)) in found.images:
            raise VolumeError(
                f"Two images of {folder.name} are called {image}: {found.images[image].name} and {name}; "
                "rename one of them."
            )
        logger.warning("%s of %s is left out: %s.", name, folder.name, reason)
    return found.images


def _stem(path: Path) -> str:
    return path.name.removesuffix(suffix_of(path)) or path.name


def read_cases(path: Path, word: str | None) -> list[Case]:
    """A JSON list of cases, or a folder in the papers' layout.

    Args:
        path: of the list or the folder.
        word: what the label maps of a folder show.

    Raises:
        VolumeError, LabelError, RequestError: a file is missing or wrong, or the word is.
    """
    if not path.is_dir():
        if word is not None:
            raise RequestError(
                f"{path.name} is a list, which says itself what its label maps show; leave --word out."
            )
        return cases_from_json(path)
    if word is None:
        raise RequestError(f"{path.name} is a folder; say what its label maps show, such as --word polyp.")
    return cases_from_folder(path, word)


def studies_in(folder: Path) -> list[Study]:
    """Every image file of a folder, by its name before the ending.

    Raises:
        VolumeError: the folder has no image, or two images have one name.
    """
    if not folder.is_dir():
        raise VolumeError(
            f"There is no folder {folder.name}; this training learns from a folder of images."
            if not folder.exists()
            else f"{folder.name} is not a folder; this training learns from a folder of images."
        )
    images = find_images(folder)
    if not images:
        raise VolumeError(
            f"The folder {folder.name} does not contain an image, so there is nothing to learn from."
        )
    return [Study(name, path) for name, path in images.items()]
