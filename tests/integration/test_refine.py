"""A click on a mask over HTTP: the slices that change come back, in their place, before all other jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from numpy.testing import assert_allclose, assert_array_equal
from tests.support.servers import SAMPLES, eventually

from wordmask.data.volumes import read_volume
from wordmask.demo.client import parse_answer
from wordmask.inference.hints import VoxelHints
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.refining import Refiner
from wordmask.models.loading import load_segmenter

pytestmark = pytest.mark.server
MODEL, CT, WORD = "medclip_samv2", "ct_chest_abdomen", "liver"


def ask(server: Any, **params: Any) -> requests.Response:
    where = {"model": params.pop("model", MODEL), "image": params.pop("image", CT)}
    return requests.post(
        f"{server.client.url}/wordmask/refine", params=where, data={"params": json.dumps(params)}, timeout=60
    )


def refined(server: Any, folder: Path, **params: Any) -> tuple[dict[str, Any], sitk.Image]:
    started = ask(server, **params)
    assert started.status_code == 202, started.text
    address = f"{server.client.url}/wordmask/jobs/{started.json()['id']}"
    eventually(lambda: requests.get(address, timeout=60).json()["state"] in ("done", "failed"))
    answer = requests.get(f"{address}/result", timeout=60)
    assert answer.status_code == 200, answer.text
    fields, file, _ = parse_answer(answer.headers, answer.content)
    path = folder / "part.nii.gz"
    path.write_bytes(file or b"")
    return fields, sitk.ReadImage(path)


@pytest.fixture(scope="module")
def a_click() -> list[int]:
    """A voxel in the middle of the liver."""
    index = json.loads((SAMPLES / "index.json").read_text(encoding="utf-8"))["cases"]
    values = next(case["words"] for case in index if CT in case["image"])
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(next((SAMPLES / "truth").glob(f"{CT}*")))))
    liver = np.isin(truth, values[WORD])
    k = int(liver.sum(axis=(1, 2)).argmax())
    inside = np.argwhere(liver[k])
    j, i = inside[len(inside) // 2]
    return [int(i), int(j), k]


def test_a_click_changes_slices_and_they_lie_where_they_belong(a_server, tmp_path, a_click):
    fields, part = refined(a_server, tmp_path, words=WORD, points=[a_click], spread=2)
    assert (fields["word"], fields["model"], fields["version"]) == (WORD, MODEL, "bundled")
    assert fields["corrected"][0] in fields["slices"]
    whole = sitk.ReadImage(str(next((SAMPLES / "studies").glob(f"{CT}*"))))
    assert_allclose(part.GetOrigin(), whole.TransformIndexToPhysicalPoint(fields["first_voxel"]), atol=1e-3)
    assert part.GetDirection() == pytest.approx(whole.GetDirection())
    volume = read_volume(next((SAMPLES / "studies").glob(f"{CT}*")))
    refiner = Refiner(VolumeSegmenter(load_segmenter(MODEL, device="cpu")), volume, WORD)
    found = refiner.refine(VoxelHints(((*map(float, a_click), True),)), spread=2)
    labels, first = found.cut_out()
    assert (fields["slices"], tuple(fields["first_voxel"])) == (sorted(found.masks), first)
    assert fields["ends"] == list(found.ends)
    assert_array_equal(sitk.GetArrayFromImage(part), labels)
    assert labels.any()


def test_the_same_click_has_the_same_answer(a_server, tmp_path, a_click):
    (_, one), (_, other) = (refined(a_server, tmp_path, words=WORD, points=[a_click]) for _ in range(2))
    assert_array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))


@pytest.mark.parametrize(
    ("params", "status", "sentence"),
    [
        ({"words": WORD}, 400, "needs points or a box"),
        ({"words": "liver, spleen", "points": [[1, 1, 1]]}, 400, "of one word, and words has 2"),
        ({"words": "", "points": [[1, 1, 1]]}, 400, "word"),
        ({"words": WORD, "points": [[1, 1]]}, 400, "A point is"),
        ({"words": WORD, "points": [[1, 1, 1]], "spread": -1}, 400, "spread is a whole number"),
        ({"words": WORD, "points": [[1, 1, 1]], "locked": "all"}, 400, "locked is a list of slices"),
        ({"words": WORD, "points": [[1, 1, 1]], "least_overlap": 2}, 400, "least_overlap is a number"),
        ({"words": WORD, "points": [[1, 1, 1]], "image": "../etc"}, 400, "not a path"),
        ({"words": WORD, "points": [[1, 1, 1]], "model": "medclipseg"}, 400, "words only"),
        ({"words": WORD, "points": [[1, 1, 1]], "model": "nothing"}, 404, "no model"),
    ],
)
def test_a_correction_that_cannot_be_used_is_a_sentence(a_server, params, status, sentence):
    answer = ask(a_server, **params)
    assert (answer.status_code, sentence in answer.json()["detail"]) == (status, True), answer.text


def test_what_only_the_image_shows_ends_the_job_with_a_sentence(a_server):
    job = ask(a_server, words=WORD, points=[[1, 1, 9999]]).json()
    address = f"{a_server.client.url}/wordmask/jobs/{job['id']}"
    eventually(lambda: requests.get(address, timeout=60).json()["state"] == "failed")
    assert "outside of the image" in requests.get(address, timeout=60).json()["message"]
