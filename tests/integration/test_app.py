"""The MONAI Label app behind MONAI Label's own routes, over a model whose answer is known for every voxel."""

from __future__ import annotations

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.testing import assert_array_equal

from wordmask.errors import PromptError, RequestError, UnknownModelError, UntrainedError
from wordmask_app.app import WordMaskApp
from wordmask_app.http import catalogue
from wordmask_app.jobs.runtime import Runtime
from wordmask_app.settings import AppSettings


def ask(**params: Any) -> str:
    return json.dumps(params)


def test_values_and_names_follow_the_words_of_this_request(a_stub_server):
    bright = a_stub_server.voxels > 0
    fields, labels = a_stub_server.read(a_stub_server.post("ct", ask(words="spleen, liver")))
    assert fields["label_names"] == {"spleen": 1, "liver": 2}
    assert_array_equal(sitk.GetArrayFromImage(labels)[bright], 2)
    fields, labels = a_stub_server.read(a_stub_server.post("ct", ask(words=["heart"])))
    assert fields["label_names"] == {"heart": 1}
    assert_array_equal(sitk.GetArrayFromImage(labels), bright)


def test_the_label_map_lies_where_the_image_lies(a_stub_server):
    image = sitk.ReadImage(a_stub_server.studies / "ct.nii.gz")
    for extension in (".nii.gz", ".nii", ".nrrd"):
        _, labels = a_stub_server.read(
            a_stub_server.post("ct", ask(words="liver", result_extension=extension))
        )
        assert labels.GetSize() == image.GetSize()
        for name in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(labels, name)() == pytest.approx(getattr(image, name)(), abs=1e-6)


def test_without_a_prompt_the_default_words_are_asked_for(a_stub_server):
    fields, _ = a_stub_server.read(a_stub_server.post("ct", "{}"))
    assert fields["label_names"] == {"liver": 1, "spleen": 2}


def test_the_answer_says_what_was_done(a_stub_server):
    fields, _ = a_stub_server.read(a_stub_server.post("ct", ask(words="liver, polyp")))
    assert fields["not_found"] == ["polyp"]
    assert fields["statistics"]["liver"]["voxels"] == 4 * 6 * 6
    assert fields["statistics"]["liver"]["millilitres"] == pytest.approx(4 * 6 * 6 * 1.5 * 1.5 * 4.0 / 1000)
    assert fields["statistics"]["polyp"]["voxels"] == 0
    assert (fields["model"], fields["preset"], fields["plane"]) == ("simple_vilmedsam", "stub", "axial")
    assert set(fields["window"]) == {"liver", "polyp"}
    assert any("polyp" in sentence for sentence in fields["warnings"])
    assert fields["seconds"] > 0


def test_info_lists_the_default_words_and_no_others_as_labels(a_stub_server):
    info = a_stub_server.http.get("/info/").json()
    assert info["labels"] == ["liver", "spleen"]
    assert info["models"]["simple_vilmedsam"]["labels"] == {"liver": 1, "spleen": 2}
    assert info["models"]["simple_vilmedsam"]["type"] == "segmentation"


def test_every_image_format_of_the_studies_folder_is_served(a_stub_server):
    for image in ("scan", "series", "skin", "gut"):
        fields, labels = a_stub_server.read(a_stub_server.post(image, ask(words="liver")))
        assert (
            fields["statistics"]["liver"]["voxels"] == np.count_nonzero(sitk.GetArrayFromImage(labels)) > 0
        ), image


def test_one_slice_can_be_asked_for(a_stub_server):
    _, labels = a_stub_server.read(a_stub_server.post("ct", ask(words="liver", slices=[2, 2], plane="axial")))
    marked = np.flatnonzero(sitk.GetArrayFromImage(labels).any(axis=(1, 2)))
    assert len(marked) == 1


def test_the_label_map_has_the_type_that_was_asked_for(a_stub_server):
    for dtype in ("uint8", "uint16", "int16"):
        asked = ask(words="liver", result_dtype=dtype, result_extension=".nrrd", result_compress=False)
        _, labels = a_stub_server.read(a_stub_server.post("ct", asked))
        assert sitk.GetArrayFromImage(labels).dtype == dtype


def test_a_probability_volume_is_float_and_agrees_with_the_labels(a_stub_server):
    _, probability = a_stub_server.read(
        a_stub_server.post("ct", ask(words="liver", output_volume="probability"))
    )
    values = sitk.GetArrayFromImage(probability)
    assert values.dtype == np.float32
    assert values.min() >= 0
    assert values.max() <= 1
    assert_array_equal(values > 0.5, a_stub_server.voxels > 0)


def test_json_alone_or_the_image_alone_can_be_asked_for_and_no_file_stays_behind(a_stub_server):
    alone = a_stub_server.post("ct", ask(words="liver"), query={"output": "json"})
    assert alone.json()["label_names"] == {"liver": 1}
    _, labels = a_stub_server.read(a_stub_server.post("ct", ask(words="liver"), query={"output": "image"}))
    assert_array_equal(sitk.GetArrayFromImage(labels), a_stub_server.voxels > 0)
    a_stub_server.read(a_stub_server.post("ct", ask(words="liver"), query={"output": "all"}))
    assert list(a_stub_server.scratch.iterdir()) == []


WRONG = [
    ({"words": ""}, "word"),
    ({"words": "x" * 300}, "256"),
    ({"words": ", ".join(f"word{i}" for i in range(33))}, "32"),
    ({"words": "liver\x07"}, "character"),
    ({"words": 7}, "must be a text"),
    ({"words": ["liver", 7]}, "must be a text"),
    ({"prompt": ""}, "word"),
    ({"words": "liver", "prompt": "spleen"}, "words is 'liver' and prompt is 'spleen'; leave prompt out"),
    ({"words": "liver", "plane": "diagonal"}, "diagonal"),
    ({"words": "liver", "plane": 3}, "plane is a name"),
    ({"words": "liver", "window": "kitchen"}, "kitchen"),
    ({"words": "liver", "threshold": 1.5}, "threshold is a number from 0 to 1"),
    ({"words": "liver", "threshold": "much"}, "threshold is a number from 0 to 1"),
    ({"words": "liver", "threshold": float("nan")}, "threshold is a number from 0 to 1"),
    ({"words": "liver", "slices": [0, 99]}, "99"),
    ({"words": "liver", "slices": "all"}, "slices is"),
    ({"words": "liver", "points": [[1, 2, 3]]}, "cannot use points"),
    ({"words": "liver", "box": [[0, 0, 0], [4, 4, 4]]}, "cannot use box"),
    ({"words": "liver", "box": [0, 0, 0, 4, 4, 4]}, "first and its last voxel"),
    ({"words": "liver", "box": [[4, 0, 0], [0, 4, 4]]}, "first and its last voxel"),
    ({"words": "liver", "points": [[1, 2]]}, "A point is"),
    ({"words": "liver", "points": [[1, 2, float("nan")]]}, "A point is"),
    ({"words": "liver", "points": "here"}, "points is a list"),
    ({"words": "liver", "prompt_set": "P2"}, "leave the prompt set out"),
    ({"words": "liver", "scribbles": "mask"}, "scribbles"),
    ({"words": "liver", "output_volume": "mesh"}, "output_volume is one of"),
    ({"words": "liver", "output_volume": ["labels"]}, "output_volume is one of"),
    ({"words": "liver", "output_volume": "attribution"}, "attribution"),
    ({"words": "liver, spleen", "output_volume": "probability"}, "one by one"),
    ({"words": "liver", "output_volume": "probability", "result_dtype": "uint8"}, "float32"),
    ({"words": "liver", "result_extension": ".exe"}, "result_extension is one of"),
    ({"words": "liver", "result_dtype": "complex64"}, "result_dtype is one of"),
    ({"words": "liver", "result_compress": "perhaps"}, "true or false"),
    ({"words": "liver", "save_label": True, "label_tag": "../../x"}, "label_tag"),
    ({"words": "liver", "save_label": True, "output_volume": "probability"}, "save_label"),
]


def test_a_wrong_request_is_answered_400_with_one_sentence_and_leaves_nothing(a_stub_server):
    for params, sentence in WRONG:
        answer = a_stub_server.post("ct", json.dumps(params))
        assert answer.status_code == 400, params
        assert sentence in answer.json()["detail"], params
        assert str(a_stub_server.studies) not in answer.text, params
        assert "Traceback" not in answer.text, params
        assert list(a_stub_server.scratch.iterdir()) == [], params


@pytest.mark.parametrize(
    "params", [{"prompt": "heart"}, {"words": "heart", "prompt": "heart"}, {"words": "heart", "prompt": ""}]
)
def test_prompt_is_another_name_of_words(a_stub_server, params):
    fields, _ = a_stub_server.read(a_stub_server.post("ct", json.dumps(params)))
    assert fields["label_names"] == {"heart": 1}


def test_a_file_that_is_no_image_is_answered_400_and_named(a_stub_server):
    answer = a_stub_server.post("broken", ask(words="liver"))
    assert answer.status_code == 400
    assert "broken.nii.gz" in answer.json()["detail"]
    assert str(a_stub_server.studies) not in answer.text


def test_an_unknown_image_or_model_is_answered_404(a_stub_server):
    assert a_stub_server.post("nobody", ask(words="liver")).status_code == 404
    answer = a_stub_server.post("ct", ask(words="liver"), model="guess")
    assert answer.status_code == 404
    assert "simple_vilmedsam" in answer.json()["detail"]


def test_an_image_whose_file_was_deleted_is_answered_404(a_stub_server):
    (a_stub_server.studies / "scan.mha").unlink()
    assert a_stub_server.post("scan", ask(words="liver")).status_code == 404


def test_no_file_outside_the_studies_folder_can_be_named(a_stub_server):
    secret = a_stub_server.scratch / "secret.nii.gz"
    shutil.copy(a_stub_server.studies / "ct.nii.gz", secret)
    for image, claim in (
        (str(a_stub_server.studies / "ct.nii.gz"), {}),
        ("../studies/ct", {}),
        (str(secret), {}),
        (str(secret), {"session": {"name": "mine", "image": str(secret)}}),
    ):
        named = a_stub_server.post(image, ask(words="liver", **claim))
        in_params = a_stub_server.post("ct", ask(words="liver", image=image, **claim))
        for answer in (named, in_params):
            assert answer.status_code == 400, (image, claim)
            assert any(reason in answer.json()["detail"] for reason in ("not a path", "not in params")), (
                image,
                claim,
            )


def test_an_image_added_under_an_id_that_climbs_is_not_read(a_stub_server):
    with (a_stub_server.studies / "ct.nii.gz").open("rb") as file:
        a_stub_server.http.put(
            "/datastore/", params={"image": "../escaped"}, files={"file": ("x.nii.gz", file)}
        )
    assert a_stub_server.post("../escaped", ask(words="liver")).status_code == 400


def test_an_uploaded_image_is_segmented_and_removed(a_stub_server):
    content = (a_stub_server.studies / "ct.nii.gz").read_bytes()
    response = a_stub_server.post(
        "", ask(words="liver"), files={"file": ("patient 7.2026-01-02_series.nii.gz", content)}
    )
    _, labels = a_stub_server.read(response)
    assert_array_equal(sitk.GetArrayFromImage(labels), a_stub_server.voxels > 0)
    assert list(a_stub_server.scratch.iterdir()) == []


def test_an_uploaded_scribble_mask_is_refused_and_not_ignored(a_stub_server):
    content = (a_stub_server.studies / "ct.nii.gz").read_bytes()
    answer = a_stub_server.post("ct", ask(words="liver"), files={"label": ("scribbles.nii.gz", content)})
    assert answer.status_code == 400
    assert "scribbles" in answer.json()["detail"]


def test_an_image_of_a_session_is_segmented(a_stub_server):
    content = (a_stub_server.studies / "ct.nii.gz").read_bytes()
    session = a_stub_server.http.put("/session/", files={"files": ("mine.nii.gz", content)}).json()[
        "session_id"
    ]
    _, labels = a_stub_server.read(a_stub_server.post("", ask(words="liver"), query={"session_id": session}))
    assert_array_equal(sitk.GetArrayFromImage(labels), a_stub_server.voxels > 0)


def test_two_requests_at_the_same_time_do_not_mix(a_stub_server):
    bright = a_stub_server.voxels > 0

    def infer(words: list[str]) -> tuple[dict[str, Any], np.ndarray]:
        answer = a_stub_server.app.infer({"model": "simple_vilmedsam", "image": "ct", "words": words})
        return answer["params"], sitk.GetArrayFromImage(sitk.ReadImage(answer["file"]))

    questions = [["liver"], ["spleen", "liver"], ["heart"], ["polyp", "aorta"]] * 4
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(infer, questions))
    for words, (fields, labels) in zip(questions, answers, strict=True):
        assert list(fields["label_names"]) == words
        value = fields["label_names"][words[-1]]
        assert_array_equal(labels == value, bright)


def test_a_label_can_be_kept_on_the_server(a_stub_server):
    fields, _ = a_stub_server.read(
        a_stub_server.post("ct", ask(words="heart", save_label=True, label_tag="original"))
    )
    kept = sitk.ReadImage(a_stub_server.studies / "labels" / "original" / "ct.nii.gz")
    assert_array_equal(sitk.GetArrayFromImage(kept), a_stub_server.voxels > 0)
    info = a_stub_server.http.get("/datastore/label/info", params={"label": "ct", "tag": "original"}).json()
    assert info["params"]["label_names"] == fields["label_names"] == {"heart": 1}
    assert [(label["name"], label["idx"]) for label in info["label_info"]] == [("heart", 1)]


def test_the_log_has_one_line_for_a_request(a_stub_server, caplog):
    with caplog.at_level(logging.INFO, logger="wordmask_app"):
        a_stub_server.post("ct", ask(words="liver"))
        a_stub_server.post("ct", ask(words=""))
    lines = [
        record.getMessage()
        for record in caplog.records
        if record.name in ("wordmask_app.jobs.runtime", "wordmask_app.http.guards")
    ]
    assert len(lines) == 2
    assert "words='liver'" in lines[0]
    assert lines[0].endswith("outcome='ok'")
    assert all(f" {stage}=" in lines[0] for stage in ("reading", "marking", "writing"))
    assert lines[1].startswith("refused POST /infer/simple_vilmedsam status=400")


@pytest.mark.parametrize(
    ("conf", "error", "sentence"),
    [
        ({"words": "a, b, c, d, e, f, g, h, i"}, RequestError, "at most 8"),
        ({"words": ""}, PromptError, "word"),
        ({"models": " , "}, RequestError, "names no model"),
        ({"cache_mb": "-1"}, RequestError, "cache_mb"),
        ({"word": "liver"}, RequestError, "Did you mean 'words'"),
    ],
)
def test_a_wrong_setting_is_refused_at_the_start(conf, error, sentence):
    with pytest.raises(error, match=sentence):
        AppSettings.from_conf(conf)


@pytest.mark.parametrize(
    ("preset", "models"),
    [
        ("tiny", ["simple_vilmedsam", "medclip_samv2", "medclipseg"]),
        ("biomedclip_vit_b", ["simple_vilmedsam", "medclip_samv2"]),
        ("unimedclip", ["medclipseg"]),
    ],
)
def test_without_a_choice_the_usual_models_that_have_the_preset_are_served(tmp_path, preset, models):
    assert list(Runtime(tmp_path, AppSettings.from_conf({"preset": preset})).models) == models


def test_an_unknown_model_or_preset_is_refused_at_the_start(tmp_path):
    with pytest.raises(UnknownModelError, match="Did you mean 'simple_vilmedsam'"):
        WordMaskApp(str(tmp_path), str(tmp_path / "studies"), {"models": "simple_vilmedsan"})
    with pytest.raises(UnknownModelError, match="huge"):
        WordMaskApp(str(tmp_path), str(tmp_path / "studies"), {"preset": "huge"})


def test_a_model_that_waits_for_its_first_training_is_listed_and_answers_with_a_sentence(tmp_path):
    runtime = Runtime(tmp_path, AppSettings.from_conf({"models": "medclip_samv2_weak"}))
    runtime.start()
    try:
        (model,) = catalogue.models(runtime)["models"]
        assert (model["ready"], model["trained_words"], model["hints"], model["version"]) == (
            False,
            [],
            [],
            "bundled",
        )
        assert model["training"] == {"recipes": ["small", "paper", "smoke"], "words": True}
        engine = runtime.models["medclip_samv2_weak"]
        assert [word["trained"] for word in catalogue.vocabulary(engine, "liv", 1)["words"]] == [None]
        with pytest.raises(UntrainedError, match="wordmask train"):
            engine.load()
    finally:
        runtime.stop()
