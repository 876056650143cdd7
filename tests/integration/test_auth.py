"""MONAI Label's own authentication over every route of ours, and one server per app folder.

Real processes, a real realm, real TLS.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.integration.auth_realm import Realm, running_realm
from tests.support.servers import PATIENCE, REPOSITORY, copy_app, copy_studies, server_on

from wordmask.demo.client import free_port
from wordmask_app.hardening.policies import POLICIES

pytestmark = pytest.mark.server

OURS = [
    key
    for key, policy in POLICIES.items()
    if policy.kind == "ours" or key[1] in ("/infer/{model}", "/reload")
]
UPLOADS = [key for key in POLICIES if key[0] == "PUT" and key[1].startswith("/datastore")]
USER, ANNOTATOR, ADMIN = "monailabel-user", "monailabel-annotator", "monailabel-admin"


@dataclass(frozen=True)
class Guarded:
    """A server that asks for tokens; app: its folder."""

    url: str
    realm: Realm
    app: Path
    studies: Path

    def ask(self, method: str, path: str, token: str | None = None) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        filled = path.replace("{name}", "simple_vilmedsam").replace("{model}", "simple_vilmedsam")
        query = {"image": "ct_chest", "label": "ct_chest", "tag": "final"}
        return httpx.request(
            method,
            self.url + re.sub("{.*?}", "0123", filled),
            headers=headers,
            params=query,
            timeout=PATIENCE,
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("auth")
    copy_app(folder)
    copy_studies(folder, "ct_chest.nii.gz")
    with running_realm() as realm:
        environment = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": realm.url}
        with server_on(folder, environment=environment) as server:
            yield Guarded(server.url, realm, server.app, server.studies)


@pytest.mark.parametrize(("method", "path"), OURS + UPLOADS + [("GET", "/info/"), ("GET", "/logs/")])
def test_without_a_token_nothing_is_answered(guarded, method, path):
    answer = guarded.ask(method, path)
    assert answer.status_code == 401, answer.text


@pytest.mark.parametrize(("method", "path"), OURS)
def test_a_token_that_is_forged_or_too_old_is_none(guarded, method, path):
    forged = guarded.realm.token(ADMIN, key=rsa.generate_private_key(public_exponent=65537, key_size=2048))
    unsigned = jwt.encode({"realm_access": {"roles": [ADMIN]}}, None, algorithm="none")
    for token in (forged, unsigned, guarded.realm.token(ADMIN, seconds=-60), "x.y.z"):
        assert guarded.ask(method, path, token).status_code == 401


def test_a_user_may_segment_and_not_administrate(guarded):
    token = guarded.realm.token(USER)
    assert guarded.ask("GET", "/info/", token).json()["name"] == "WordMask"
    assert guarded.ask("GET", "/wordmask/health", token).json()["status"] == "ok"
    assert guarded.ask("POST", "/wordmask/jobs", token).status_code == 202
    assert guarded.ask("POST", "/infer/{model}", token).status_code == 200
    for method, path in (
        ("POST", "/wordmask/models/{name}/rollback"),
        ("POST", "/reload"),
        ("GET", "/logs/"),
        *UPLOADS,
    ):
        assert guarded.ask(method, path, token).status_code == 403, path


def test_an_administrator_may_go_back_reload_and_read_the_log(guarded):
    token = guarded.realm.token(ADMIN)
    assert (
        guarded.ask("POST", "/wordmask/models/{name}/rollback", token).status_code == 400
    )  # nothing to go back to, said in a sentence
    assert guarded.ask("POST", "/reload", token).status_code == 200
    assert guarded.ask("GET", "/logs/", token).status_code == 200


def test_another_server_on_the_same_app_folder_is_refused_and_the_first_goes_on(guarded):
    ended = start(guarded.app, guarded.studies)
    assert ended.returncode != 0
    assert "Another server runs from this app folder already" in ended.stdout
    assert guarded.ask("GET", "/info/", guarded.realm.token(USER)).status_code == 200


def test_several_server_processes_are_refused(tmp_path):
    """Uvicorn's own supervisor kills workers that import for over 5 s and starts them again, so a plain one
    stands for it here.
    """
    supervisor = tmp_path / "supervisor.py"
    supervisor.write_text(
        "import multiprocessing, time\n"
        "def work():\n    from wordmask_app.app import _refuse_workers\n    _refuse_workers()\n"
        "if __name__ == '__main__':\n    multiprocessing.get_context('spawn').Process(target=work).start()\n "
        "   time.sleep(600)\n"
    )
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY / "monailabel_app")}
    ended = subprocess.run(
        [sys.executable, supervisor],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=variables,
        check=False,
    )
    assert "WordMask runs in one server process" in ended.stderr
    assert ended.returncode == -signal.SIGTERM


def start(app: Path, studies: Path) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself, with what it printed."""
    command = [
        sys.executable,
        "-m",
        "monailabel.main",
        "start_server",
        "--app",
        str(app),
        "--studies",
        str(studies),
    ]
    command += ["--host", "127.0.0.1", "--port", str(free_port()), "--conf", "device", "cpu"]
    together = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, **together, text=True, timeout=PATIENCE, check=False)
