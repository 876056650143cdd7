"""The pictures of docs/tutorial.md: the module's own panel, driven as by a person, on a real server with the
bundled model.

    make screenshots

The widgets are stand-ins for Slicer's own where it has some (see `qt_harness`), the views are Slicer's. The
server works on copies of three CTs of the sample data; the fourth one is opened from its file. The training
is a real one, but much shorter than the panel's recipes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests.slicer import harness, qt_harness

harness.install()

import slicer  # noqa: E402
from tests.slicer import views as real_views  # noqa: E402
from tests.slicer.person import click, message, open_panel, until, write  # noqa: E402
from tests.slicer.real_server import MODEL, REPOSITORY, copy_of_app, server_process  # noqa: E402
from tests.slicer.scenes import paint, slicers_mask  # noqa: E402
from tests.slicer.studio import Views, arrange, panel_picture, qt, save_small  # noqa: E402
from WordMaskLib.client import calls  # noqa: E402
from WordMaskLib.server.environments import find_environment  # noqa: E402
from WordMaskLib.server.server_process import free_port, server_command  # noqa: E402

from wordmask.demo.client import AppClient  # noqa: E402

PICTURES = REPOSITORY / "docs" / "images"
SAMPLES = REPOSITORY / "sample_data"
OPENED, ON_SERVER = "ct_chest_abdomen", ("ct_abdomen_pelvis", "ct_chest", "ct_trunk")
WORDS = "liver, spleen, kidney, stomach, spine"
LEARNED = "liver, kidney"
SHORT = {"steps": 60}  # ends by Stop
MINUTES = 300.0
# There is no screen, and stand-ins lack the signals that the .ui names.
NOISE = ("This plugin does not support", "QObject::connect")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make all pictures; 0 when that went well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("-o", "--output", type=Path, default=PICTURES, help="folder for the pictures")
    output = parser.parse_args(arguments).output
    output.mkdir(parents=True, exist_ok=True)
    qt.qInstallMessageHandler(lambda _kind, _where, text: None if text.startswith(NOISE) else print(text))
    qt.QApplication.setFont(qt.QFont("DejaVu Sans", 9))
    signal.signal(signal.SIGTERM, _end)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        server = contextlib.ExitStack()
        stack.callback(server.close)
        session = Session(output, server.enter_context(a_server(folder)))
        stack.callback(session.close)
        session.run()
        server.close()
        session.server_down()
    return 0


def _end(*_: Any) -> None:
    """The server and its training end, too, undisturbed by a second request."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def a_server(folder: Path) -> contextlib.AbstractContextManager[str]:
    """For copies of the app and of three CTs, at the usual port where that is free; its address."""
    app, studies = copy_of_app(folder)
    shutil.rmtree(studies)
    studies.mkdir()
    for name in ON_SERVER:
        shutil.copy(image_of(name), studies)
    port = free_port()
    command = server_command(find_environment(sys.prefix), app, studies, port, conf={"device": "cpu"})
    return server_process(command, port, folder / "log")


def image_of(case: str) -> Path:
    """A study of the sample data."""
    (path,) = (SAMPLES / "studies").glob(f"{case}.*")
    return path


def truth_of(case: str, word: str) -> np.ndarray:
    """Boolean [k, j, i]: where the drawing of a sample study has a word."""
    entries = json.loads((SAMPLES / "index.json").read_text(encoding="utf-8"))["cases"]
    (entry,) = (entry for entry in entries if Path(entry["image"]).name.split(".")[0] == case)
    node = slicer.modules.volumes.logic().AddArchetypeVolume(str(SAMPLES / entry["truth"]), "truth")
    mask = np.isin(slicer.util.arrayFromVolume(node), entry["words"].get(word, []))
    slicer.mrmlScene.RemoveNode(node)
    return mask


@contextlib.contextmanager
def short_trainings() -> Iterator[None]:
    """The panel's own Train button, with a recipe that a picture can wait for."""
    original = calls.start_training
    calls.start_training = lambda model, options=None: original(model, {**(options or {}), **SHORT})
    try:
        yield
    finally:
        calls.start_training = original


class Session:
    """A person at work, who takes pictures on the way."""

    def __init__(self, output: Path, address: str) -> None:
        self._output = output
        self._client = AppClient(address)
        self._widget = open_panel(address, timeout=MINUTES)
        self._ui = self._widget.ui
        self._views = Views()

    def close(self) -> None:
        """As when Slicer ends."""
        self._widget.cleanup()
        qt_harness.close_widgets()
        real_views.close_views()

    def run(self) -> None:
        """In the order of the tutorial."""
        click(self._ui.connectButton)
        self._wait()
        volume = slicer.modules.volumes.logic().AddArchetypeVolume(str(image_of(OPENED)), OPENED)
        self._views.show(volume)
        self._completion()
        self._first_word()
        self._not_found()
        self._several_words()
        self._uncertainty()
        self._correction(volume)
        self._next_case()
        with short_trainings():
            self._training()

    def server_down(self) -> None:
        """With the server stopped."""
        arrange(self._widget, ("serverSection", "wordsSection"))
        click(self._ui.connectButton)
        self._wait()
        self._take("server_down", ("serverSection", "wordsSection"), views=False)

    def _completion(self) -> None:
        arrange(self._widget, ("serverSection", "wordsSection", "resultsSection"))
        write(self._ui.wordsLine, "liver, spl")
        self._take("completion", None, views=False)
        self._ui.wordsLine.completer().popup().hide()

    def _first_word(self) -> None:
        self._ask("liver")
        self._go_to("liver")
        self._take("first_word", ("serverSection", "wordsSection", "resultsSection"))

    def _several_words(self) -> None:
        self._ask(WORDS)
        self._go_to("kidney")
        self._take("several_words", ("wordsSection", "resultsSection"))

    def _not_found(self) -> None:
        self._ask("liver, polyp, gallbladder")
        self._take("not_found", ("wordsSection", "resultsSection"), views=False)
        click(self._ui.undoButton)

    def _uncertainty(self) -> None:
        box = self._ui.overlayWordBox
        box.setCurrentIndex([box.itemText(row) for row in range(box.count())].index("kidney"))
        self._ui.overlaySection.setCollapsed(False)
        click(self._ui.overlayButton)
        self._wait()
        click(self._ui.jumpButton)
        self._ui.opacitySlider.setValue(0.8)
        self._take("uncertainty", ("wordsSection", "resultsSection", "overlaySection"))
        click(self._ui.hideButton)

    def _correction(self, volume: Any) -> None:
        self._correct(volume, OPENED, LEARNED.split(", "))
        self._go_to("kidney")
        self._take("correction", ("resultsSection", "learningSection"))
        self._submit()
        self._take("submitted", ("wordsSection", "resultsSection", "learningSection"), views=False)

    def _next_case(self) -> None:
        write(self._ui.wordsLine, LEARNED)
        self._ui.wordsLine.completer().popup().hide()
        self._score_all()
        for number in range(2):
            volume = self._open_next()
            if number == 0:
                self._go_to("liver")
                click(self._ui.show3dBox)
                self._take("next_case", ("wordsSection", "resultsSection", "learningSection"))
            self._correct(volume, volume.GetName(), LEARNED.split(", "))
            self._submit()

    def _training(self) -> None:
        self._ui.recipeBox.setCurrentIndex(1)
        click(self._ui.trainButton)
        self._wait()
        label = self._ui.trainingLabel
        until(lambda: label.property("text").startswith("training network 1 of 3, 3 of "), MINUTES)
        self._take("training", ("learningSection",), views=False)
        click(self._ui.stopButton)
        until(lambda: not self._ui.trainingBar.isVisible(), MINUTES)

    def _ask(self, words: str) -> None:
        write(self._ui.wordsLine, words)
        self._ui.wordsLine.completer().popup().hide()
        click(self._ui.segmentButton)
        self._wait()
        until(lambda: not words.endswith("gallbladder") or self._ui.hintLabel.isVisible())

    def _wait(self) -> None:
        """Until the panel has done what was asked; nothing here is asked back."""
        until(lambda: not self._widget.panel.busy or self._ui.questionRow.isVisible(), MINUTES)
        assert not self._widget.panel.busy, self._ui.questionLabel.property("text")

    def _go_to(self, word: str) -> None:
        """A click on the row of a word."""
        table = self._ui.resultTable
        row = next(row for row in range(table.rowCount()) if table.item(row, 0).text().split(" (")[0] == word)
        table.selectRow(row)
        table.cellClicked.emit(row, 0)

    def _correct(self, volume: Any, case: str, words: Sequence[str]) -> None:
        """Draw what is there, as a person does in the Segment Editor, and come back to the module."""
        segmentation = next(iter(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[::-1]))
        contents = segmentation.GetSegmentation()
        ids = {
            contents.GetSegment(segment_id).GetName(): segment_id for segment_id in contents.GetSegmentIDs()
        }
        masks = {name: slicers_mask(segmentation, segment_id, volume) for name, segment_id in ids.items()}
        for word in words:
            drawn = truth_of(case, word)
            # The editor's rule: no overlaps.
            masks = {name: drawn if name == word else mask & ~drawn for name, mask in masks.items()}
        for name, segment_id in ids.items():
            if not np.array_equal(masks[name], slicers_mask(segmentation, segment_id, volume)):
                paint(segmentation, segment_id, masks[name], volume)
        self._widget.enter()

    def _submit(self) -> None:
        click(self._ui.submitButton)
        self._wait()
        print(message(self._widget))

    def _score_all(self) -> None:
        """As it is after a while: the server has looked at all of its cases."""
        self._client.start_scoring(MODEL, LEARNED)

        def scored() -> bool:
            found = self._client.next_case("first", words=LEARNED)
            if found["preview"] is not None:
                self._client.cancel(found["preview"]["id"])
            time.sleep(2.0)
            scores = found["scores"]
            return scores["scored"] == scores["unlabelled"] and not scores["refreshing"]

        until(scored, MINUTES)

    def _open_next(self) -> Any:
        click(self._ui.nextButton)
        self._wait()
        volume = self._ui.volumeSelector.currentNode()
        self._views.show(volume)
        return volume

    def _take(self, name: str, sections: Sequence[str] | None, *, views: bool = True) -> None:
        picture = self._views.picture() if views else None
        if sections is not None:
            arrange(self._widget, sections, None if picture is None else picture.shape[0])
        save_small(self._output / f"{name}.png", panel_picture(self._widget), picture)
        print(f"{name}.png: {message(self._widget)}")


if __name__ == "__main__":
    sys.exit(main())
