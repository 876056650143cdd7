"""The job routes over a model whose answer is known for every voxel, and that stands still when a test wants
it to.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.testing import assert_array_equal
from tests.support.servers import PATIENCE


def ask(**params: Any) -> str:
    return json.dumps(params)


def test_a_job_is_answered_at_once_and_its_result_is_what_infer_gives(a_stub_server):
    with a_stub_server.held():
        started = a_stub_server.start("ct", ask(words="spleen, liver"))
        assert started.status_code == 202
        job = started.json()
        a_stub_server.wait_until_busy()
        status = a_stub_server.http.get(f"/wordmask/jobs/{job['id']}").json()
        assert (status["state"], status["words"], status["image"]) == ("running", ["spleen", "liver"], "ct")
        assert 0 <= status["done"] <= status["total"] == 6
        assert a_stub_server.http.get(f"/wordmask/jobs/{job['id']}/result").status_code == 409
    assert a_stub_server.finished(job["id"])["state"] == "done"
    fields, labels = a_stub_server.read(a_stub_server.http.get(f"/wordmask/jobs/{job['id']}/result"))
    expected, of_infer = a_stub_server.read(a_stub_server.post("ct", ask(words="spleen, liver")))
    assert_array_equal(sitk.GetArrayFromImage(labels), sitk.GetArrayFromImage(of_infer))
    assert {name: value for name, value in fields.items() if name != "seconds"} == {
        name: value for name, value in expected.items() if name != "seconds"
    }


def test_a_volume_comes_with_the_job_and_is_removed_with_it(a_stub_server):
    content = (a_stub_server.studies / "ct.nii.gz").read_bytes()
    job = a_stub_server.start(
        "", ask(words="liver"), files={"file": ("patient 7_2026.nii.gz", content)}
    ).json()
    assert a_stub_server.finished(job["id"])["state"] == "done"
    _, labels = a_stub_server.read(a_stub_server.http.get(f"/wordmask/jobs/{job['id']}/result"))
    assert_array_equal(sitk.GetArrayFromImage(labels), a_stub_server.voxels > 0)
    assert list(a_stub_server.app.runtime.spool.folder.glob("upload-*")) == []


def test_the_same_content_uploaded_twice_uses_the_kept_features(a_stub_server):
    content = (a_stub_server.studies / "ct.nii.gz").read_bytes()
    cache = a_stub_server.app.runtime.models["simple_vilmedsam"].cache
    misses = []
    for name in ("monday.nii.gz", "tuesday.nii.gz"):
        job = a_stub_server.start("", ask(words="liver"), files={"file": (name, content)}).json()
        assert a_stub_server.finished(job["id"])["state"] == "done"
        misses.append(cache.misses)
    assert misses[0] == misses[1] > 0


def test_an_image_of_a_session_can_be_asked_for(a_stub_server):
    content = (a_stub_server.studies / "ct.nii.gz").read_bytes()
    session = a_stub_server.http.put("/session/", files={"files": ("mine.nii.gz", content)}).json()[
        "session_id"
    ]
    job = a_stub_server.start("", ask(words="liver"), query={"session_id": session}).json()
    assert a_stub_server.finished(job["id"])["state"] == "done"


def test_a_running_job_is_cancelled_between_two_batches(a_stub_server):
    with a_stub_server.held():
        job = a_stub_server.start("ct", ask(words="liver")).json()
        a_stub_server.wait_until_busy()
        assert a_stub_server.http.delete(f"/wordmask/jobs/{job['id']}").status_code == 200
    status = a_stub_server.finished(job["id"])
    assert status["state"] == "cancelled"
    assert a_stub_server.http.get(f"/wordmask/jobs/{job['id']}/result").status_code == 409


def test_a_full_queue_answers_429_and_says_how_long_to_wait(a_stub_server):
    a_stub_server.app.runtime.queue.limit = 1
    with a_stub_server.held():
        first = a_stub_server.start("ct", ask(words="liver")).json()
        a_stub_server.wait_until_busy()
        second = a_stub_server.start("ct", ask(words="heart")).json()
        assert second["waiting"] == 1
        for refused in (
            a_stub_server.start("ct", ask(words="aorta")),
            a_stub_server.post("ct", ask(words="aorta")),
        ):
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
    assert {a_stub_server.finished(job["id"])["state"] for job in (first, second)} == {"done"}


def test_other_routes_answer_while_infer_computes(a_stub_server):
    answers = []
    with a_stub_server.held():
        waiting = threading.Thread(
            target=lambda: answers.append(a_stub_server.post("ct", ask(words="liver")))
        )
        waiting.start()
        a_stub_server.wait_until_busy()
        assert a_stub_server.http.get("/info/").status_code == 200
        assert a_stub_server.http.get("/wordmask/models").status_code == 200
        (job,) = a_stub_server.http.get("/wordmask/jobs").json()["jobs"]
        assert job["state"] == "running"
        assert answers == []
    waiting.join(PATIENCE)
    assert answers[0].status_code == 200


def test_a_job_survives_a_reload(a_stub_server):
    with a_stub_server.held():
        job = a_stub_server.start("ct", ask(words="liver")).json()
        a_stub_server.wait_until_busy()
        assert a_stub_server.http.post("/reload").status_code == 200
        assert a_stub_server.http.get(f"/wordmask/jobs/{job['id']}").json()["state"] == "running"
    assert a_stub_server.finished(job["id"])["state"] == "done"


def test_a_failed_job_says_why_and_its_result_has_the_status_of_its_error(a_stub_server):
    job = a_stub_server.start("broken", ask(words="liver")).json()
    status = a_stub_server.finished(job["id"])
    assert (status["state"], status["status_code"]) == ("failed", 400)
    assert status["message"].endswith(".")
    answer = a_stub_server.http.get(f"/wordmask/jobs/{job['id']}/result")
    assert (answer.status_code, answer.json()["detail"]) == (400, status["message"])


def test_an_upload_that_cannot_be_read_is_called_by_its_own_name(a_stub_server):
    job = a_stub_server.start("", ask(words="liver"), files={"file": ("my scan.nii.gz", b"no image")}).json()
    message = a_stub_server.finished(job["id"])["message"]
    assert message.startswith("my scan.nii.gz ")
    assert "upload-" not in message


def test_an_image_that_is_removed_while_its_job_waits_is_missed_with_a_sentence(a_stub_server):
    with a_stub_server.held():
        a_stub_server.start("scan", ask(words="liver"))
        a_stub_server.wait_until_busy()
        job = a_stub_server.start("ct", ask(words="liver")).json()
        (a_stub_server.studies / "ct.nii.gz").unlink()
    status = a_stub_server.finished(job["id"])
    assert (status["state"], status["status_code"]) == ("failed", 404)
    assert "no longer there" in status["message"]


def test_a_wrong_job_is_refused_before_it_waits(a_stub_server):
    for image, params, status in (
        ("ct", "no json", 400),
        ("ct", "[1]", 400),
        ("ct", "[" * 100_000, 400),
        ("ct", ask(words=""), 400),
        ("ct", ask(words="liver", image="/etc/hostname"), 400),
        ("ct", ask(words="liver", session={"name": "x"}), 400),
        ("nobody", ask(words="liver"), 404),
        ("../secret", ask(words="liver"), 400),
        ("", ask(words="liver"), 400),
    ):
        answer = a_stub_server.start(image, params)
        assert answer.status_code == status, (image, params[:80])
        assert answer.json()["detail"].endswith("."), (image, params[:80])
    assert a_stub_server.http.get("/wordmask/jobs").json() == {"jobs": []}


def test_unknown_jobs_and_models_are_not_found(a_stub_server):
    for method in ("GET", "DELETE"):
        assert a_stub_server.http.request(method, "/wordmask/jobs/0123").status_code == 404
    assert a_stub_server.http.get("/wordmask/jobs/0123/result").status_code == 404
    assert a_stub_server.start("ct", ask(words="liver"), query={"model": "huge"}).status_code == 404
    assert a_stub_server.http.get("/wordmask/vocabulary", params={"model": "huge"}).status_code == 404
    assert a_stub_server.http.post("/wordmask/models/huge/rollback").status_code == 404


def test_the_text_box_gets_words_with_codes_and_what_was_matched(a_stub_server):
    found = a_stub_server.http.get("/wordmask/vocabulary", params={"q": "sple"}).json()["words"]
    assert found[0]["word"] == "spleen"
    assert found[0]["code"]["scheme"] == "SCT"
    assert len(a_stub_server.http.get("/wordmask/vocabulary", params={"limit": 7}).json()["words"]) == 7


def test_health_has_the_figures_of_queue_cache_and_version(a_stub_server):
    a_stub_server.post("ct", ask(words="liver"))
    health = a_stub_server.http.get("/wordmask/health").json()
    assert health["status"] == "ok"
    assert health["queue"]["waiting"] == 0
    assert health["models"][0]["version"] == "bundled"
    assert health["models"][0]["cache"]["bytes"] > 0


def test_other_outputs_are_only_json_or_only_the_file(a_stub_server):
    job = a_stub_server.start("ct", ask(words="liver")).json()
    a_stub_server.finished(job["id"])
    route = f"/wordmask/jobs/{job['id']}/result"
    assert a_stub_server.http.get(route, params={"output": "json"}).json()["label_names"] == {"liver": 1}
    _, labels = a_stub_server.read(a_stub_server.http.get(route))
    image = a_stub_server.http.get(route, params={"output": "image"})
    path = a_stub_server.studies.parent / "only.nii.gz"
    path.write_bytes(image.content)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)), sitk.GetArrayFromImage(labels))
    assert a_stub_server.http.get(route, params={"output": "dicom_seg"}).status_code == 400


def test_a_region_of_interest_limits_what_is_marked(a_stub_server):
    whole = a_stub_server.voxels > 0
    depth, height, width = whole.shape
    roi = [[0, 0, 0], [width // 2, height - 1, depth - 1]]
    fields, labels = a_stub_server.read(a_stub_server.post("ct", ask(words="liver", roi=roi)))
    marked = sitk.GetArrayFromImage(labels) > 0
    assert marked.shape == whole.shape
    assert not marked[..., width // 2 + 1 :].any()
    assert fields["slices"] in whole.shape
    refused = a_stub_server.post("ct", ask(words="liver", roi=[[0, 0, 0], [width, 1, 1]]))
    assert (refused.status_code, "not a part of the image" in refused.json()["detail"]) == (400, True)
    wrong = a_stub_server.post("ct", ask(words="liver", roi=[5, 5]))
    assert (wrong.status_code, "roi is [[i, j, k]" in wrong.json()["detail"]) == (400, True)
