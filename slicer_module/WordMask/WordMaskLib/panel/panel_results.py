"""The table of results: volumes, probabilities, and a click that goes there."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

from ..client.errors import SegmentsError
from ..flows.messages import millilitres_text
from ..flows.results_table import ResultRow, jump_to
from ..scene.masks import SURFACE
from ..scene.segments import show_3d
from .panel import Panel, Section
from .panel_words import shown_segmentation


class ResultsSection(Section):
    """The table, with one row per word."""

    def __init__(self, panel: Panel) -> None:
        super().__init__(panel)
        self.rows: list[ResultRow] = []
        table = self.ui.resultTable
        titles = [_("Segment"), _("Volume"), _("Probability"), _("Presence")]
        table.setColumnCount(len(titles))
        table.setHorizontalHeaderLabels(titles)
        table.verticalHeader().setVisible(False)
        table.setMinimumHeight(110)
        table.horizontalHeader().setStretchLastSection(False)
        table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for column in range(1, len(titles)):
            table.horizontalHeader().setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        tips = (
            _("The segment as it is now"),
            _("Mean probability within the segment"),
            _("How confident the model is that the structure is in the image"),
        )
        for column, tip in enumerate(tips, start=1):
            table.horizontalHeaderItem(column).setToolTip(tip)
        table.cellClicked.connect(self._on_row)
        self.ui.show3dBox.clicked.connect(self._on_3d)

    def changed(self) -> None:
        """Fill the table again."""
        self.rows = self.session.table(self.panel.volume, shown_segmentation(self.panel))
        table = self.ui.resultTable
        table.setRowCount(len(self.rows))
        for number, row in enumerate(self.rows):
            for column, text in enumerate(_cells(row)):
                item = qt.QTableWidgetItem(text)
                if column == 0 and row.color is not None:
                    item.setIcon(_swatch(row.color))
                if row.segment_id is None:
                    item.setForeground(qt.QBrush(qt.QColor("gray")))
                if column:
                    item.setTextAlignment(
                        int(getattr(qt.Qt.AlignRight, "value", qt.Qt.AlignRight)) | VERTICALLY_CENTRED
                    )
                table.setItem(number, column, item)

    def refresh(self) -> None:
        """Show whether the segmentation is shown in 3-D."""
        segmentation = shown_segmentation(self.panel)
        display = None if segmentation is None else segmentation.GetDisplayNode()
        has_surface = segmentation is not None and segmentation.GetSegmentation().ContainsRepresentation(
            SURFACE
        )
        self.ui.show3dBox.setEnabled(bool(self.rows) and display is not None)
        self.ui.show3dBox.setChecked(bool(display is not None and has_surface and display.GetVisibility3D()))

    def _on_row(self, row: int, *_args: Any) -> None:
        if 0 <= row < len(self.rows) and self.rows[row].largest is not None:
            jump_to(self.rows[row].largest.position)

    def _on_3d(self, *_args: Any) -> None:
        segmentation = shown_segmentation(self.panel)
        if segmentation is None:
            return
        try:
            show_3d(segmentation, self.ui.show3dBox.isChecked())
        except SegmentsError as error:
            self.panel.complain(str(error))
        self.panel.refresh()


VERTICALLY_CENTRED = 128  # Qt.AlignVCenter


def _cells(row: ResultRow) -> tuple[str, str, str, str]:
    presence = "" if row.presence is None else f"{100 * row.presence:.0f} %"
    if row.segment_id is None:
        return _("{name}: not found").format(name=row.word), "", "", presence
    name = _("{name} (edited)").format(name=row.name) if row.edited else row.name
    ml = row.millilitres
    amount = (
        _("{count} px").format(count=row.voxels)
        if ml is None
        else _("{amount} ml").format(amount=millilitres_text(ml))
    )
    probability = "" if row.mean_probability is None else f"{100 * row.mean_probability:.0f} %"
    return name, amount, probability, presence


def _swatch(color: tuple[int, int, int]) -> Any:
    picture = qt.QPixmap(12, 12)
    picture.fill(qt.QColor(*color))
    return qt.QIcon(picture)
