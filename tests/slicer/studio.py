"""A stage for pictures: the module's panel beside four real views, laid out as in Slicer, and PNG files small
enough for a document.

The panel is grabbed from Qt, the views from VTK. A list that drops from a line is a window of its own: it is
painted where it is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from PIL import Image
from tests.slicer.qt_harness import install_qt
from tests.slicer.views import Picture, SliceView, ThreeDView

qt = install_qt()

PANEL_WIDTH = 440
VIEW_SIZE = (350, 383)
BAR = 6  # pixels of colour above a view, as Slicer has them
GAP = 3
SLATE = (38, 38, 42)
BARS = {"Red": (244, 117, 93), "1": (116, 116, 186), "Green": (114, 179, 102), "Yellow": (237, 213, 76)}
SECTIONS = (
    "serverSection",
    "localSection",
    "wordsSection",
    "resultsSection",
    "overlaySection",
    "learningSection",
)
# Of a palette, in which a file has half its size. Two palettes, so that the many greys of a CT leave the
# table's squares their colours.
PANEL_COLORS, VIEW_COLORS = 64, 192


class Views:
    """Axial, 3-D, coronal and sagittal, two by two."""

    def __init__(self) -> None:
        self.slices = {
            name: SliceView(name, orientation, VIEW_SIZE)
            for name, orientation in (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal"))
        }
        self.solid = ThreeDView("1", VIEW_SIZE)

    def show(self, volume: Any) -> None:
        """Fit a volume into the slice views, with a window for soft tissue."""
        display = volume.GetScalarVolumeDisplayNode()
        display.AutoWindowLevelOff()
        display.SetWindowLevel(400, 40)
        for view in self.slices.values():
            view.show(volume)

    def picture(self) -> Picture:
        """All four, each below its bar."""
        pictures = {**{name: view.picture() for name, view in self.slices.items()}, "1": self.solid.picture()}
        framed = {
            name: np.vstack([_filled((BAR, VIEW_SIZE[0]), BARS[name]), pictures[name]]) for name in BARS
        }
        return _stack([_row([framed["Red"], framed["1"]]), _row([framed["Green"], framed["Yellow"]])])


def arrange(widget: Any, opened: Sequence[str], height: int | None = None) -> None:
    """Open these sections of the panel and collapse the others.

    height: of the panel; None: as much as they need.
    """
    for name in SECTIONS:
        section = getattr(widget.ui, name)
        section.setCollapsed(name not in opened)
        section.setTitle(f"{'▾' if name in opened else '▸'} {section.property('text')}")
    widget.panel.refresh()
    for _turn in range(3):  # lines that wrap are measured when they have their width
        slicer.app.processEvents()
        panel = widget.parent
        needed = panel.layout().totalMinimumHeightForWidth(PANEL_WIDTH)
        panel.resize(PANEL_WIDTH, needed if height is None else max(height, needed))


def panel_picture(widget: Any) -> Picture:
    """The panel as it is now, with the list of words over it where that is open."""
    slicer.app.processEvents()
    panel = widget.parent
    pixels = panel.grab()
    completer = widget.ui.wordsLine.completer()
    popup = None if completer is None else completer.popup()
    if popup is not None and popup.isVisible():
        place = popup.mapToGlobal(qt.QPoint(0, 0)) - panel.mapToGlobal(qt.QPoint(0, 0))
        painter = qt.QPainter(pixels)
        painter.drawPixmap(place, popup.grab())
        painter.end()
    image = pixels.toImage().convertToFormat(qt.QImage.Format.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()


def save_small(path: Path, panel: Picture, views: Picture | None = None) -> None:
    """Write a PNG: the panel, at the left of the views where there are any, as in Slicer."""
    if views is None:
        colors = _with_palette(panel, PANEL_COLORS + VIEW_COLORS, Image.Quantize.MAXCOVERAGE)
        colors.save(path, optimize=True)
        return
    framed = _row([_filled((panel.shape[0], 0), SLATE), views])
    left = _with_palette(panel, PANEL_COLORS, Image.Quantize.MAXCOVERAGE)
    right = _with_palette(framed, VIEW_COLORS, Image.Quantize.MEDIANCUT)
    both = Image.fromarray(
        np.hstack([np.asarray(left), np.asarray(right) + PANEL_COLORS]).astype(np.uint8), "P"
    )
    both.putpalette(_palette(left, PANEL_COLORS) + _palette(right, VIEW_COLORS))
    both.save(path, optimize=True)


def _with_palette(picture: Picture, colors: int, method: Image.Quantize) -> Image.Image:
    return Image.fromarray(picture).quantize(colors, method=method, kmeans=2, dither=Image.Dither.NONE)


def _palette(image: Image.Image, colors: int) -> list[int]:
    found = list(image.getpalette() or [])[: 3 * colors]
    return found + [0] * (3 * colors - len(found))


def _row(pictures: Sequence[Picture]) -> Picture:
    height = max(picture.shape[0] for picture in pictures)
    parts: list[Picture] = []
    for picture in pictures:
        below = _filled((height - picture.shape[0], picture.shape[1]), SLATE)
        parts += [np.vstack([picture, below]), _filled((height, GAP), SLATE)]
    return np.hstack(parts[:-1])


def _stack(pictures: Sequence[Picture]) -> Picture:
    gap = _filled((GAP, pictures[0].shape[1]), SLATE)
    return np.vstack([pictures[0], *(part for picture in pictures[1:] for part in (gap, picture))])


def _filled(shape: tuple[int, int], color: tuple[int, int, int]) -> Picture:
    return np.broadcast_to(np.array(color, np.uint8), (*shape, 3)).copy()
