"""Teach the model: start and stop a training, follow its progress, and choose the version in use."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ..client.answers import ModelVersion
from ..client.job_answers import TrainingState
from ..flows.learning import (
    SPECIAL_RECIPES,
    reload_models,
    results_in_scene,
    stop_training,
    train,
    use_version,
    watch_training,
)
from ..flows.messages import time_text
from ..flows.tasks import FlowOutcome, FlowTask
from .panel import FAULT_STYLE, Panel, Section


class TrainingSection(Section):
    """Training and versions of the chosen model."""

    def __init__(self, panel: Panel) -> None:
        super().__init__(panel)
        self._watch: FlowTask | None = None
        self._stopping: FlowTask | None = None
        self._versions: list[ModelVersion] = []
        self._pace = Pace()
        table = self.ui.versionTable
        headers = [_("Version"), _("Date"), _("Learned"), _("Dice")]
        table.setColumnCount(len(headers))
        table.setHorizontalHeaderLabels(headers)
        table.verticalHeader().setVisible(False)
        table.setMinimumHeight(90)
        table.horizontalHeader().setSectionResizeMode(2, qt.QHeaderView.Stretch)
        for column in (0, 1, 3):
            table.horizontalHeader().setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        table.itemSelectionChanged.connect(self._on_selected)
        self.ui.trainButton.clicked.connect(self._on_train)
        self.ui.stopButton.clicked.connect(self._on_stop)
        self.ui.versionButton.clicked.connect(self._on_version)
        for name in ("trainingBar", "trainingLabel"):
            getattr(self.ui, name).setVisible(False)

    @property
    def training(self) -> bool:
        """Whether a training is being followed."""
        return self._watch is not None

    def refresh(self) -> None:
        """Enable *Train* when no training runs, *Stop* when one does."""
        model = self.session.model
        ready = not self.panel.busy and model is not None
        free = ready and not self.training and bool(model.recipes)  # type: ignore[union-attr]
        self.ui.trainButton.setEnabled(free)
        self.ui.recipeBox.setEnabled(free)
        self.ui.stopButton.setEnabled(self.training and self._stopping is None)
        chosen = self._chosen_version()
        self.ui.versionButton.setEnabled(
            ready and not self.training and chosen is not None and not chosen.served
        )

    def connected(self) -> None:
        """Show versions and recipes of the model, and follow a training that is already running."""
        self._fill_versions()
        self._fill_recipes()
        if self._watch is None:
            self._begin_watch()

    def close(self) -> None:
        """Stop following; the training continues on the server."""
        self.panel.drop(self._watch)
        self._watch = None

    def _fill_recipes(self) -> None:
        box, model = self.ui.recipeBox, self.session.model
        titles = {
            "few_shot": _("thorough"),
            "quick": _("quick"),
            "small": _("quick"),
            "paper": _("as published, on a GPU"),
        }
        box.clear()
        for name in model.recipes if model is not None else ():
            if name not in SPECIAL_RECIPES:
                box.addItem(titles.get(name, name), name)

    # --- training ---

    def _on_train(self, *_args: Any) -> None:
        model = self.session.model
        if model is None:
            return
        recipe = str(self.ui.recipeBox.itemData(int(self.ui.recipeBox.property("currentIndex"))))
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        words = str(self.ui.wordsLine.property("text")).strip() if model.learns_words else ""
        self.panel.begin(
            lambda: train(self.session, model.name, results_in_scene(list(volumes)), recipe, words),
            self._on_started,
        )

    def _on_started(self, _nothing: Any) -> None:
        self.panel.say(_("The training has started; you can keep working."))
        self.panel.drop(self._watch)
        self._begin_watch()

    def _begin_watch(self) -> None:
        model = self.session.model
        if model is not None:
            self._pace = Pace()
            self._watch = self.panel.run_in_background(
                watch_training(model.name, self._on_state), self._on_watched
            )

    def _on_state(self, state: TrainingState) -> None:
        if state.state != "running":
            return
        self.ui.trainingBar.setVisible(True)
        self.ui.trainingLabel.setVisible(True)
        self.ui.trainingBar.setRange(0, state.total)
        self.ui.trainingBar.setValue(min(state.done, state.total))
        self.ui.trainingLabel.setStyleSheet("")
        self.ui.trainingLabel.setText(_progress_text(state, self._pace.seconds_left(state)))
        self.panel.refresh()

    def _on_watched(self, outcome: FlowOutcome) -> None:
        self._watch = None
        self.ui.trainingBar.setVisible(False)
        state: TrainingState | None = outcome.value
        if not outcome.ok:
            self._say(outcome.error, fault=True)
        elif state is not None and state.state != "none":
            self._say(_end_text(state), fault=state.state == "failed")
            if state.state == "done":
                self.panel.run_in_background(reload_models(self.session), self._on_looked)
        self.panel.refresh()

    def _on_looked(self, outcome: FlowOutcome) -> None:
        if outcome.ok:
            self._fill_versions()
            self.panel.refresh()

    def _on_stop(self, *_args: Any) -> None:
        self._stopping = self.panel.run_in_background(stop_training(), self._on_stopped)
        self._say(_("Stopping; the model in use stays as it is."))
        self.panel.refresh()

    def _on_stopped(self, outcome: FlowOutcome) -> None:
        self._stopping = None
        if not outcome.ok:
            self._say(outcome.error, fault=True)
        self.panel.refresh()

    def _say(self, text: str, *, fault: bool = False) -> None:
        self.ui.trainingLabel.setStyleSheet(FAULT_STYLE if fault else "")
        self.ui.trainingLabel.setText(text)
        self.ui.trainingLabel.setVisible(bool(text))

    # --- versions ---

    def _fill_versions(self) -> None:
        model = self.session.model
        self._versions = [] if model is None else sorted(model.versions, key=lambda version: -version.number)
        table = self.ui.versionTable
        table.setRowCount(len(self._versions))
        for row, version in enumerate(self._versions):
            for column, text in enumerate(_cells(version)):
                table.setItem(row, column, qt.QTableWidgetItem(text))

    def _chosen_version(self) -> ModelVersion | None:
        row = int(self.ui.versionTable.currentRow())
        return self._versions[row] if 0 <= row < len(self._versions) else None

    def _on_selected(self, *_args: Any) -> None:
        self.panel.refresh()

    def _on_version(self, *_args: Any) -> None:
        version = self._chosen_version()
        if version is not None:
            self.panel.begin(
                lambda: use_version(self.session, self.panel.address(), version.number), self._on_version_used
            )

    def _on_version_used(self, _state: Any) -> None:
        self.panel.connected()
        model = self.session.model
        self.panel.say(
            _("Version {version} is now in use.").format(version=model.version if model is not None else "?")
        )


class Pace:
    """How fast a stage of a training goes.

    The server counts the seconds of the whole training, but its stages are not equally fast.
    """

    def __init__(self) -> None:
        self._last: TrainingState | None = None
        self._begin = (0, 0.0)  # done and seconds when this stage was first heard of

    def seconds_left(self, state: TrainingState) -> float | None:
        """Estimate the rest of the stage; None until some progress was seen."""
        if self._last is None:
            self._begin = (state.done, state.seconds)
        elif self._last.stage != state.stage:
            self._begin = (0, self._last.seconds)
        self._last = state
        done, since = state.done - self._begin[0], state.seconds - self._begin[1]
        return since * (state.total - state.done) / done if done > 0 and since > 0 else None


def _progress_text(state: TrainingState, left: float | None) -> str:
    parts = [state.stage or _("Training")]
    if state.total:
        parts.append(_("{done} of {total}").format(done=state.done, total=state.total))
        if left is not None:
            parts.append(_("about {time} left in this stage").format(time=time_text(left)))
    if state.loss is not None:
        parts.append(_("loss {value}").format(value=f"{state.loss:.3f}"))
    if state.dice is not None:
        before = (
            ""
            if state.dice_before is None
            else _(" ({value} before)").format(value=f"{state.dice_before:.2f}")
        )
        parts.append(_("Dice {value}").format(value=f"{state.dice:.2f}") + before)
    return ", ".join(parts)


def _end_text(state: TrainingState) -> str:
    text = state.message
    if state.dice is not None and state.dice_before is not None:
        text += " " + _("Dice {after}, before {before}.").format(
            after=f"{state.dice:.2f}", before=f"{state.dice_before:.2f}"
        )
    return text.strip()


def _cells(version: ModelVersion) -> tuple[str, str, str, str]:
    number = _("bundled") if version.number == 0 else str(version.number)
    dice = f"{sum(version.dice.values()) / len(version.dice):.2f}" if version.dice else ""
    text = _("{number} (in use)").format(number=number) if version.served else number
    return text, version.date[:16].replace("T", " "), ", ".join(version.words), dice
