"""What scripted servers answer the panel with, and how a panel is after a fault: helpers of Widget tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tests.slicer.fault_server import (
    MULTIPART,
    Script,
    fault_server,
    hangs_up,
    is_a_sentence,
    job_status,
    result_body,
    says,
    says_json,
    sends,
)
from tests.slicer.person import click, message, open_panel, routes, table, until_done, write
from tests.slicer.scenes import SHAPE, affine, box, labels_of, scene_state, write_file

ENOUGH = {
    "statistics": {
        "liver": {
            "presence": 0.9,
            "voxels": 12,
            "millilitres": 0.1,
            "mean_probability": 0.8,
            "largest_slice": 1,
        }
    }
}
NO_IMAGES = says_json({"objects": {}})
FAULTS: dict[str, Script] = {
    "500": says("x", "500 Internal Server Error"),
    "garbage": sends(b"\x00\xffwhat\r\n\r\n"),
    "hangs up": hangs_up,
}


def an_answer(folder: Path, mask: np.ndarray, matrix: np.ndarray | None = None, **params: Any) -> Script:
    """A server's answer with this mask as the liver."""
    path = write_file(folder / "answer.nii.gz", labels_of([mask]), affine() if matrix is None else matrix)
    fields = {
        "label_names": {"liver": 1},
        "not_found": [],
        "plane": "axial",
        "model": "m",
        "version": "1",
        **ENOUGH,
        **params,
    }
    body = result_body(path.read_bytes(), name="x.nii.gz", params=fields)
    return says(body, Content_Type=MULTIPART)


def a_good_server(folder: Path, **changed: Script) -> Script:
    """A server that finds the liver; `changed`: what it does instead, per route."""
    good = {
        "start": says_json(job_status(), "202 Accepted"),
        "job": says_json(job_status("done", done=10)),
        "result": an_answer(folder, box(SHAPE, (2, 5), (2, 6), (3, 7))),
        "cancel": says_json(job_status("cancelled")),
    }  # fmt: skip
    return routes(**{**good, **changed})


def an_image(folder: Path, shape: tuple[int, int, int] = SHAPE) -> Script:
    """The image of a case."""
    path = write_file(
        folder / "case.nii.gz",
        np.random.default_rng(2).integers(-1000, 900, shape).astype(np.int16),
        affine(),
    )
    return says(
        path.read_bytes(),
        Content_Type="application/octet-stream",
        Content_Disposition='attachment; filename="case.nii.gz"',
    )


def a_next(**changed: Any) -> Script:
    """The next case; `changed`: fields with another value."""
    return says_json(
        {
            "case": "case",
            "strategy": "hybrid",
            "reason": "It is unlike the others.",
            "score": {},
            "scores": {},
            **changed,
        }
    )


def connected_panel(url: str, **options: Any) -> Any:
    """Open, and connected to a scripted server."""
    widget = open_panel(url, **options)
    click(widget.ui.connectButton)
    until_done(widget)
    assert message(widget) == "The server is ready."
    return widget


def segment_with(script: Script, scene: Any, *, timeout: float = 20.0) -> tuple[Any, Any]:
    """Ask a server for the liver; the panel afterwards, and the server."""
    with fault_server(script) as server:
        widget = open_panel(server.url, timeout=timeout)
        widget.ui.segmentationSelector.setCurrentNode(scene[1])
        write(widget.ui.wordsLine, "liver")
        click(widget.ui.segmentButton)
        until_done(widget)
    return widget, server


def check_untouched(widget: Any, volume: Any, before: Any, temporary_files: Path) -> None:
    """One sentence, nothing changed, nothing left, and everything can be tried again."""
    assert is_a_sentence(ValueError(message(widget))), message(widget)
    assert scene_state(volume) == before
    assert list(temporary_files.iterdir()) == []
    assert widget.ui.segmentButton.isEnabled()
    assert not widget.ui.progressRow.isVisible()
    assert not widget.ui.undoButton.isEnabled()
    assert table(widget) == []
