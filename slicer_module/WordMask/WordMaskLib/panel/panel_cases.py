"""Submit corrections, and open the next case."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from ..client.errors import AddressError
from ..flows.cases import case_of
from ..flows.learning import STRATEGIES, Opened, Submitted, next_case, results_in_scene, submit
from .panel import Panel, Section
from .panel_words import shown_segmentation


class CasesSection(Section):
    """Buttons for submitting and for the next case."""

    def __init__(self, panel: Panel) -> None:
        super().__init__(panel)
        titles = {
            "hybrid": _("unsure and unusual"),
            "uncertainty": _("least sure"),
            "diversity": _("most unusual"),
            "random": _("by chance"),
            "first": _("by name"),
        }
        for name in STRATEGIES:
            self.ui.strategyBox.addItem(titles[name], name)
        self.ui.submitButton.clicked.connect(self._on_submit)
        self.ui.nextButton.clicked.connect(self._on_next)
        self.ui.caseLabel.setVisible(False)

    def refresh(self) -> None:
        """Enable *Submit* if there is something to submit, and name the words that were not found."""
        free = not self.panel.busy
        segmentation = shown_segmentation(self.panel)
        something = segmentation is not None and segmentation.GetSegmentation().GetNumberOfSegments() > 0
        self.ui.submitButton.setEnabled(free and something)
        missing = self.session.results_of(self.panel.volume).not_found
        self.ui.absentBox.setEnabled(free and bool(missing))
        names = ", ".join(missing)
        self.ui.absentBox.setText(
            _("{names}: not in this image at all").format(names=names)
            if missing
            else _("Not found: really absent")
        )
        for name in ("nextButton", "strategyBox"):
            getattr(self.ui, name).setEnabled(free)

    def changed(self) -> None:
        """Untick the box for absent words, because the next image may contain them."""
        self.ui.absentBox.setChecked(False)

    def _on_submit(self, *_args: Any) -> None:
        volume, segmentation = self.panel.volume, shown_segmentation(self.panel)
        absent = self.session.results_of(volume).not_found if self.ui.absentBox.isChecked() else ()
        self.panel.begin(
            lambda: submit(self.session, self.panel.address(), volume, segmentation, absent=absent),
            self._on_submitted,
        )

    def _on_submitted(self, done: Submitted) -> None:
        text = _("Submitted: {names}.").format(names=", ".join(done.words))
        if done.absent:
            text += " " + _("Absent: {names}.").format(names=", ".join(done.absent))
        self.panel.say(
            text
            + " "
            + (
                _("It is stored beside another person's final label map, from which the model learns.")
                if done.beside
                else _("The model will learn from this label map in the next training.")
            )
        )

    def _on_next(self, *_args: Any) -> None:
        strategy = str(self.ui.strategyBox.itemData(int(self.ui.strategyBox.property("currentIndex"))))
        try:
            open_now = (
                case_of(self.panel.volume, self.panel.address()) if self.panel.volume is not None else ""
            )
        except AddressError:
            open_now = ""
        words = self.ui.wordsLine.property("text").strip()
        skip = [open_now] if open_now else []
        known = self.session.server

        def done(opened: Opened) -> None:
            if self.session.server is not known:
                self.panel.connected()
            self._on_opened(opened)

        self.panel.begin(
            lambda: next_case(self.session, self.panel.address(), strategy, words=words, skip=skip), done
        )

    def _on_opened(self, opened: Opened) -> None:
        reason = opened.next.reason
        self.ui.caseLabel.setVisible(True)
        if opened.volume is None:
            self.ui.caseLabel.setText(reason)
            self.panel.say(_("There is no case to open at the moment."))
            return
        self.ui.caseLabel.setText(_("{case}: {reason}").format(case=opened.next.case, reason=reason))
        self.ui.segmentationSelector.setCurrentNode(None)
        self.ui.volumeSelector.setCurrentNode(opened.volume)
        self._show_results_of(opened.volume)
        self.panel.changed()
        if opened.previewed:
            self.panel.say(_("Correct the segments in the Segment Editor, then submit them."))
        else:
            self.panel.say(" ".join([_("The case is open."), opened.message]).strip())

    def _show_results_of(self, volume: Any) -> None:
        """Hide the results of other volumes: Slicer draws every segmentation in every view, even of another
        patient.
        """
        for segmentation, owner in results_in_scene(
            list(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))
        ):
            display = segmentation.GetDisplayNode()
            if display is not None:
                display.SetVisibility(owner is volume)
