"""Calls that are refused before anything is sent, and answers with whatever a server may write."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.slicer.fault_server import health, job_status
from WordMaskLib.client import answers, calls, errors, job_answers
from WordMaskLib.client.addresses import repair_address

# --- calls ---


def test_an_id_that_could_be_another_route_is_refused_before_anything_is_sent(tmp_path):
    for job_id in ("../models", "a/b", "..", "", "a b", "a\r\nX: y", "é?"):
        for call in (
            calls.job,
            calls.cancel_job,
            lambda name: calls.job_result(name, tmp_path),
            calls.rollback,
            calls.start_training,
        ):
            with pytest.raises(errors.ClientError, match="not the name of a model or a job"):
                call(job_id)


@pytest.mark.parametrize("name", ["CT 1.5 mm.nii.gz", "MR.2024.01.02.nii", "ü.NRRD", "a.b.png"])
def test_only_the_real_ending_of_a_file_is_sent(tmp_path, name):
    form = calls.upload_image("x", tmp_path / name).form
    assert form is not None
    assert form.parts[1].file_name in ("image.nii.gz", "image.nii", "image.nrrd", "image.png")


@pytest.mark.parametrize("name", ["scan", "scan.exe", "scan.gz", ".nii.gz.zip"])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    with pytest.raises(errors.ClientError, match="not an image file"):
        calls.start_job("tiny", "liver", file=tmp_path / name)


@pytest.mark.parametrize(
    "names", [{}, {"liver": 0}, {"liver": 1, "spleen": 1}, {"liver": -1}, {"liver": True}, {"liver": 1.0}]
)
def test_a_label_map_without_proper_names_is_not_submitted(tmp_path, names):
    with pytest.raises(errors.ClientError, match="a name for each of its values"):
        calls.submit_label("x", tmp_path / "labels.nii.gz", names)


@pytest.mark.parametrize("image_and_file", [("", None), ("ct", Path("x.nii"))])
def test_a_job_is_about_one_image(image_and_file):
    image, file = image_and_file
    with pytest.raises(errors.ClientError, match="choose one"):
        calls.start_job("tiny", "liver", image=image, file=file)


# --- answers ---


SUGGESTION = {
    "word": "liver",
    "matched": "hepar",
    "kind": "synonym",
    "synonyms": ["hepar"],
    "trained": None,
    "modalities": ["CT"],
}


NEXT = {
    "case": "ct",
    "strategy": "first",
    "words": ["liver"],
    "reason": "The first.",
    "score": None,
    "preview": job_status(),
}


EXAMPLES: list[tuple[Any, Any]] = [
    (
        answers.ServerInfo.from_json,
        {"name": "WordMask", "models": {"a": {}}, "datastore": {"total": 3, "completed": 1}},
    ),
    (answers.Health.from_json, health()),
    (
        answers.ModelInfo.from_json,
        {"name": "a", "trained_words": ["liver"], "versions": [{"number": 1, "served": True, "card": {}}]},
    ),
    (
        answers.Suggestion.from_json,
        {**SUGGESTION, "color": [1, 2, 3], "code": {"scheme": "SCT", "value": "1", "meaning": "x"}},
    ),
    (
        answers.images_from_json,
        {"objects": {"ct": {"image": {"ext": ".nii", "info": {}}, "labels": {"final": {"ext": ".nii"}}}}},
    ),
    (job_answers.JobStatus.from_json, job_status("running", done=3, seconds=1.5)),
    (
        job_answers.JobResult.from_json,
        {"label_names": {"liver": 1}, "statistics": {"liver": {"voxels": 4, "presence": 0.5}}},
    ),
    (
        job_answers.TrainingState.from_json,
        {"state": "running", "done": 1, "total": 4, "dice": 0.5, "loss": None},
    ),
    (
        job_answers.NextCase.from_json,
        {**NEXT, "skipped": [{"case": "x", "reason": "y"}], "scores": {"unlabelled": 3}},
    ),
]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places_in(found: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return [path, *(place for key, value in inner for place in places_in(value, (*path, key)))]


@pytest.mark.parametrize(("read", "example"), EXAMPLES, ids=lambda value: getattr(value, "__qualname__", ""))
@given(data=st.data())
def test_an_answer_with_anything_in_any_place_is_read_or_refused(read, example, data):
    read(example)
    place = data.draw(st.sampled_from(places_in(example)))
    changed = json.loads(json.dumps(example))
    if not place:
        changed = data.draw(JSON)
    else:
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = data.draw(JSON)
    with contextlib.suppress(ValueError):
        read(changed)


def test_what_is_left_of_a_job_is_estimated_from_its_pace():
    running = job_answers.JobStatus.from_json(job_status("running", done=2, total=10, seconds=4.0))
    assert running.seconds_left == 16.0
    waiting = job_answers.JobStatus.from_json(job_status())
    assert waiting.seconds_left is None
    assert not waiting.final


def test_a_training_tells_means_while_it_runs_and_a_table_at_its_end():
    running = job_answers.TrainingState.from_json({"state": "running", "dice": 0.5, "dice_before": 0.4})
    report = {
        "state": "done",
        "dice": {"liver": 0.7},
        "mean": 0.7,
        "dice_before": {},
        "mean_before": None,
        "version": 3,
    }
    done = job_answers.TrainingState.from_json(report)
    assert (running.dice, running.dice_before) == (0.5, 0.4)
    assert (done.dice, done.dice_before, done.version) == (0.7, None, 3)


@given(st.text())
def test_what_a_server_says_becomes_one_printable_line_or_nothing(text):
    sentence = errors.as_sentence(text)
    assert "\n" not in sentence
    assert len(sentence) <= errors.LONGEST_SENTENCE + 1
    assert not sentence or sentence[-1] in ".!?…"


def test_every_failure_of_a_transport_has_a_sentence():
    address = repair_address("localhost")
    for kind in ("refused", "closed", "unknown host", "timeout", "certificate", "no tls", "tls", "another"):
        assert str(errors.network_error(kind, address)).endswith(".")
