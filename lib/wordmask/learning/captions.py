"""Pictures with captions: what CLIP is tuned on (MedCLIP-SAMv2's first stage, methods.md 2.2).

Knows lists, image files, labelled cases and words; not models, not torch. A pair is one picture, or one slice
of a volume, and what is said about it. Captions come from a list that people made, or are written here from
label maps: "CT slice showing liver and spleen".
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordmask.data.geometry import slicing_for
from wordmask.data.slices import choose_plane, to_unit_range
from wordmask.data.volumes import Volume, read_volume
from wordmask.data.windows import find_window
from wordmask.errors import VolumeError, WordMaskError
from wordmask.learning.cases import Case, LabelledVolume

NEEDED = ("image", "caption")  # of an entry; optional: group, slice, window
WINDOW = "soft_tissue"  # of a CT whose entry names none
SMALLEST_SHARE = 0.001  # of a slice; smaller structures are not named, because CLIP could not see them
KINDS = {"CT": "CT slice", "MR": "MR slice", "US": "ultrasound slice", "unknown": "slice"}
PICTURES = {"US": "ultrasound picture"}


@dataclass(frozen=True)
class ImageCaption:
    """One picture and its caption.

    Attributes:
        image: the file.
        caption: what is said about it.
        source: the entry that names the image, for errors, such as "line 3 of pairs.csv".
        group: pairs of one group (one patient, one image) are never divided between training and check.
        slice: index along the slicing plane of a volume, in display order.
        window: of a CT.
    """

    image: Path
    caption: str
    source: str
    group: str
    slice: int | None = None
    window: str | None = None


@dataclass(frozen=True)
class CaptionList:
    """Pairs, and how many captions were too short to be among them."""

    pairs: tuple[ImageCaption, ...]
    short: int = 0


def names_cases(path: Path) -> bool:
    """Whether ``path`` is what `wordmask train` takes: a folder, or a JSON list of cases with label maps.

    The first entry of a list decides.
    """
    if path.is_dir() or path.suffix.lower() != ".json":
        return path.is_dir()
    first = _json_entries(path)[0]
    return isinstance(first, dict) and "label" in first


def read_caption_list(path: Path, *, least_characters: int) -> CaptionList:
    """Read a CSV file with the columns image and caption, or a JSON list of objects with these keys.

    Paths are relative to the list. Optional columns: group (pairs that belong together, for example one
    patient), slice (of a volume, along its slicing plane, from 0), window (of a CT).

    Args:
        path: the list.
        least_characters: shorter captions are left out and counted.

    Raises:
        VolumeError: the list cannot be used; the message names the line or entry.
    """
    entries = _json_pairs(path) if path.suffix.lower() == ".json" else _csv_pairs(path)
    pairs = [_pair(entry, source, path) for source, entry in entries]
    long = tuple(pair for pair in pairs if len(pair.caption) >= least_characters)
    if not long:
        reason = (
            f"its {len(pairs)} captions are all shorter than {least_characters} characters"
            if pairs
            else "it is empty"
        )
        raise VolumeError(f"{path.name} has no caption to learn from: {reason}.")
    return CaptionList(long, len(pairs) - len(long))


def captions_of_cases(cases: Iterable[Case], *, slices: int, words: int | None) -> CaptionList:
    """Write captions of labelled cases, of slices that show something, the same ones every time.

    Args:
        cases: where the label maps are.
        slices: at most so many of each case, evenly spread.
        words: how many structures a caption names, the largest first; None: all.

    Raises:
        VolumeError: a case cannot be read, or no case shows anything.
        LabelError: a label map cannot be used.
    """
    pairs = [pair for case in cases for pair in _write_captions(case.read(), slices, words)]
    if not pairs:
        raise VolumeError(
            "All label maps of these cases are empty, so captions cannot be written; check the label maps."
        )
    return CaptionList(tuple(pairs))


def read_pictures(
    pairs: Iterable[ImageCaption], windows: Sequence[str] = ()
) -> Iterator[NDArray[np.float32]]:
    """Read each pair's picture, [3, h, w] in 0..1, in display orientation, one after the other.

    An image is read once for all its neighbours in the list.

    Args:
        pairs: the pictures.
        windows: of CT that the weights know; empty: any.

    Raises:
        VolumeError: an image is damaged, or has several slices and its entry names none; the message names
            the entry.
    """
    path, volume = None, None
    for pair in pairs:
        if volume is None or pair.image != path:
            path, volume = pair.image, _read(pair)
        yield _picture(pair, volume, windows)


def _read(pair: ImageCaption) -> Volume:
    try:
        return read_volume(pair.image)
    except WordMaskError as error:
        raise VolumeError(f"The image that {pair.source} names cannot be used: {error}") from error


def _picture(pair: ImageCaption, volume: Volume, windows: Sequence[str]) -> NDArray[np.float32]:
    stack = slicing_for(volume.geometry, choose_plane(volume)).cut(volume.array)
    if pair.slice is None and len(stack) > 1:
        raise VolumeError(
            f"{volume.name}, which {pair.source} names, has {len(stack)} slices; name one of them with slice."
        )
    index = pair.slice or 0
    if not 0 <= index < len(stack):
        raise VolumeError(
            f"{_capitalise(pair.source)} names slice {index} of "
            f"{volume.name}, which has slices 0 to {len(stack) - 1}."
        )
    name = pair.window or WINDOW
    if windows and name not in windows:
        name = windows[0]
    window = find_window(name) if volume.modality == "CT" and not volume.is_picture else None
    picture: NDArray[np.float32] = to_unit_range(volume, stack[index : index + 1], window)[0]
    return picture


def _write_captions(case: LabelledVolume, slices: int, words: int | None) -> list[ImageCaption]:
    slicing = slicing_for(case.volume.geometry, choose_plane(case.volume))
    _, height, width = slicing.cut_shape
    shares = {word: slicing.cut(mask).sum((1, 2)) / (height * width) for word, mask in case.masks.items()}
    shown: dict[int, list[str]] = {}
    for index in range(slicing.cut_shape[0]):
        there = sorted(
            (word for word in shares if shares[word][index] >= SMALLEST_SHARE),
            key=lambda word: -shares[word][index],
        )
        if there:
            shown[index] = there[:words]
    chosen = _spread(list(shown), slices)
    kind = _name_kind(case.volume)
    origin = case.case
    return [
        ImageCaption(
            origin.image,
            f"{kind} showing {_join_words(shown[index])}",
            f"the case {origin.name}",
            origin.group or origin.name,
            None if case.volume.is_picture else index,
            case.prompts[shown[index][0]].window,
        )
        for index in chosen
    ]


def _spread(indices: Sequence[int], most: int) -> list[int]:
    """The middle ones of ``most`` equal parts: the ends of an organ show little of it."""
    if len(indices) <= most:
        return list(indices)
    return [indices[int((part + 0.5) * len(indices) / most)] for part in range(most)]


def _name_kind(volume: Volume) -> str:
    return PICTURES.get(volume.modality, "picture") if volume.is_picture else KINDS[volume.modality]


def _join_words(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _pair(entry: Mapping[str, Any], source: str, path: Path) -> ImageCaption:
    if not all(isinstance(entry.get(key), str) and entry[key].strip() for key in NEEDED):
        raise VolumeError(
            f"{_capitalise(source)} needs image and caption: the name of a file, and what the image shows."
        )
    image = path.parent / entry["image"].strip()
    if not image.exists():
        raise VolumeError(f"There is no file {image.name}, which {source} names.")
    window = entry.get("window") or None
    if window is not None:
        find_window(window)
    group = str(entry.get("group") or entry["image"].strip())
    return ImageCaption(
        image, " ".join(entry["caption"].split()), source, group, _slice(entry.get("slice"), source), window
    )


def _slice(value: Any, source: str) -> int | None:
    if value is None or value == "":
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal():
        raise VolumeError(f"The slice in {source} must be a whole number from 0 up, got {value!r}.")
    return int(text)


def _json_pairs(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, entry in enumerate(_json_entries(path)):
        source = f"entry {number} of {path.name}"
        if not isinstance(entry, dict):
            raise VolumeError(f"{_capitalise(source)} must be a table with image and caption.")
        yield source, entry


def _json_entries(path: Path) -> list[Any]:
    """At least one."""
    try:
        entries = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise VolumeError(f"{path.name} is not readable JSON ({error}).") from error
    if not isinstance(entries, list) or not entries:
        raise VolumeError(f'{path.name} must be a list of {{"image", "caption"}}, with at least one entry.')
    return entries


def _csv_pairs(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        if lacking := [name for name in NEEDED if name not in columns]:
            raise VolumeError(
                f"{path.name} lacks the column {lacking[0]!r}; its "
                "first line must name the columns image and caption."
            )
        reader.fieldnames = columns
        for row in reader:
            source = f"line {reader.line_num} of {path.name}"
            if None in row or None in row.values():
                raise VolumeError(
                    f"{_capitalise(source)} has more or fewer fields than the first "
                    "line; put quotes around a caption that contains commas."
                )
            yield source, row
    except csv.Error as error:
        raise VolumeError(f"Line {reader.line_num} of {path.name} is not readable CSV ({error}).") from error


def _capitalise(source: str) -> str:
    """With a capital letter, and the file's name as it is."""
    return source[0].upper() + source[1:]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise VolumeError(f"There is no file {path.name}.") from error
    except (OSError, ValueError) as error:
        raise VolumeError(
            f"{path.name} cannot be read as text ({error.__class__.__name__}); save it as UTF-8."
        ) from error
