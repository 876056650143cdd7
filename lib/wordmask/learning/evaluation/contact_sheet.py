"""One picture for each word: its best, median and worst case, with the outlines of truth and result.

Knows volumes, masks and Pillow. A picture is for looking at; the numbers are in the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from wordmask.data.geometry import Slicing, slicing_for
from wordmask.data.slices import choose_plane, to_unit_range
from wordmask.data.volumes import Volume
from wordmask.data.windows import load_windows
from wordmask.errors import VolumeError
from wordmask.learning.cases import LabelledVolume, Mask
from wordmask.words.prompts import Prompt

MOST_WORDS = 8
CELL = (520, 390)  # pixels: (width, height) of a case
# Three cells and the heading are more than `SHEET_ROW` times as wide as high, so each fills a row of the
# sheet.
HEADING, GAP, LINE = 250, 12, 26
TRUTH, MARKED = (86, 180, 233), (255, 149, 0)  # blue and orange: different to every kind of colour vision
TRUTH_LINE, MARKED_LINE = 4, 2  # pixels; where both run together, the wider one still shows
SHEET_WIDTH = 1800  # pixels
SHEET_ROW = 4.0  # squares side by side
INK, PAPER, FAINT = (240, 240, 240), (24, 24, 28), (170, 170, 176)


@dataclass(frozen=True)
class _Kept:
    case: str
    dice: float
    marked: bool
    picture: Path


class ContactSheet:
    """Collects pictures of the cases that show a word, and lays out the best, median and worst at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, list[_Kept]] = {}

    def add(self, case: LabelledVolume, word: str, marked: Mask, dice: float) -> None:
        """Add one word of a case that shows it; words beyond the first `MOST_WORDS` are ignored.

        Args:
            case: image, words and truth.
            word: a word of the case.
            marked: [k, j, i], the result.
            dice: of the result, 0..1.
        """
        if not case.masks[word].any() or (word not in self._kept and len(self._kept) == MOST_WORDS):
            return
        kept = self._kept.setdefault(word, [])
        picture = self._folder / f"{list(self._kept).index(word)}_{len(kept)}.png"
        draw_case(case.volume, case.prompts[word], case.masks[word], marked).save(picture)
        kept.append(_Kept(case.case.name, dice, bool(marked.any()), picture))

    def write(self, path: Path) -> bool:
        """Write the sheet; returns whether there was anything to show.

        Raises:
            VolumeError: the file cannot be written.
        """
        strips = []
        for place, (word, kept) in enumerate(self._kept.items()):
            strips.append(self._folder / f"strip_{place}.png")
            _draw_strip(word, kept).save(strips[-1])
        if not strips:
            return False
        try:
            write_contact_sheet(strips, path)
        except OSError as error:
            raise VolumeError(
                f"{path.name} cannot be written ({error.strerror or error}); choose another folder."
            ) from error
        return True


def draw_case(volume: Volume, prompt: Prompt, truth: Mask, marked: Mask) -> Image.Image:
    """The slice that shows most of the truth, with both outlines, as large as fits into `CELL`.

    Args:
        volume: the image.
        prompt: the word, whose CT window is used.
        truth: [k, j, i].
        marked: [k, j, i], the result.
    """
    slicing = slicing_for(volume.geometry, choose_plane(volume, "auto"))
    stacks = slicing.cut(truth), slicing.cut(marked)
    index = int(np.argmax(np.count_nonzero(stacks[0], axis=(1, 2))))
    window = load_windows()[prompt.window or "soft_tissue"] if volume.modality == "CT" else None
    shown = to_unit_range(volume, slicing.cut(volume.array)[index : index + 1], window)[0]
    size = _screen_size(slicing)
    pixels = Image.fromarray(np.round(np.moveaxis(shown, 0, -1) * 255).astype(np.uint8))
    drawn = np.asarray(pixels.resize(size, Image.Resampling.BICUBIC)).copy()
    for stack, color, width in zip(stacks, (TRUTH, MARKED), (TRUTH_LINE, MARKED_LINE), strict=True):
        drawn[_outline(stack[index], size, width)] = color
    return Image.fromarray(drawn)


def pick(dices: Sequence[float]) -> list[tuple[str, int]]:
    """Best, median and worst with their places; fewer when there are fewer."""
    order = sorted(range(len(dices)), key=lambda place: -dices[place])
    if len(order) < 3:
        return list(zip(("best", "worst") if len(order) == 2 else ("only",), order, strict=False))
    return [("best", order[0]), ("median", order[len(order) // 2]), ("worst", order[-1])]


def _screen_size(slicing: Slicing) -> tuple[int, int]:
    """(width, height), pixels as wide and high as they are in the patient."""
    rows, columns = slicing.in_plane_spacing
    width, height = slicing.cut_shape[2] * columns, slicing.cut_shape[1] * rows
    scale = min(CELL[0] / width, CELL[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _outline(mask: NDArray[np.bool_], size: tuple[int, int], width: int) -> NDArray[np.bool_]:
    large = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)) > 0.5
    return large & ~ndimage.binary_erosion(large, iterations=width, border_value=1)


def _draw_strip(word: str, kept: Sequence[_Kept]) -> Image.Image:
    """One row of the sheet: the word and what the colours mean, then its cases."""
    page = Image.new("RGB", (HEADING + 3 * (CELL[0] + GAP), GAP + LINE + CELL[1] + GAP), PAPER)
    pen = ImageDraw.Draw(page)
    for line, (text, color) in enumerate(
        [
            (_shorten(word, 22), INK),
            (f"{len(kept)} case{'s' if len(kept) > 1 else ''}", FAINT),
            ("truth", TRUTH),
            ("marked", MARKED),
        ]
    ):
        pen.text((GAP, GAP + LINE * line), text, color, font=ImageFont.load_default(20 if line == 0 else 17))
    for column, (rank, place) in enumerate(pick([entry.dice for entry in kept])):
        left = HEADING + column * (CELL[0] + GAP)
        entry = kept[place]
        result = f"Dice {entry.dice:.3f}" if entry.marked else "nothing marked"
        pen.text(
            (left, GAP), f"{rank}, {result}: {_shorten(entry.case, 34)}", INK, font=ImageFont.load_default(17)
        )
        with Image.open(entry.picture) as picture:
            page.paste(picture, (left + (CELL[0] - picture.width) // 2, GAP + LINE))
    return page


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def write_contact_sheet(pictures: Sequence[Path], path: Path) -> None:
    """All pictures on one white sheet, in rows from left to right, each scaled to fill its row's height."""
    tiles = [Image.open(picture).convert("RGB") for picture in pictures]
    rows = _rows(tiles)
    placed, top = [], GAP
    for row in rows:
        height = round(
            (SHEET_WIDTH - GAP * (len(row) + 1))
            / max(SHEET_ROW, sum(tile.width / tile.height for tile in row))
        )
        left = GAP
        for tile in row:
            scaled = tile.resize((round(tile.width * height / tile.height), height), Image.Resampling.LANCZOS)
            placed.append((scaled, (left, top)))
            left += scaled.width + GAP
        top += height + GAP
    sheet = Image.new("RGB", (SHEET_WIDTH, top), "white")
    for tile, corner in placed:
        sheet.paste(tile, corner)
    sheet.save(path)


def _rows(tiles: Sequence[Image.Image]) -> list[list[Image.Image]]:
    """Consecutive tiles in rows whose shapes add up to at least `SHEET_ROW` squares."""
    rows: list[list[Image.Image]] = []
    for tile in tiles:
        if not rows or sum(other.width / other.height for other in rows[-1]) >= SHEET_ROW:
            rows.append([])
        rows[-1].append(tile)
    return rows
