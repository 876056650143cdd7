"""What happens when something breaks: each row of the fault table of docs/server.md, on a real server process.

The first tests share one server, which has to live through all of them; those that kill it start their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk

from wordmask.app_client import Answer, AppClient, Server, ServerError, running_server
from wordmask.bundles import WEIGHTS, bundle_folder
from wordmask.versions import ModelStore

pytestmark = pytest.mark.server

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL, CT, PICTURE = "simple_vilmedsam", "ct_trunk", "dermoscopy_1"
PATIENCE = 60.0
LONG = {"prompt": "liver, spleen, heart, lung", "plane": "sagittal"}  # several seconds on two cores


@contextlib.contextmanager
def a_server_on(folder: Path, **conf: str) -> Iterator[tuple[Server, AppClient]]:
    """A server on ``folder/app`` and ``folder/studies``, made when they are not there; what it prints is in ``folder/log``."""
    if not (folder / "app").exists():
        unwanted = shutil.ignore_patterns("logs", "model", "spool", "__pycache__")
        shutil.copytree(REPOSITORY / "monailabel_app", folder / "app", ignore=unwanted)
    if not (folder / "studies").exists():
        (folder / "studies").mkdir()
        for name in (f"{CT}.nii.gz", f"{PICTURE}.png"):
            shutil.copy(REPOSITORY / "sample_data" / "studies" / name, folder / "studies")
    with running_server(folder / "app", folder / "studies", log=folder / "log", conf={"device": "cpu", **conf}) as server:
        yield server, AppClient(server.url, timeout=PATIENCE)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, AppClient, Path]]:
    folder = tmp_path_factory.mktemp("faults")
    with a_server_on(folder, queue="4") as (server, client):
        yield server, client, folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted here, so a full disk was NOT tried")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def labels_of(answer: Answer, folder: Path) -> np.ndarray[Any, Any]:
    path = folder / f"{threading.get_ident()}-{answer.file_name}"
    path.write_bytes(answer.file or b"")
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def a_new_volume(folder: Path, seed: int, *, size: tuple[int, int, int] = (96, 96, 96)) -> bytes:
    """A volume that no cache knows, as a file."""
    voxels = np.random.default_rng(seed).normal(0, 200, size).astype(np.int16)
    path = folder / f"new{seed}.nii"
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    return path.read_bytes()


def hold(client: AppClient, folder: Path, seed: int) -> str:
    """Keep the worker busy for some seconds: the id of the job that does."""
    job: str = client.start_job(MODEL, params=LONG, upload=("long.nii", a_new_volume(folder, seed)))["id"]
    eventually(lambda: client.job(job)["done"] > 0)
    return job


# --- one server that lives through all of this --------------------------------------------------------------------------------------


def test_a_client_that_goes_away_during_infer_cancels_its_job(shared, tmp_path):
    server, client, _ = shared
    with pytest.raises(requests.ReadTimeout):
        requests.post(
            f"{server.url}/infer/{MODEL}",
            data={"params": json.dumps(LONG)},
            files={"file": ("x.nii", a_new_volume(tmp_path, 1))},
            timeout=(5, 1.5),
        )
    newest = requests.get(f"{server.url}/wordmask/jobs", timeout=10).json()["jobs"][0]["id"]
    assert client.wait(newest, timeout=PATIENCE)["state"] == "cancelled"


def test_a_client_that_goes_away_during_an_upload_leaves_nothing(shared):
    server, client, folder = shared
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = "POST /wordmask/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000000\r\n\r\n"
        part = '--b\r\nContent-Disposition: form-data; name="file"; filename="x.nii"\r\n\r\n'
        connection.sendall((head + part).encode() + bytes(100_000))
    assert client.infer(MODEL, PICTURE, {"prompt": "skin lesion"}).file
    assert list((folder / "app" / "spool").glob("upload-*")) == []


def test_a_job_outlives_the_client_that_asked_for_it(shared):
    server, _, _ = shared
    job = AppClient(server.url).start_job(MODEL, CT, {"prompt": "liver"})["id"]
    other = AppClient(server.url)
    assert other.wait(job, timeout=PATIENCE)["state"] == "done"
    assert other.result(job).fields["label_names"] == {"liver": 1}


def test_cancel_takes_effect_while_it_computes(shared, tmp_path):
    _, client, _ = shared
    job = hold(client, tmp_path, 2)
    client.cancel(job)
    status = client.wait(job, timeout=PATIENCE)
    assert status["state"] == "cancelled"
    assert status["done"] < status["total"]


def test_two_clients_with_one_image_and_different_words_get_what_they_get_alone(shared, tmp_path):
    _, client, _ = shared
    questions = ["liver", "spleen, heart"]
    alone = [labels_of(client.infer(MODEL, CT, {"prompt": words}), tmp_path) for words in questions]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda words: labels_of(client.infer(MODEL, CT, {"prompt": words}), tmp_path), questions))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_twenty_clients_at_once_are_all_served_and_none_is_lost(shared, tmp_path):
    server, client, _ = shared
    expected = labels_of(client.infer(MODEL, PICTURE, {"prompt": "skin lesion"}), tmp_path)
    busy = hold(client, tmp_path, 3)
    refusals: list[tuple[int | None, float | None]] = []

    def ask(number: int) -> np.ndarray[Any, Any]:
        mine = AppClient(server.url, timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                return labels_of(mine.infer(MODEL, PICTURE, {"prompt": "skin lesion"}), tmp_path)
            except ServerError as error:
                refusals.append((error.status, error.retry_after))
                time.sleep(1.0)
        raise AssertionError(f"client {number} was never served")

    with ThreadPoolExecutor(20) as pool:
        threading.Timer(1.0, lambda: client.cancel(busy)).start()
        for labels in pool.map(ask, range(20)):
            np.testing.assert_array_equal(labels, expected)
    assert refusals, "four may wait, so some of twenty are told to come back"
    assert all(status == 429 and wait is not None and wait >= 1 for status, wait in refusals)


def test_an_image_that_is_deleted_while_it_waits_is_missed_with_a_sentence(shared, tmp_path):
    _, client, folder = shared
    shutil.copy(folder / "studies" / f"{PICTURE}.png", folder / "studies" / "short_lived.png")
    eventually(lambda: client.info()["datastore"]["total"] == 3)
    busy = hold(client, tmp_path, 4)
    job = client.start_job(MODEL, "short_lived", {"prompt": "skin lesion"})["id"]
    (folder / "studies" / "short_lived.png").unlink()
    client.cancel(busy)
    status = client.wait(job, timeout=PATIENCE)
    assert (status["state"], status["status_code"]) == ("failed", 404)
    assert status["message"].endswith(".")


def test_a_job_survives_a_reload(shared, tmp_path):
    server, client, _ = shared
    job = hold(client, tmp_path, 5)
    assert requests.post(f"{server.url}/reload", timeout=PATIENCE).status_code == 200
    assert client.job(job)["state"] == "running"
    client.cancel(job)
    assert client.infer(MODEL, PICTURE, {"prompt": "skin lesion"}).file


def test_too_little_memory_is_a_sentence_and_the_server_lives(shared, tmp_path):
    server, client, _ = shared
    volume = a_new_volume(tmp_path, 6, size=(400, 400, 400))  # 128 MB
    in_use = int(Path(f"/proc/{server.process_id}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(server.process_id, resource.RLIMIT_AS, (in_use + 150 * 2**20, resource.RLIM_INFINITY))
    try:
        job = client.start_job(MODEL, params={"prompt": "liver"}, upload=("large.nii", volume))["id"]
        status = client.wait(job, timeout=PATIENCE)
    finally:
        resource.prlimit(server.process_id, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (status["state"], status["status_code"]) == ("failed", 503), status["message"]
    assert "memory" in status["message"]
    assert client.infer(MODEL, PICTURE, {"prompt": "skin lesion"}).file


# --- servers that are killed, or start on what is broken ----------------------------------------------------------------------------


def test_a_server_killed_during_a_job_starts_again_and_knows_nothing_of_it(tmp_path):
    with a_server_on(tmp_path) as (server, client):
        job = hold(client, tmp_path, 7)
        assert list((tmp_path / "app" / "spool").glob("upload-*"))
        server.kill()
    with a_server_on(tmp_path) as (_, client):
        with pytest.raises(ServerError, match="no such job") as lost:
            client.job(job)
        assert lost.value.status == 404
        assert list((tmp_path / "app" / "spool").glob("upload-*")) == []
        assert client.infer(MODEL, PICTURE, {"prompt": "skin lesion"}).file


def test_a_server_killed_while_it_saves_labels_keeps_the_old_one_or_the_new_one(tmp_path):
    contents = [bytes([value]) * 2_000_000 for value in (1, 2)]
    with a_server_on(tmp_path) as (server, _):

        def save() -> None:
            for number in range(10_000):
                with contextlib.suppress(requests.RequestException):
                    requests.put(
                        f"{server.url}/datastore/label",
                        params={"image": CT, "tag": "final"},
                        files={"label": ("label.nii.gz", contents[number % 2])},
                        timeout=5,
                    )
                    continue
                return

        saving = threading.Thread(target=save)
        saving.start()
        label = tmp_path / "studies" / "labels" / "final" / f"{CT}.nii.gz"
        eventually(label.exists)
        time.sleep(0.3)
        server.kill()
        saving.join()
    assert label.read_bytes() in contents
    with a_server_on(tmp_path) as (server, client):
        assert client.info()["datastore"] | {"label_tags": None} == {"total": 2, "completed": 1, "label_tags": None}
        kept = requests.get(f"{server.url}/datastore/label", params={"label": CT, "tag": "final"}, timeout=PATIENCE)
        assert kept.content in contents


def test_a_damaged_model_version_and_a_damaged_cache_cost_a_warning_and_no_result(tmp_path):
    cache = tmp_path / "cache"
    with a_server_on(tmp_path, cache_dir=str(cache)) as (_, client):
        before = client.infer(MODEL, CT, {"prompt": "liver, spleen"})
    kept = sorted(cache.glob("*.safetensors"))
    assert kept
    for path in kept[::3]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    store = ModelStore(tmp_path / "app" / "model" / MODEL)
    number = store.publish(lambda folder: shutil.copytree(bundle_folder("bundled/simple_vilmedsam_tiny"), folder, dirs_exist_ok=True))
    weights = store.folder(number) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with a_server_on(tmp_path, cache_dir=str(cache)) as (_, client):
        after = client.infer(MODEL, CT, {"prompt": "liver, spleen"})
    assert after.fields["version"] == "bundled"
    np.testing.assert_array_equal(labels_of(after, tmp_path), labels_of(before, tmp_path))
    log = (tmp_path / "log").read_text()
    assert "are damaged" in log
    assert "Version 1" in log or "version 1" in log


def test_a_full_disk_is_a_sentence_and_the_server_works_again_when_there_is_room(small_disk):
    with a_server_on(small_disk) as (server, client):
        expected = client.infer(MODEL, PICTURE, {"prompt": "skin lesion"}).file
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        noise = os.urandom(3_000_000)
        refusals = [
            requests.post(f"{server.url}/wordmask/jobs", files={"file": ("x.nii.gz", noise)}, timeout=PATIENCE),
            requests.put(
                f"{server.url}/datastore/label",
                params={"image": CT, "tag": "final"},
                files={"label": ("x.nii.gz", noise)},
                timeout=PATIENCE,
            ),
            requests.put(f"{server.url}/datastore/image", params={"image": "x"}, files={"file": ("x.nii.gz", noise)}, timeout=PATIENCE),
        ]
        uncompressed = {"params": json.dumps({"prompt": "liver", "result_extension": ".nii"})}
        refusals.append(requests.post(f"{server.url}/infer/{MODEL}", params={"image": CT}, data=uncompressed, timeout=PATIENCE))
        assert [answer.status_code for answer in refusals] == [507] * 4
        assert all("disk is full" in answer.json()["detail"] for answer in refusals)
        assert client.info()["datastore"]["completed"] == 0
        ballast.unlink()
        assert client.infer(MODEL, PICTURE, {"prompt": "skin lesion"}).file == expected
