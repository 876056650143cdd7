"""The Logic on real MRML and a real server, without Qt; the same round trip as a command; flows and tasks by
themselves.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from tests.slicer import harness
from tests.slicer.fault_server import a_closed_port, fault_server, hangs_up, is_a_sentence, says
from tests.slicer.real_server import CT, REPOSITORY, Running
from tests.slicer.scenes import (
    add_segmentation,
    add_volume,
    affine,
    box,
    scene_state,
    segment_state,
    slicers_mask,
)
from WordMaskLib.__main__ import main
from WordMaskLib.client import calls, errors
from WordMaskLib.client.client import WordMaskClient
from WordMaskLib.flows.flows import Flow, Pause, Question, Report, run_waiting
from WordMaskLib.flows.tasks import FlowOutcome, FlowTask

module = harness.load_module(harness.MODULE_FOLDER / "WordMask.py")
STUDY = REPOSITORY / "sample_data" / "studies" / f"{CT}.nii.gz"


@pytest.fixture
def a_ct() -> Any:
    return slicer.modules.volumes.logic().AddArchetypeVolume(str(STUDY), "CT")


# --- the Logic ---


@pytest.mark.server
def test_the_logic_segments_an_open_volume_as_the_server_does(
    a_ct: Any, server: Running, tmp_path: Path
) -> None:
    logic = module.WordMaskLogic()
    mine = add_segmentation(
        a_ct, {"mine": box(slicer.util.arrayFromVolume(a_ct).shape, (3, 30), (20, 120), (20, 120))}
    )
    before = segment_state(mine, a_ct)
    done = logic.segmentAndWait(server.client, a_ct, "spleen, liver, gallbladder", mine)
    assert list(done.imported.ids) == ["spleen", "liver"]
    assert done.imported.not_found == ("gallbladder",)
    job = server.ask(calls.start_job(logic.session.model.name, ["spleen", "liver"], image=CT))
    server.finish(job)
    judge = sitk.GetArrayFromImage(sitk.ReadImage(server.ask(calls.job_result(job.id, tmp_path)).path))
    for value, word in enumerate(("spleen", "liver"), start=1):
        assert np.array_equal(slicers_mask(mine, done.imported.ids[word], a_ct), judge == value)
    after = segment_state(mine, a_ct)
    assert {key: after[key] for key in before} == before
    assert logic.undo() == ("spleen", "liver")
    assert segment_state(mine, a_ct) == before


@pytest.mark.parametrize(
    "script", [says("x", "500 Internal Server Error"), hangs_up], ids=["500", "hangs up"]
)
def test_the_logic_changes_nothing_when_the_server_fails(script: Any) -> None:
    volume = add_volume(np.zeros((4, 5, 6), np.int16), affine())
    before = scene_state(volume)
    with fault_server(script) as server, pytest.raises(errors.ClientError) as found:
        module.WordMaskLogic().segmentAndWait(WordMaskClient(server.url), volume, "liver")
    assert is_a_sentence(found.value)
    assert scene_state(volume) == before


def test_the_logic_is_used_without_qt() -> None:
    code = (
        "import sys; sys.path.insert(0, '.');"
        "from tests.slicer import harness;"
        "logic = harness.load_module(harness.MODULE_FOLDER / 'WordMask.py').WordMaskLogic();"
        "logic.segment('http://127.0.0.1', None, 'liver');"
        "print(sorted(name for name in sys.modules if name in ('qt', 'ctk') or name.startswith('PySide')))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.stdout.strip() == "[]", ran.stderr


def test_the_modules_own_self_test_passes() -> None:
    module.WordMaskTest().runTest()


# --- the same as a command ---


@pytest.mark.server
def test_the_command_writes_a_segmentation_with_names_and_colours(server: Running, tmp_path: Path) -> None:
    arguments = (
        str(STUDY),
        "liver, gallbladder",
        "-o",
        str(tmp_path / "result.seg.nrrd"),
        "--server",
        server.url,
    )
    ran = subprocess.run(
        [sys.executable, "-m", "WordMaskLib", *arguments],
        cwd=harness.MODULE_FOLDER,
        env={**os.environ, "WORDMASK_TOKEN": server.token},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("liver ")
    assert "Not found: gallbladder." in ran.stdout
    image = sitk.ReadImage(tmp_path / "result.seg.nrrd")
    assert image.GetMetaData("Segment0_Name") == "liver"
    assert "Liver" in image.GetMetaData("Segment0_Tags")
    assert sitk.GetArrayFromImage(image).any()


def test_the_command_says_one_sentence_when_something_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.nii.gz").write_text("no image")
    down = f"127.0.0.1:{a_closed_port()}"
    for arguments, said in (
        ((str(STUDY), "liver", "-o", str(tmp_path / "x.seg.nrrd"), "--server", down), "No server at"),
        ((str(tmp_path / "gone.nii.gz"), "liver"), "There is no file gone.nii.gz."),
        ((str(tmp_path / "bad.nii.gz"), "liver"), "cannot be read by Slicer"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.nii.gz"]


# --- flows and tasks ---


class Line:
    """A transport and a clock in the hands of the test."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, Callable[[Any], None], Callable[[Exception], None]]] = []
        self.aborted = 0
        self.waiting: list[Callable[[], None]] = []

    def send(self, call: Any, done: Any, failed: Any, progress: Any = None) -> Line:
        self.sent.append((call, done, failed))
        return self

    def abort(self) -> None:
        self.aborted += 1

    def later(self, seconds: float, step: Callable[[], None]) -> None:
        self.waiting.append(step)

    def tick(self) -> None:
        waiting, self.waiting = self.waiting, []
        for step in waiting:
            step()


def a_flow(log: list[str], *, can_cancel: bool = True) -> Flow[str]:
    try:
        yield Report("one", can_cancel=can_cancel)
        answer = yield calls.health()
        log.append(f"got {answer}")
        yield Pause(1)
        agreed = yield Question("sure")
        log.append(f"agreed {agreed}")
        return "end"
    except errors.TransferCancelledError:
        log.append("cancelled")
        yield calls.cancel_job("1")
        raise
    finally:
        log.append("left")


def test_a_task_goes_from_step_to_step_and_tells_its_end_once() -> None:
    line, log, ends, asked = Line(), [], [], []
    task = FlowTask(
        a_flow(log),
        line,
        line.later,
        end=ends.append,
        ask=lambda question, answer: asked.append((question, answer)),
    ).start()
    assert log == [] == line.sent, "it begins at the next turn"
    line.tick()
    line.sent[0][1]("health")
    line.sent[0][1]("twice")
    line.tick()
    asked[0][1](True)
    assert log == ["got health", "agreed True", "left"]
    assert ends == [FlowOutcome("end")]
    assert not task.is_running
    assert not task.cancel()


def test_a_cancelled_task_tells_so_at_once_and_then_tidies_up() -> None:
    line, log, ends = Line(), [], []
    task = FlowTask(a_flow(log), line, line.later, end=ends.append).start()
    line.tick()
    assert task.cancel()
    assert (line.aborted, ends[0].cancelled, log) == (1, True, ["cancelled"])
    line.sent[0][1]("too late")
    assert line.sent[1][0].method == "DELETE"
    line.sent[1][2](errors.ServerUnreachableError("Gone."))
    assert log == ["cancelled", "left"]
    assert len(ends) == 1


def test_a_task_that_changes_the_scene_cannot_be_cancelled_any_more() -> None:
    line, log, ends = Line(), [], []
    task = FlowTask(a_flow(log, can_cancel=False), line, line.later, end=ends.append).start()
    line.tick()
    assert not task.cancel()
    line.sent[0][1]("health")
    assert log == ["got health"]


def test_an_error_and_a_defect_are_sentences(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Flow[None]:
        yield Pause()
        raise KeyError("secret")

    for flow, answer in ((a_flow([]), errors.ClientError("No.")), (broken(), None)):
        line, ends = Line(), []
        FlowTask(flow, line, line.later, end=ends.append).start()
        line.tick()
        if answer is not None:
            line.sent[0][2](answer)
            assert ends[0].error == "No."
        else:
            line.tick()
            assert "KeyError" in ends[0].error
            assert "secret" not in ends[0].error
            assert "secret" in caplog.text


def test_control_c_stops_a_waiting_flow_as_its_button_does() -> None:
    class Client:
        asked: list[str] = []  # noqa: RUF012 - one test's

        def run(self, call: Any) -> Any:
            self.asked.append(call.method)
            if call.method == "GET":
                raise KeyboardInterrupt
            return None

    log: list[str] = []
    with pytest.raises(errors.TransferCancelledError):
        run_waiting(a_flow(log), Client())  # type: ignore[arg-type]
    assert Client.asked == ["GET", "DELETE"]
    assert log == ["cancelled", "left"]
