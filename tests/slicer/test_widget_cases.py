"""What the panel does with what is there already when it opens the next case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
from tests.slicer.fault_server import fault_server, says_json
from tests.slicer.person import click, open_panel, routes, until_done
from tests.slicer.person import panels_are_closed as panels_are_closed
from tests.slicer.scenes import add_segmentation, add_volume, affine, box, write_file
from WordMaskLib.flows.cases import mark_case
from WordMaskLib.scene.segments import import_labels
from WordMaskLib.scene.terminology import Word

SHAPE = (6, 7, 8)


def test_results_of_other_volumes_are_hidden_and_those_of_the_next_case_shown(tmp_path: Path) -> None:
    volumes = [add_volume(np.zeros(SHAPE, np.int16), affine(), name) for name in ("first", "second")]
    path = write_file(
        tmp_path / "answer.nii.gz", box(SHAPE, (0, 3), (0, 4), (0, 4)).astype(np.uint8), affine()
    )
    results = [import_labels(path, [Word("liver", 1)], volume).segmentation for volume in volumes]
    mine = add_segmentation(volumes[0], {"mine": box(SHAPE, (1, 2), (1, 2), (1, 2))})

    def shown() -> list[bool]:
        return [bool(segmentation.GetDisplayNode().GetVisibility()) for segmentation in (*results, mine)]

    found: dict[str, Any] = {
        "case": "second",
        "strategy": "first",
        "reason": "It is the first one.",
        "score": {},
        "scores": {},
    }
    with fault_server(routes(next=says_json(found))) as server:
        widget = open_panel(server.url)
        for volume in volumes:
            mark_case(volume, volume.GetName(), widget.panel.address())
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        click(widget.ui.nextButton)
        until_done(widget)
        assert widget.panel.volume is volumes[1]
        assert shown() == [False, True, True]
        assert (
            results[0].GetDisplayNode().GetSegmentVisibility(results[0].GetSegmentation().GetNthSegmentID(0))
        ), "hidden as a whole"
        assert slicer.mrmlScene.GetNumberOfNodes() == nodes
