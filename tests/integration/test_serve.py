"""``wordmask serve`` as a user starts it.

Folders with blanks and umlauts, no ``python`` on the PATH, Ctrl-C.
"""

from __future__ import annotations

import shutil
import signal

import psutil
import pytest
from tests.support.servers import PATIENCE, SAMPLES, eventually, serving, training_process

from wordmask.demo.client import AppClient, free_port
from wordmask.demo.samples import load_samples

MODEL = "simple_vilmedsam"

pytestmark = pytest.mark.server


def test_it_serves_from_folders_with_blanks_and_ctrl_c_ends_it_and_its_training(tmp_path):
    folder = tmp_path / "Lärm und Leere"
    studies = folder / "Bilder für heute"
    studies.mkdir(parents=True)
    cases = [case for case in load_samples(SAMPLES) if case.name.startswith("dermoscopy")]
    for case in cases:
        shutil.copy(case.image, studies)
    port = free_port()
    arguments = (
        "--studies",
        str(studies),
        "--app",
        str(folder / "App Ü"),
        "--port",
        str(port),
        "--conf",
        "models=simple_vilmedsam",
    )
    with serving(folder, *arguments) as (server, lines):
        assert f"WordMask is ready at http://127.0.0.1:{port} (Ctrl-C ends it).\n" in lines, (
            folder / "log"
        ).read_text()
        client = AppClient(f"http://127.0.0.1:{port}")
        assert set(client.info()["models"]) == {MODEL}
        assert client.infer(MODEL, cases[0].name, {"words": "skin lesion"}).fields["label_names"] == {
            "skin lesion": 1
        }
        for case in cases:
            client.submit_label(case.name, case.truth, {"skin lesion": case.words["skin lesion"][0]})
        client.start_training(MODEL, {"steps": 3000})
        training_process(server.pid)
        children = psutil.Process(server.pid).children(recursive=True)
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE) == 0
    eventually(lambda: lines[-1] == "WordMask has stopped.\n")  # read by another thread
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert (folder / "App Ü" / "logs" / "app.log").stat().st_size
