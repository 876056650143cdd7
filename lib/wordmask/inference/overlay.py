"""Draws segmentations as pictures for people: slices with contours, translucent fills, a legend, and maps.

A picture is for looking at; measure on the label map. Knows volumes, label maps and Pillow; runs no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from wordmask.data.geometry import Plane, slicing_for
from wordmask.data.slices import choose_plane, to_unit_range
from wordmask.data.volumes import Volume, read_volume
from wordmask.data.windows import load_windows
from wordmask.errors import RequestError, VolumeError
from wordmask.files import replace_file
from wordmask.inference.result import Segmentation, WordStatistics
from wordmask.words.prompts import parse_prompts

COLUMNS = 4  # slices at most: more are too small to read side by side
COVERED = 0.6  # of a word's largest area: a slice that shows so much of it shows the word
CELLS = {1: 560, 2: 440, 3: 360, 4: 340}  # number of slices -> screen pixels of the longer side of each
LEGEND, MARGIN, LINE = 310, 12, 24
FILL = 0.35  # opacity of a fill; the contour is opaque
INK, PAPER, FAINT = (240, 240, 240), (24, 24, 28), (150, 150, 156)
# Name -> upper end of its colour bar.
PANELS = {"labels": 0.0, "attribution": 1.0, "uncertainty": math.log(2)}
UNITS = {"attribution": "", "uncertainty": " nat"}
# Dark to light.
RAMP = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float64)

RGB = tuple[int, int, int]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Entry:
    """One line of the legend."""

    word: str
    value: int
    color: RGB
    note: str


@dataclass(frozen=True, eq=False)
class _Column:
    """One slice at screen size.

    Attributes:
        index: along the slicing plane.
        word: whose maps are drawn.
        picture: [h, w, 3].
        masks: label value -> [h, w].
    """

    index: int
    word: str
    picture: Bytes
    masks: dict[int, NDArray[np.bool_]]


def overlay_picture(
    volume: Volume, segmentation: Segmentation, path: str | Path, *, panels: Sequence[str] = ()
) -> None:
    """Draw a segmentation on the slices where each structure is largest, and write the picture.

    Args:
        volume: the image.
        segmentation: of this image.
        path: a PNG or JPEG file.
        panels: rows below the labels, "attribution" or "uncertainty"; their maps must have been kept.

    Raises:
        RequestError: a panel cannot be drawn.
        VolumeError: the picture cannot be written.
    """
    rows = list(dict.fromkeys(["labels", *panels]))
    for panel in rows[1:]:
        if panel not in PANELS:
            raise RequestError(f"There is no panel {panel!r}; panels: {', '.join(PANELS)}.")
        if panel not in segmentation.maps:
            raise RequestError(
                f"The {panel} map was not kept when this was segmented; ask for it by keep=('labels', "
                f"{panel!r})."
            )
    entries = [
        _Entry(
            prompt.word,
            segmentation.names[prompt.word],
            prompt.color,
            _note(segmentation.statistics[prompt.word]),
        )
        for prompt in segmentation.prompts
    ]
    drawing = _Drawing(
        volume,
        Plane(segmentation.plane),
        segmentation.labels,
        entries,
        segmentation.window,
        segmentation.maps,
    )
    _save(drawing.draw(rows), Path(path))


def overlay_labels(
    image: str | Path,
    labels: NDArray[np.integer],
    names: Mapping[str, int],
    path: str | Path,
    *,
    like: NDArray[np.integer] | None = None,
) -> None:
    """Draw a label map on its image file, as `overlay_picture` draws a segmentation.

    Args:
        image: the image file.
        labels: [k, j, i].
        names: word -> value.
        path: a PNG or JPEG file.
        like: another label map that decides which slices are drawn, so that two pictures can be compared.

    Raises:
        VolumeError: the image cannot be read or the picture cannot be written.
    """
    volume = read_volume(image)
    entries = []
    for word, value in names.items():
        voxels = int(np.count_nonzero(labels == value))
        entries.append(
            _Entry(word, value, parse_prompts([word])[0].color, _amount(voxels, _millilitres(voxels, volume)))
        )
    drawing = _Drawing(volume, choose_plane(volume, "auto"), labels, entries, {}, {}, like=like)
    _save(drawing.draw(["labels"]), Path(path))


class _Drawing:
    """A picture to be drawn: volume, labels and maps, cut along one plane."""

    def __init__(
        self,
        volume: Volume,
        plane: Plane,
        labels: NDArray[np.integer],
        entries: Sequence[_Entry],
        windows: Mapping[str, str],
        maps: Mapping[str, Mapping[str, NDArray[np.float32]]],
        *,
        like: NDArray[np.integer] | None = None,
    ) -> None:
        self.volume, self.plane, self.entries, self.windows, self.maps = volume, plane, entries, windows, maps
        self.slicing = slicing_for(volume.geometry, plane)
        self.stack = self.slicing.cut(volume.array)
        self.labels = self.slicing.cut(labels)
        shown = self.labels if like is None else self.slicing.cut(like)
        self.chosen = choose_slices(shown, {entry.word: entry.value for entry in entries})
        self.size = self._screen_size()

    def draw(self, panels: Sequence[str]) -> Image.Image:
        """Draw a row per panel, a column per slice, and the legend at the right."""
        columns = [self._column(index, word) for index, word in self.chosen]
        width, height = self.size
        page_width = MARGIN + len(columns) * (width + MARGIN) + LEGEND
        rows = len(panels) * (height + LINE + MARGIN)
        page = Image.new("RGB", (page_width, MARGIN + max(rows, self._legend_height(panels))), PAPER)
        pen = ImageDraw.Draw(page)
        for row, panel in enumerate(panels):
            top = MARGIN + row * (height + LINE + MARGIN)
            for i, column in enumerate(columns):
                left = MARGIN + i * (width + MARGIN)
                pen.text((left, top), self._title(panel, column), INK, font=_font(14))
                cell = _draw_labels(column, self.entries) if panel == "labels" else self._heat(panel, column)
                page.paste(Image.fromarray(cell), (left, top + LINE))
        self._legend(pen, page, page_width - LEGEND + MARGIN, panels)
        return page

    def _screen_size(self) -> tuple[int, int]:
        """(width, height) of a slice on the screen, with the proportions that it has in the patient."""
        rows, columns = self.slicing.in_plane_spacing
        height, width = self.stack.shape[1] * rows, self.stack.shape[2] * columns
        scale = CELLS[len(self.chosen)] / max(height, width)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _column(self, index: int, word: str) -> _Column:
        window = (
            load_windows().get(self.windows.get(word, "soft_tissue"))
            if self.volume.modality == "CT"
            else None
        )
        shown = to_unit_range(self.volume, self.stack[index : index + 1], window)[0]
        pixels = np.round(np.moveaxis(shown, 0, -1) * 255).astype(np.uint8)
        picture = np.asarray(Image.fromarray(pixels).resize(self.size, Image.Resampling.BICUBIC))
        masks = {
            entry.value: self._resize((self.labels[index] == entry.value).astype(np.float32)) > 0.5
            for entry in self.entries
        }
        return _Column(index, word, picture, masks)

    def _resize(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(
            Image.fromarray(values).resize(self.size, Image.Resampling.BILINEAR), dtype=np.float32
        )

    def _heat(self, panel: str, column: _Column) -> Bytes:
        """The map of the column's word over the slice in grey.

        The higher, the lighter and the less of the slice shows.
        """
        values = self.slicing.cut(self.maps[panel][column.word])[column.index] / PANELS[panel]
        share = self._resize(np.clip(values, 0, 1).astype(np.float32))[..., None]
        grey = column.picture.mean(axis=2, keepdims=True) * 0.7
        opacity = 0.25 + 0.6 * share
        return np.round(grey * (1 - opacity) + _ramp(share[..., 0]) * opacity).astype(np.uint8)

    def _title(self, panel: str, column: _Column) -> str:
        place = "" if self.volume.is_picture else f"{self.plane} {column.index}"
        if panel == "labels":
            return place or "labels"
        return " ".join(part for part in (panel, f"of {_short(column.word, 20)},", place) if part).rstrip(
            ", "
        )

    def _legend_height(self, panels: Sequence[str]) -> int:
        return (LINE + 6) * len(self.entries) + 3 * LINE * sum(panel != "labels" for panel in panels) + MARGIN

    def _legend(self, pen: ImageDraw.ImageDraw, page: Image.Image, left: int, panels: Sequence[str]) -> None:
        top = MARGIN
        for entry in self.entries:
            pen.rectangle((left, top + 2, left + 18, top + 20), fill=entry.color, outline=INK)
            pen.text((left + 28, top), _short(entry.word, 20), INK, font=_font(16))
            pen.text((left + LEGEND - 2 * MARGIN, top + 2), entry.note, FAINT, font=_font(13), anchor="ra")
            top += LINE + 6
        for panel in panels:
            if panel != "labels":
                bar = np.tile(np.linspace(0, 1, LEGEND - 2 * MARGIN), (12, 1))
                page.paste(Image.fromarray(_ramp(bar).astype(np.uint8)), (left, top + LINE))
                pen.text((left, top), f"{panel}, 0 to {PANELS[panel]:.2g}{UNITS[panel]}", INK, font=_font(14))
                top += 3 * LINE


def choose_slices(labels: NDArray[np.integer], names: Mapping[str, int]) -> list[tuple[int, str]]:
    """Choose slices that show every word near its largest area.

    Greedy: always the slice that shows most of the words that no chosen slice shows yet. Without any label it
    is the middle slice.

    Args:
        labels: [n, h, w], a stack of slices.
        names: word -> value.

    Returns:
        At most `COLUMNS` pairs of a slice's index and the word that it was chosen for, in ascending order.
    """
    areas = {word: np.count_nonzero(labels == value, axis=(1, 2)) for word, value in names.items()}
    open_words = {word: area / area.max() for word, area in areas.items() if area.any()}
    chosen: list[tuple[int, str]] = []
    while open_words and len(chosen) < COLUMNS:
        gain = sum(
            (np.where(share >= COVERED, share, 0.0) for share in open_words.values()), np.zeros(len(labels))
        )
        index = int(np.argmax(gain))
        shown = [word for word, share in open_words.items() if share[index] >= COVERED]
        chosen.append((index, max(shown, key=lambda word: open_words[word][index])))
        open_words = {word: share for word, share in open_words.items() if word not in shown}
    return sorted(chosen) or [(len(labels) // 2, next(iter(names)))]


def _draw_labels(column: _Column, entries: Sequence[_Entry]) -> Bytes:
    blended = column.picture.astype(np.float64)
    for entry in entries:
        mask = column.masks[entry.value]
        contour = mask & ~ndimage.binary_erosion(mask, iterations=2, border_value=1)
        blended[mask] = (1 - FILL) * blended[mask] + FILL * np.array(entry.color)
        blended[contour] = entry.color
    return np.round(blended).astype(np.uint8)


def _ramp(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The colours of values in 0..1: red, green and blue in 0..255, [..., 3]."""
    stops = np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(values, stops, RAMP[:, channel]) for channel in range(3)], axis=-1)


def _note(statistics: WordStatistics) -> str:
    return _amount(statistics.voxels, statistics.millilitres)


def _amount(voxels: int, millilitres: float | None) -> str:
    if not voxels:
        return "not found"
    return f"{voxels:,} pixels" if millilitres is None else f"{millilitres:,.1f} ml"


def _millilitres(voxels: int, volume: Volume) -> float | None:
    return None if volume.is_picture else voxels * float(np.prod(volume.geometry.spacing)) / 1000


def _short(word: str, length: int) -> str:
    return word if len(word) <= length else word[: length - 1] + "…"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _save(picture: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all; VolumeError when it cannot be written."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise VolumeError(f"{path.name} cannot be written: overlay pictures are PNG or JPEG files.")
    try:
        with replace_file(path, ending=path.suffix) as part:
            picture.save(part)
    except OSError as error:
        raise VolumeError(
            f"{path.name} cannot be written ({error.strerror or error}); choose another folder."
        ) from error
