"""The client against a real `wordmask serve` with the bundled model: everything that the module asks of a
server.

What it does with broken servers is in test_client_faults.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from tests.slicer.fault_server import is_a_sentence
from tests.slicer.person import until
from tests.slicer.real_server import CT, MODEL, PATIENCE, PICTURE, Running
from tests.support.servers import eventually
from WordMaskLib.client import calls, errors
from WordMaskLib.client.client import WordMaskClient
from WordMaskLib.client.readers import JsonReader
from WordMaskLib.client.retry import RetryPolicy
from WordMaskLib.flows.flows import run_waiting
from WordMaskLib.flows.learning import STRATEGIES
from WordMaskLib.flows.segmenting import shake_hands

from wordmask import __version__
from wordmask.words.vocabulary import load_vocabulary

ZERO_SHOT, WITH_NOISE = "medclip_samv2", "medclipseg"
pytestmark = pytest.mark.server

LONG = "liver, spleen, heart, lung"


def voxels_of(path: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def a_new_volume(folder: Path, seed: int, *, size: int = 96) -> Path:
    """A volume that no cache knows."""
    path = folder / f"new{seed}.nii"
    sitk.WriteImage(
        sitk.GetImageFromArray(np.random.default_rng(seed).normal(0, 200, (size,) * 3).astype(np.int16)),
        str(path),
    )
    return path


def busy(server: Running, folder: Path, seed: int) -> str:
    """A job that computes for some seconds."""
    job = server.ask(
        calls.start_job(MODEL, LONG, file=a_new_volume(folder, seed), options={"plane": "sagittal"})
    )
    eventually(lambda: server.ask(calls.job(job.id)).done > 0)
    return job.id


# --- what the server is ---


def test_the_server_has_the_clients_version_and_says_what_it_has(server):
    found = run_waiting(shake_hands(server.client.address), server.client)
    assert found.version == __version__
    assert found.warnings == ()
    info, health = server.ask(calls.info()), server.ask(calls.health())
    assert (info.name, info.models, info.images) == ("WordMask", (MODEL, ZERO_SHOT, WITH_NOISE), info.images)
    strategies = calls.Call("GET", "/info/", lambda address: JsonReader(address, lambda it: it["strategies"]))
    assert set(STRATEGIES) <= set(server.ask(strategies))
    assert health.models == {MODEL: "bundled", ZERO_SHOT: "bundled", WITH_NOISE: "bundled"}
    assert CT in {image.id for image in server.ask(calls.images())}


def test_a_model_tells_what_it_can_do(server):
    model, zero_shot, with_noise = server.ask(calls.models())
    assert (model.name, model.version, model.refuses_unknown) == (MODEL, "bundled", True)
    assert set(model.output_volumes) >= {"labels", "probability", "uncertainty"}
    assert {"liver", "polyp"} <= model.trained_words
    assert "gallbladder" not in model.trained_words
    assert (model.hints, zero_shot.hints, with_noise.hints) == ((), ("box", "points"), ())
    assert (model.recipes[0], zero_shot.recipes[0], with_noise.recipes[0]) == ("few_shot", "tiny", "small")


def test_the_vocabulary_completes_words_with_their_codes_and_colours(server):
    first = server.ask(calls.vocabulary("sple", model=MODEL))[0]
    entry = load_vocabulary().lookup("spleen")
    assert entry is not None
    assert (first.word, first.trained, first.color, first.modalities) == (
        "spleen",
        True,
        entry.color,
        entry.modalities,
    )
    assert first.code is not None
    assert (first.code.scheme, first.code.value) == ("SCT", "78961009")
    assert server.ask(calls.vocabulary("splen"))[0].word == "spleen"
    assert len(server.ask(calls.vocabulary(limit=500))) == len(load_vocabulary().entries)
    assert server.ask(calls.vocabulary("left kidney"))[0].modifier.meaning == "Left"
    assert server.ask(calls.vocabulary("ö&limit=1#?" * 40)) == ()


# --- segmenting ---


def test_words_become_a_label_map_in_the_geometry_of_the_image(server, tmp_path):
    job = server.ask(calls.start_job(MODEL, ["spleen", "Hepar", "gallbladder"], image=CT))
    status = server.finish(job)
    assert (status.state, status.words) == ("done", ("spleen", "Hepar", "gallbladder"))
    found = server.ask(calls.job_result(job.id, tmp_path, "result"))
    assert found.path == tmp_path / "result.nii.gz"
    assert [path.name for path in tmp_path.iterdir()] == ["result.nii.gz"]
    assert found.label_names == {"spleen": 1, "Hepar": 2, "gallbladder": 3}
    assert found.not_found == ("gallbladder",)
    assert "was not trained on 'gallbladder'" in found.warnings[0]
    image, labels = sitk.ReadImage(server.studies / f"{CT}.nii.gz"), sitk.ReadImage(found.path)
    assert (labels.GetSize(), labels.GetDirection()) == (
        image.GetSize(),
        pytest.approx(image.GetDirection(), abs=1e-6),
    )
    counts = np.bincount(sitk.GetArrayFromImage(labels).ravel(), minlength=4)[1:]
    assert [found.statistics[word].voxels for word in found.label_names] == counts.tolist()


def test_a_file_that_is_sent_gives_the_mask_of_the_same_image_on_the_server(server, tmp_path):
    sent = server.ask(calls.start_job(MODEL, "liver", file=server.studies / f"{CT}.nii.gz"))
    kept = server.ask(calls.start_job(MODEL, "liver", image=CT))
    results = []
    for job in (sent, kept):
        assert server.finish(job).state == "done"
        results.append(server.ask(calls.job_result(job.id, tmp_path)))
    np.testing.assert_array_equal(voxels_of(results[0].path), voxels_of(results[1].path))


def test_what_the_model_thought_comes_as_a_volume(server, tmp_path):
    for kind in ("probability", "uncertainty"):
        job = server.ask(
            calls.start_job(
                MODEL,
                "skin lesion",
                image=PICTURE,
                options={"output_volume": kind, "result_extension": ".nii"},
            )
        )
        assert server.finish(job).state == "done"
        found = server.ask(calls.job_result(job.id, tmp_path, kind))
        assert found.path.name == f"{kind}.nii"
        assert voxels_of(found.path).dtype == np.float32


def test_a_running_job_is_cancelled_and_has_no_result(server, tmp_path):
    job = busy(server, tmp_path, 1)
    with pytest.raises(errors.ServerAnswerError, match="The job is running") as early:
        server.ask(calls.job_result(job, tmp_path))
    assert early.value.status == 409
    server.ask(calls.cancel_job(job))
    status = server.finish(server.ask(calls.job(job)))
    assert status.state == "cancelled"
    with pytest.raises(errors.ServerAnswerError) as late:
        server.ask(calls.job_result(job, tmp_path))
    assert late.value.status == 409
    assert [path.name for path in tmp_path.iterdir()] == ["new1.nii"]


def test_a_full_queue_says_when_to_come_back_and_takes_the_job_then(server, tmp_path):
    impatient = WordMaskClient(server.url, server.token, retry=RetryPolicy(attempts=1), timeout=PATIENCE)
    job = busy(server, tmp_path, 3)
    waiting = [impatient.run(calls.start_job(MODEL, LONG, image=CT)).id for _ in range(2)]
    with pytest.raises(errors.ServerBusyError, match="2 requests are waiting") as full:
        impatient.run(calls.start_job(MODEL, "liver", image=CT))
    assert full.value.retry_after is not None
    assert full.value.retry_after >= 1
    for each in (*waiting, job):
        impatient.run(calls.cancel_job(each))
    patient = WordMaskClient(
        server.url, server.token, retry=RetryPolicy(attempts=10, patience=30), timeout=PATIENCE
    )
    assert patient.run(calls.start_job(MODEL, "liver", image=CT)).state == "queued"


WRONG: list[tuple[calls.Call[Any], int, str]] = [
    (calls.start_job(MODEL, "liver", image="nobody"), 404, "no image 'nobody'"),
    (calls.start_job("other", "liver", image=CT), 404, "no model 'other'"),
    (calls.start_job(MODEL, "", image=CT), 400, "No word was given"),
    (
        calls.start_job(MODEL, "liver", image=CT, options={"points": [[1, 2, 3]]}),
        400,
        "cannot use points",
    ),
    (calls.job("0123"), 404, "no such job"),
    (calls.rollback(MODEL), 400, "nothing to go back to"),
    (calls.next_case("cleverest"), 400, "cleverest"),
    (calls.vocabulary("x", model="other"), 404, "other"),
    (calls.image_file("../app/main", Path()), 400, "not a path"),
    (calls.image_file("nobody", Path()), 404, "There is no image 'nobody'"),
]


def test_a_wrong_request_gets_the_servers_own_sentence(server):
    for call, status, words in WRONG:
        with pytest.raises(errors.ServerAnswerError, match=words) as refusal:
            server.ask(call)
        assert refusal.value.status == status, words
        assert str(refusal.value).endswith(".")
        assert str(server.studies) not in str(refusal.value)
    # Found when the job runs.
    job = server.ask(calls.start_job(MODEL, "liver", image=CT, options={"plane": "diagonal"}))
    assert "diagonal" in server.finish(job).message


# --- images and labels ---


def test_an_image_goes_to_the_server_and_comes_back_as_it_was(server, tmp_path):
    file = tmp_path / "CT 1.5 mm, Müller.nii.gz"
    sitk.WriteImage(sitk.ReadImage(server.studies / f"{CT}.nii.gz")[:8, :8, :8], str(file))
    assert server.ask(calls.upload_image("uploaded 1.5", file, {"group": "P1"})) == "uploaded 1.5"
    (kept,) = [image for image in server.ask(calls.images()) if image.id == "uploaded 1.5"]
    assert kept.info["group"] == "P1"
    assert not kept.is_labelled
    (tmp_path / "back").mkdir()
    back = server.ask(calls.image_file("uploaded 1.5", tmp_path / "back"))
    assert back.read_bytes() == file.read_bytes()
    assert back.name == "uploaded_1.5.nii.gz"


def test_a_corrected_label_map_is_kept_with_the_names_of_its_values(server, tmp_path):
    file = tmp_path / "labels.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((1, 8, 8), np.uint8)), str(file))
    server.ask(calls.upload_image("corrected", file))
    codes = {"skin lesion": {"color": [1, 2, 3]}}
    server.ask(calls.submit_label("corrected", file, {"polyp": 3, "skin lesion": 1}, codes=codes))
    (kept,) = [image for image in server.ask(calls.images()) if image.id == "corrected"]
    assert kept.is_labelled
    assert kept.labels["final"]["label_info"] == [
        {"name": "polyp", "idx": 3},
        {"color": [1, 2, 3], "name": "skin lesion", "idx": 1},
    ]
    with pytest.raises(errors.ServerAnswerError) as refusal:
        server.ask(calls.submit_label("nobody", file, {"polyp": 1}))
    assert refusal.value.status == 404


def test_an_upload_that_is_too_large_leaves_nothing(server, tmp_path):
    before = {image.id for image in server.ask(calls.images())}
    file = tmp_path / "large.nii"
    with file.open("wb") as sparse:
        sparse.truncate(40 << 20)
    for ask in (
        lambda: server.ask(calls.start_job(MODEL, "liver", file=file)),
        lambda: server.ask(calls.upload_image("large", file)),
        lambda: server.ask(calls.submit_label(CT, file, {"liver": 1})),
    ):
        with pytest.raises(errors.ServerAnswerError, match="larger than the 8 MB") as refusal:
            ask()
        assert refusal.value.status == 413
    assert list((server.app / "spool").glob("upload-*")) == []
    assert {image.id for image in server.ask(calls.images())} == before


# --- learning ---


def test_the_next_case_comes_with_a_reason_and_a_label_map_to_start_from(server, tmp_path):
    found = server.ask(calls.next_case("first", model=MODEL, words="skin lesion", skip=[CT]))
    assert found.case == PICTURE
    assert found.reason.endswith(".")
    assert found.preview is not None
    assert server.finish(found.preview).state == "done"
    assert server.ask(calls.job_result(found.preview.id, tmp_path, found.case)).label_names == {
        "skin lesion": 1
    }


def test_a_training_is_started_watched_and_stopped(server, tmp_path, request):
    labels = tmp_path / "labels.nii.gz"
    picture = sitk.ReadImage(server.studies / "dermoscopy_2.png")
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((1, *picture.GetSize()[::-1]), np.uint8)), str(labels))
    server.ask(calls.submit_label("dermoscopy_2", labels, {"skin lesion": 1}))
    assert server.ask(calls.training(MODEL)).state == "none"
    stop = calls.stop_training()
    request.addfinalizer(lambda: server.ask(stop))  # else it would slow down every test after this one
    server.ask(calls.start_training(MODEL, {"recipe": "quick", "force": True}))
    with pytest.raises(errors.ServerBusyError, match="already running") as second:
        server.ask(calls.start_training(MODEL))
    assert is_a_sentence(second.value)
    assert server.ask(calls.training(MODEL)).state == "running"
    server.ask(calls.stop_training())
    eventually(lambda: server.ask(calls.training(MODEL)).state == "stopped")
    assert "the model in use is unchanged" in server.ask(calls.training(MODEL)).message
    server.ask(calls.stop_training())  # nothing to stop is no error
    assert server.ask(calls.rollback(MODEL, to=0)) == "bundled"


# --- other ways to the same server ---


def test_qts_transport_gets_the_same_answers_with_the_same_calls_and_readers(server, tmp_path, qt):
    from WordMaskLib.panel.qt_transport import QtTransport  # needs qt

    transport = QtTransport(server.client.address, server.token, timeout=PATIENCE)

    def send(call: calls.Call[Any]) -> Any:
        ended: list[Any] = []
        transport.send(call, ended.append, ended.append)
        until(lambda: ended)
        if isinstance(ended[0], errors.ClientError):
            raise ended[0]
        return ended[0]

    job = send(calls.start_job(MODEL, "liver", file=server.studies / f"{CT}.nii.gz"))
    assert server.finish(job).state == "done"
    assert send(calls.job(job.id)).final
    found = send(calls.job_result(job.id, tmp_path, "by_qt"))
    ours = server.ask(calls.job_result(job.id, tmp_path, "by_us"))
    assert found.path.read_bytes() == ours.path.read_bytes()
    assert found.label_names == ours.label_names == {"liver": 1}
    with pytest.raises(errors.ServerAnswerError, match="no such job") as refusal:
        send(calls.job("0123"))
    assert refusal.value.status == 404


def test_a_token_opens_the_server_for_what_its_owner_may_do(server, tmp_path):
    url, realm = server.url, server.realm
    with pytest.raises(errors.EncryptionError, match="http://"):
        WordMaskClient(url.replace("http:", "https:"), timeout=PATIENCE).run(calls.health())
    for token in (None, realm.token("monailabel-user", seconds=-60)):
        with pytest.raises(errors.AccessDeniedError, match="asks for a valid token") as refusal:
            WordMaskClient(url, token).run(calls.health())
        assert refusal.value.status == 401
    token = realm.token("monailabel-user")
    user = WordMaskClient(url, token, timeout=PATIENCE)
    assert user.run(calls.health()).version == __version__
    job = user.run(calls.start_job(MODEL, "skin lesion", image=PICTURE))
    assert server.finish(job).state == "done"
    assert user.run(calls.job_result(job.id, tmp_path)).path.exists()
    for ask in (
        lambda: user.run(calls.start_training(MODEL)),
        lambda: user.run(calls.rollback(MODEL)),
        lambda: user.run(calls.submit_label(PICTURE, tmp_path / f"{job.id}.nii.gz", {"skin lesion": 1})),
    ):
        with pytest.raises(errors.AccessDeniedError, match="Your account may not do this") as denied:
            ask()
        assert denied.value.status == 403
        assert is_a_sentence(denied.value)
        assert token not in str(denied.value)
