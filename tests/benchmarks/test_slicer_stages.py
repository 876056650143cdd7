"""What the Slicer module costs a person on a CT of 512 x 512 x 300.

Seconds of each stage, and how long the window does not answer.

The panel is driven under PySide6 against a server that answers at once, so what is measured is the module's
and Slicer's own. The server
has a process of its own: in this one, its thread and Qt's slots would wait for each other.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
from tests.slicer import harness

harness.install()

from tests.slicer import qt_harness  # noqa: E402  needs the harness
from tests.slicer.fault_server import (  # noqa: E402
    MULTIPART,
    Script,
    fault_server,
    job_status,
    result_body,
    says,
    says_json,
)
from tests.slicer.person import click, message, open_panel, routes, write  # noqa: E402
from tests.slicer.scenes import add_volume, affine, write_file  # noqa: E402

SHAPE = (300, 512, 512)
WORDS = ("liver", "spleen", "left kidney")
ORGANS = (
    ((150, 250, 180), (70, 120, 100)),
    ((160, 280, 380), (30, 40, 40)),
    ((110, 300, 330), (30, 30, 25)),
)  # centres, radii
TICK = 2  # ms
FROZEN = 0.2  # s without an answer that a person notices
SLICERS_OWN = {  # thin wrappers of one call of Slicer's each, whose time is not ours
    "scene.export._write_volume": "vtkMRMLStorageNode.WriteData",
    "scene.image_reading._read": "vtkMRMLStorageNode.ReadData",
    "scene.segments._convert": "vtkSlicerSegmentationsModuleLogic.CreateRepresentationForOneSegment",
    "flows.segmenting.show_3d": "vtkMRMLSegmentationNode.CreateClosedSurfaceRepresentation",
}

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]


class SlicersCalls:
    """seconds: spent in calls of Slicer's; longest: of one call, by its name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seconds, self.longest = 0.0, dict.fromkeys(SLICERS_OWN.values(), 0.0)
        for place, call in SLICERS_OWN.items():
            patch.setattr(f"WordMaskLib.{place}", self._timed(resolve_name(f"WordMaskLib.{place}"), call))

    def _timed(self, wrapped: Callable[..., Any], call: str) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            found = wrapped(*arguments)
            took = time.perf_counter() - began
            self.seconds, self.longest[call] = self.seconds + took, max(self.longest[call], took)
            return found

        return timed


class Stages:
    """seconds: of every stage; silent.

    Of the longest time within it in which the event loop had no turn; ours: without Slicer's calls.
    """

    def __init__(self, panel: Any, slicers: SlicersCalls) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.silent: dict[str, float] = defaultdict(float)
        self.ours: dict[str, float] = defaultdict(float)
        self._slicers, self._slicers_before = slicers, slicers.seconds
        self._stage, self._since = "", time.perf_counter()
        self._turn = self._since
        self._panel, self._show, self._end = panel, panel._on_report, panel._on_end
        panel._on_report, panel._on_end = self._on_report, self._on_end
        qt = qt_harness.install_qt()
        self._timer = qt.QTimer(qt.QCoreApplication.instance())
        self._timer.timeout.connect(lambda *_: self.look())
        self._timer.start(TICK)

    def look(self) -> None:
        """The event loop has a turn."""
        now = time.perf_counter()
        silent = now - self._turn
        self.silent[self._stage] = max(self.silent[self._stage], silent)
        self.ours[self._stage] = max(
            self.ours[self._stage], silent - (self._slicers.seconds - self._slicers_before)
        )
        self._turn, self._slicers_before = now, self._slicers.seconds

    def close(self) -> None:
        """The last stage ends."""
        self._go_on("")
        self._timer.stop()
        self._timer.deleteLater()
        self._panel._on_report, self._panel._on_end = self._show, self._end

    def _go_on(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[self._stage] += now - self._since
        self.look()
        self._stage, self._since = stage, now

    def _on_report(self, report: Any) -> None:
        if report.stage != self._stage:
            self._go_on(report.stage)
        self._show(report)

    def _on_end(self, outcome: Any, done: Any) -> None:
        self._go_on("table")
        self._end(outcome, done)


@pytest.fixture
def a_ct() -> Iterator[Any]:
    """300 slices of noise, 157 MB."""
    harness.clear_scene()
    yield add_volume(np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16), affine(), "CT")
    qt_harness.close_widgets()
    harness.clear_scene()


def an_instant_server(folder: Path) -> Script:
    """Answers with three ellipsoids as large as organs."""
    grid = np.ogrid[tuple(slice(count) for count in SHAPE)]
    labels = np.zeros(SHAPE, np.uint8)
    for value, (centre, radii) in enumerate(ORGANS, start=1):
        labels[
            sum(
                ((axis - middle) / radius) ** 2
                for axis, middle, radius in zip(grid, centre, radii, strict=True)
            )
            < 1
        ] = value
    path = write_file(folder / "answer.nii.gz", labels, affine())
    names = {word: value for value, word in enumerate(WORDS, start=1)}
    fields = {
        "label_names": names,
        "not_found": [],
        "plane": "axial",
        "model": "m",
        "version": "1",
        "statistics": {},
        "warnings": [],
    }
    result = says(result_body(path.read_bytes(), name="x.nii.gz", params=fields), Content_Type=MULTIPART)
    return routes(
        start=says_json(job_status(), "202 Accepted"),
        job=says_json(job_status("done", done=10)),
        result=result,
    )


def serve(folder: Path, connection: Connection) -> None:
    """Until the other end says something."""
    with fault_server(an_instant_server(folder)) as server:
        connection.send(server.url)
        connection.recv()


def ask(widget: Any, slicers: SlicersCalls) -> Stages:
    stages = Stages(widget.panel, slicers)
    click(widget.ui.segmentButton)
    qt = qt_harness.install_qt()
    loop = (
        qt.QEventLoop()
    )  # Qt's own, as in Slicer: turning it by hand would send one piece of the upload per turn
    over = qt.QTimer(loop)
    over.timeout.connect(lambda *_: None if widget.panel.busy else loop.quit())
    over.start(50)
    loop.exec()
    stages.close()
    loop.deleteLater()
    assert message(widget).startswith("Found: liver ("), message(widget)
    return stages


def test_no_stage_of_ours_freezes_the_window(a_ct, tmp_path, monkeypatch, capsys):
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(tmp_path, there))
    server.start()
    widget = open_panel(here.recv())
    write(widget.ui.wordsLine, ", ".join(WORDS))
    slicers = SlicersCalls(monkeypatch)
    first, again = ask(widget, slicers), ask(widget, slicers)
    widget.cleanup()
    here.send("enough")
    server.join()
    with capsys.disabled():
        print(
            f"\nCT of {SHAPE[2]} x {SHAPE[1]} x {SHAPE[0]}, {2 * np.prod(SHAPE) / 1e6:.0f} MB, {len(WORDS)} "
            "words, seconds:"
        )
        print(
            "| stage | first time | longest silence | of it ours | again | longest silence | of it ours "
            "|\n|---|---|---|---|---|---|---|"
        )
        for stage in [stage for stage in first.seconds if stage]:
            cells = [
                figures[stage]
                for stages in (first, again)
                for figures in (stages.seconds, stages.silent, stages.ours)
            ]
            print(f"| {stage} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
        print(
            "Longest calls of Slicer's: "
            + ", ".join(f"{call} {seconds:.2f}" for call, seconds in slicers.longest.items())
        )
    frozen = [
        (stage, seconds)
        for stages in (first, again)
        for stage, seconds in stages.ours.items()
        if stage and seconds > FROZEN
    ]
    assert not frozen
