"""What happens when something breaks.

Each row of the fault table of docs/server.md, on a real server process.

The first tests share the server of all, which has to live through them; the last ones fill and kill a server
of their own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from tests.support.servers import (
    MODEL,
    PATIENCE,
    RunningServer,
    copy_app,
    copy_studies,
    eventually,
    server_on,
)

from wordmask.demo.client import AppClient, ServerAnswer, ServerError
from wordmask.weights.checkpoint import WEIGHTS, checkpoint_folder
from wordmask.weights.versions import ModelStore

pytestmark = pytest.mark.server

CT, PICTURE = "ct_trunk", "dermoscopy_1"
LONG = {
    "words": "liver, spleen, heart, lung",
    "plane": "sagittal",
}  # of `a_new_volume`: half a minute on two cores


def labels_of(answer: ServerAnswer, folder: Path) -> np.ndarray[Any, Any]:
    path = folder / f"{threading.get_ident()}-{answer.file_name}"
    path.write_bytes(answer.file or b"")
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def a_new_volume(folder: Path, seed: int, *, size: tuple[int, int, int] = (96, 96, 600)) -> bytes:
    """A volume that no cache knows, as a file."""
    voxels = np.random.default_rng(seed).normal(0, 200, size).astype(np.int16)
    path = folder / f"new{seed}.nii"
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    return path.read_bytes()


def hold(client: AppClient, folder: Path, seed: int) -> str:
    """Keep the worker busy until the job is cancelled: its id."""
    job: str = client.start_job(MODEL, params=LONG, upload=("long.nii", a_new_volume(folder, seed)))["id"]
    eventually(lambda: client.job(job)["done"] > 0)
    return job


def uploads(server: RunningServer) -> list[Path]:
    return list((server.app / "spool").glob("upload-*"))


# --- one server that lives through all of this
# --------------------------------------------------------------------------------------


def test_a_client_that_goes_away_during_infer_cancels_its_job(a_server, tmp_path):
    def jobs() -> list[str]:
        return [
            job["id"]
            for job in requests.get(f"{a_server.url}/wordmask/jobs", timeout=PATIENCE).json()["jobs"]
        ]

    before, files = jobs(), {"file": ("x.nii", a_new_volume(tmp_path, 1))}
    asked = requests.Request(
        "POST", f"{a_server.url}/infer/{MODEL}", data={"params": json.dumps(LONG)}, files=files
    ).prepare()
    connection = http.client.HTTPConnection(a_server.url.removeprefix("http://"))
    connection.request("POST", asked.path_url, asked.body, dict(asked.headers))
    eventually(lambda: len(jobs()) > len(before))
    (new,) = set(jobs()) - set(before)
    eventually(lambda: a_server.client.job(new)["done"] > 0)
    connection.close()
    assert a_server.client.wait(new, timeout=PATIENCE)["state"] == "cancelled"


def test_a_client_that_goes_away_during_an_upload_leaves_nothing(a_server):
    host, port = a_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            "POST /wordmask/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; "
            "boundary=b\r\nContent-Length: 5000000\r\n\r\n"
        )
        part = '--b\r\nContent-Disposition: form-data; name="file"; filename="x.nii"\r\n\r\n'
        connection.sendall((head + part).encode() + bytes(100_000))
    assert a_server.client.infer(MODEL, PICTURE, {"words": "skin lesion"}).file
    eventually(lambda: uploads(a_server) == [])


def test_a_job_outlives_the_client_that_asked_for_it(a_server):
    job = AppClient(a_server.url).start_job(MODEL, CT, {"words": "liver"})["id"]
    other = AppClient(a_server.url)
    assert other.wait(job, timeout=PATIENCE)["state"] == "done"
    assert other.result(job).fields["label_names"] == {"liver": 1}


def test_cancel_takes_effect_while_it_computes(a_server, tmp_path):
    client = a_server.client
    job = hold(client, tmp_path, 2)
    client.cancel(job)
    status = client.wait(job, timeout=PATIENCE)
    assert status["state"] == "cancelled"
    assert status["done"] < status["total"]


def test_two_clients_with_one_image_and_different_words_get_what_they_get_alone(a_server, tmp_path):
    client = a_server.client
    questions = ["liver", "spleen, heart"]
    alone = [labels_of(client.infer(MODEL, CT, {"words": words}), tmp_path) for words in questions]
    with ThreadPoolExecutor(2) as pool:
        together = list(
            pool.map(lambda words: labels_of(client.infer(MODEL, CT, {"words": words}), tmp_path), questions)
        )
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_twenty_clients_at_once_are_all_served_and_none_is_lost(a_server, tmp_path):
    client = a_server.client
    expected = labels_of(client.infer(MODEL, PICTURE, {"words": "skin lesion"}), tmp_path)
    busy = hold(client, tmp_path, 3)
    refusals: list[tuple[int | None, float | None]] = []

    def ask(_: int) -> np.ndarray[Any, Any]:
        mine, answers = AppClient(a_server.url, timeout=PATIENCE), []

        def served() -> bool:
            try:
                answers.append(mine.infer(MODEL, PICTURE, {"words": "skin lesion"}))
            except ServerError as error:
                refusals.append((error.status, error.retry_after))
            return bool(answers)

        eventually(served, every=0.5)
        return labels_of(answers[0], tmp_path)

    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(ask, number) for number in range(20)]
        try:
            eventually(lambda: bool(refusals))  # eight may wait, so some of twenty are told to come back
        finally:
            client.cancel(busy)
        for one in asked:
            np.testing.assert_array_equal(one.result(), expected)
    assert all(status == 429 and wait is not None and wait >= 1 for status, wait in refusals)


def test_an_image_that_is_deleted_while_it_waits_is_missed_with_a_sentence(a_server, tmp_path):
    client, studies = a_server.client, a_server.studies
    known = client.info()["datastore"]["total"]
    shutil.copy(studies / f"{PICTURE}.png", studies / "short_lived.png")
    eventually(lambda: client.info()["datastore"]["total"] == known + 1)
    busy = hold(client, tmp_path, 4)
    job = client.start_job(MODEL, "short_lived", {"words": "skin lesion"})["id"]
    (studies / "short_lived.png").unlink()
    client.cancel(busy)
    status = client.wait(job, timeout=PATIENCE)
    assert (status["state"], status["status_code"]) == ("failed", 404)
    assert status["message"].endswith(".")


def test_a_job_survives_a_reload(a_server, tmp_path):
    client = a_server.client
    job = hold(client, tmp_path, 5)
    assert requests.post(f"{a_server.url}/reload", timeout=PATIENCE).status_code == 200
    assert client.job(job)["state"] == "running"
    client.cancel(job)
    assert client.infer(MODEL, PICTURE, {"words": "skin lesion"}).file


def test_too_little_memory_is_a_sentence_and_the_server_lives(a_server, tmp_path):
    client, process_id = a_server.client, a_server.process.process_id
    volume = a_new_volume(tmp_path, 6, size=(400, 400, 400))  # 128 MB
    in_use = int(Path(f"/proc/{process_id}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(process_id, resource.RLIMIT_AS, (in_use + 150 * 2**20, resource.RLIM_INFINITY))
    try:
        job = client.start_job(MODEL, params={"words": "liver"}, upload=("large.nii", volume))["id"]
        status = client.wait(job, timeout=PATIENCE)
    finally:
        resource.prlimit(process_id, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (status["state"], status["status_code"]) == ("failed", 503), status["message"]
    assert "memory" in status["message"]
    assert client.infer(MODEL, PICTURE, {"words": "skin lesion"}).file


# --- a server that is filled, killed, and started again on what is broken
# ------------------------------------------------------------


@dataclass(frozen=True)
class Doomed:
    """is_small: whether its folder is a disk of 64 MB."""

    server: RunningServer
    is_small: bool


@pytest.fixture(scope="module")
def doomed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doomed]:
    """A server with two studies that keeps its features on the disk."""
    folder = tmp_path_factory.mktemp("doomed")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        copy_app(folder)
        copy_studies(folder, f"{CT}.nii.gz", f"{PICTURE}.png")
        with server_on(folder, cache_dir=str(folder / "cache")) as server:
            yield Doomed(server, mounted.returncode == 0)
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def put_label(url: str, content: bytes) -> requests.Response:
    names = {"label_info": [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}]}
    return requests.put(
        f"{url}/datastore/label",
        params={"image": CT, "tag": "final"},
        data={"params": json.dumps(names)},
        files={"label": ("label.nii.gz", content)},
        timeout=PATIENCE,
    )


def noisy_labels(folder: Path, studies: Path, seed: int) -> bytes:
    """A label map of the CT that hardly gets smaller when it is compressed."""
    image = sitk.ReadImage(studies / f"{CT}.nii.gz")
    shape = image.GetSize()[::-1]
    labels = sitk.GetImageFromArray(np.random.default_rng(seed).integers(0, 3, shape, dtype=np.uint8))
    labels.CopyInformation(image)
    sitk.WriteImage(labels, folder / "labels.nii.gz")
    return (folder / "labels.nii.gz").read_bytes()


def test_a_full_disk_is_a_sentence_and_the_server_works_again_when_there_is_room(doomed, tmp_path):
    if not doomed.is_small:
        pytest.skip("mounting a small disk is not permitted here, so a full disk was NOT tried")
    url, client, ballast = doomed.server.url, doomed.server.client, doomed.server.folder / "ballast"
    expected = client.infer(MODEL, PICTURE, {"words": "skin lesion"}).file
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    noise, labels = os.urandom(3_000_000), noisy_labels(tmp_path, doomed.server.studies, 0)
    uncompressed = {"params": json.dumps({"words": "liver", "result_extension": ".nii"})}
    refusals = [
        requests.post(f"{url}/wordmask/jobs", files={"file": ("x.nii.gz", noise)}, timeout=PATIENCE),
        put_label(url, labels),
        requests.put(
            f"{url}/datastore/image",
            params={"image": "x"},
            files={"file": ("x.nii.gz", noise)},
            timeout=PATIENCE,
        ),
        requests.post(f"{url}/infer/{MODEL}", params={"image": CT}, data=uncompressed, timeout=PATIENCE),
    ]
    assert [answer.status_code for answer in refusals] == [507] * 4
    assert all("disk is full" in answer.json()["detail"] for answer in refusals)
    assert client.info()["datastore"]["completed"] == 0
    ballast.unlink()
    assert client.infer(MODEL, PICTURE, {"words": "skin lesion"}).file == expected


@dataclass(frozen=True)
class Restarted:
    """job: that of the server before, which was killed.

    answer: its to `liver, spleen`; label: what it left as label of the CT; sent: all that it was sent.
    """

    server: RunningServer
    job: str
    answer: ServerAnswer
    label: bytes
    sent: list[bytes]


@pytest.fixture(scope="module")
def restarted(doomed: Doomed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restarted]:
    """Killed while it computes and saves labels.

    Before it starts again, its cache and its newest version are damaged.
    """
    server, scratch, saved = doomed.server, tmp_path_factory.mktemp("scratch"), threading.Semaphore(0)
    answer = server.client.infer(MODEL, CT, {"words": "liver, spleen"})
    sent = [noisy_labels(scratch, server.studies, seed) for seed in (1, 2)]

    def save() -> None:
        with contextlib.suppress(requests.RequestException):
            for number in range(10_000):
                put_label(server.url, sent[number % 2]).raise_for_status()
                saved.release()

    saving = threading.Thread(target=save)
    job = hold(server.client, scratch, 7)
    assert uploads(server)
    saving.start()
    assert all(saved.acquire(timeout=PATIENCE) for _ in range(5))
    server.process.kill()
    saving.join()
    label = (server.studies / "labels" / "final" / f"{CT}.nii.gz").read_bytes()

    kept = sorted((server.folder / "cache").glob("*.safetensors"))
    assert kept
    for path in kept[::3]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    store = ModelStore(server.app / "model" / MODEL)
    number = store.publish(
        lambda folder: shutil.copytree(
            checkpoint_folder("bundled/simple_vilmedsam_tiny"), folder, dirs_exist_ok=True
        )
    )
    weights = store.folder(number) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with server_on(server.folder, cache_dir=str(server.folder / "cache")) as again:
        yield Restarted(again, job, answer, label, sent)


def test_a_server_killed_during_a_job_starts_again_and_knows_nothing_of_it(restarted):
    with pytest.raises(ServerError, match="no such job") as lost:
        restarted.server.client.job(restarted.job)
    assert lost.value.status == 404
    assert uploads(restarted.server) == []
    assert restarted.server.client.infer(MODEL, PICTURE, {"words": "skin lesion"}).file


def test_a_server_killed_while_it_saves_labels_keeps_the_old_one_or_the_new_one(restarted):
    assert restarted.label in restarted.sent
    found = restarted.server.client.info()["datastore"]
    assert (found["total"], found["completed"]) == (2, 1)
    kept = requests.get(
        f"{restarted.server.url}/datastore/label", params={"label": CT, "tag": "final"}, timeout=PATIENCE
    )
    assert kept.content == restarted.label


def test_a_damaged_model_version_and_a_damaged_cache_cost_a_warning_and_no_result(restarted, tmp_path):
    after = restarted.server.client.infer(MODEL, CT, {"words": "liver, spleen"})
    assert after.fields["version"] == "bundled"
    np.testing.assert_array_equal(labels_of(after, tmp_path), labels_of(restarted.answer, tmp_path))
    log = restarted.server.log.read_text()
    assert "are damaged" in log
    assert "Version 1" in log or "version 1" in log
