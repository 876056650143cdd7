"""A real `monailabel start_server` process with the bundled weights, asked as clients ask it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from tests.support.servers import MODEL, SAMPLES

from wordmask.demo.client import ServerAnswer, ServerError

pytestmark = pytest.mark.server

CT, PICTURE, XRAY = "ct_chest_abdomen", "dermoscopy_1", "xray_1"
TRUTH = SAMPLES / "truth"


def image_of(answer: ServerAnswer, folder: Path) -> sitk.Image:
    path = folder / str(answer.file_name)
    path.write_bytes(answer.file or b"")
    return sitk.ReadImage(path)


def test_the_server_shows_its_models_and_the_default_words(a_server):
    info = a_server.client.info()
    assert info["name"] == "WordMask"
    assert list(info["models"]) == [MODEL, "medclip_samv2", "medclipseg"]
    assert info["labels"] == ["liver", "spleen"]


def test_every_sample_study_is_in_the_datastore(a_server):
    total = a_server.client.info()["datastore"]["total"]
    assert total == len(
        [
            path
            for path in a_server.studies.iterdir()
            if path.is_file() and not path.name.startswith((".", "datastore"))
        ]
    )


def test_a_word_gives_a_mask_in_the_geometry_of_the_volume(a_server, tmp_path):
    answer = a_server.client.infer(MODEL, CT, {"words": "spleen, liver"})
    assert answer.fields["label_names"] == {"spleen": 1, "liver": 2}
    labels, image = image_of(answer, tmp_path), sitk.ReadImage(a_server.studies / f"{CT}.nii.gz")
    assert labels.GetSize() == image.GetSize()
    assert labels.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-6)
    assert labels.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-6)
    counts = np.bincount(sitk.GetArrayFromImage(labels).ravel(), minlength=3)
    assert [int(count) for count in counts[1:]] == [
        answer.fields["statistics"][word]["voxels"] for word in ("spleen", "liver")
    ]
    assert counts[2] > 1000


@pytest.mark.parametrize("kind", ["box", "points"])
def test_a_model_that_takes_hints_is_told_in_voxels_of_the_file_which_lung_is_meant(a_server, tmp_path, kind):
    index = json.loads((SAMPLES / "index.json").read_text(encoding="utf-8"))["cases"]
    values = next(case["words"] for case in index if case["image"].endswith(f"{XRAY}.png"))
    truth = sitk.GetArrayFromImage(sitk.ReadImage(TRUTH / f"{XRAY}.png"))
    for side in ("left lung", "right lung"):
        own = np.isin(truth, values[side])
        rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
        row, column = np.argwhere(own)[len(np.argwhere(own)) // 2].tolist()
        hints = {
            "box": [[int(columns[0]), int(rows[0]), 0], [int(columns[-1]), int(rows[-1]), 0]],
            "points": [[column, row, 0]],
        }
        answer = a_server.client.infer("medclip_samv2", XRAY, {"words": "lung", kind: hints[kind]})
        marked = sitk.GetArrayFromImage(image_of(answer, tmp_path)).reshape(truth.shape) > 0
        assert 2 * (marked & own).sum() / (marked.sum() + own.sum()) > 0.8, side


def test_models_say_which_hints_and_prompt_sets_they_take(a_server):
    known = {
        model["name"]: model
        for model in requests.get(f"{a_server.client.url}/wordmask/models", timeout=60).json()["models"]
    }
    assert known[MODEL]["hints"] == []
    assert known[MODEL]["prompt_sets"] == {}
    assert known["medclip_samv2"]["hints"] == ["box", "points"]
    assert known["medclip_samv2"]["prompt_sets"]["P0"] == "the bare word"


def test_the_same_question_has_the_same_answer(a_server):
    first, second = (
        a_server.client.infer(MODEL, PICTURE, {"words": "skin lesion", "result_extension": ".nii"})
        for _ in range(2)
    )
    assert first.file == second.file


def test_eight_clients_at_once_get_the_answers_that_they_get_alone(a_server):
    questions = [["skin lesion"], ["polyp", "skin lesion"], ["liver"], ["skin lesion", "polyp"]] * 2

    def ask(words: list[str]) -> tuple[dict[str, int], bytes | None]:
        answer = a_server.client.infer(MODEL, PICTURE, {"words": words, "result_extension": ".nii"})
        return answer.fields["label_names"], answer.file

    alone = [ask(words) for words in questions]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, questions)) == alone


def test_monai_labels_own_client_is_served(a_server, tmp_path):
    client_of_monai_label = pytest.importorskip("monailabel.client").MONAILabelClient
    client = client_of_monai_label(a_server.client.url, tmpdir=str(tmp_path))
    file, fields = client.infer(MODEL, PICTURE, {"words": "skin lesion"})
    assert fields["label_names"] == {"skin lesion": 1}
    assert (
        np.count_nonzero(sitk.GetArrayFromImage(sitk.ReadImage(file)))
        == fields["statistics"]["skin lesion"]["voxels"]
    )


@pytest.mark.parametrize(
    ("image", "params", "status"),
    [
        (CT, {"words": ""}, 400),
        (CT, {"words": "liver", "plane": "diagonal"}, 400),
        ("broken", {"words": "liver"}, 400),
        ("nobody", {"words": "liver"}, 404),
        (CT, {"words": "liver", "image": "/etc/hostname"}, 400),
    ],
)
def test_a_wrong_request_gets_a_sentence_and_the_server_lives(a_server, image, params, status):
    with pytest.raises(ServerError) as refusal:
        a_server.client.infer(MODEL, image, params)
    assert refusal.value.status == status
    assert str(refusal.value).endswith(".")
    assert str(a_server.studies) not in str(refusal.value)
    assert a_server.client.info()["name"] == "WordMask"


def test_the_log_has_one_line_for_each_request_and_no_stack_trace(a_server):
    a_server.client.infer(MODEL, PICTURE, {"words": "one of a kind"}, output="json")
    log = a_server.log.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in log.splitlines() if "job=" in line and "words='one of a kind'" in line]
    assert len(lines) == 1, json.dumps(lines)
    assert "Traceback" not in log
