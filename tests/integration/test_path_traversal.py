"""Ways out of the studies folder: each is first shown on MONAI Label as it is, then tried on WordMask, which
answers 4xx.

As it is means: MONAI Label's own routers, and an app with one task that reads the image that it is given.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from monailabel.config import settings
from monailabel.endpoints import datastore, infer, model, session
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.utils.app import apps

SECRET = b"what no client may see"


class ReadingTask(InferTask):  # type: ignore[misc]
    """Answers with the first bytes of its image."""

    def __init__(self) -> None:
        super().__init__(type=InferType.SEGMENTATION, labels=["x"], dimension=3, description="reads")

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[None, dict[str, Any]]:
        path = Path(request["image"])
        return None, {"read": path.read_bytes().decode(errors="replace") if path.is_file() else ""}


class PlainApp(MONAILabelApp):  # type: ignore[misc]
    """A MONAI Label app without WordMask."""

    def init_infers(self) -> dict[str, InferTask]:
        return {"reader": ReadingTask()}


@pytest.fixture
def outside(a_stub_server) -> Path:
    """A folder beside the studies with a file in it."""
    folder = Path(a_stub_server.studies.parent / "outside")
    folder.mkdir()
    (folder / "secret.nii.gz").write_bytes(SECRET)
    return folder


@pytest.fixture
def plain(a_stub_server, monkeypatch) -> Iterator[TestClient]:
    """MONAI Label's routers over `PlainApp` on the same studies."""
    app_dir, studies = settings.MONAI_LABEL_APP_DIR, settings.MONAI_LABEL_STUDIES
    http = FastAPI()
    for router in (infer.router, datastore.router, session.router, model.router):
        http.include_router(router)
    ours = apps[f"{app_dir}{studies}"]
    monkeypatch.setitem(apps, f"{app_dir}{studies}", PlainApp(app_dir, studies, {}))
    yield TestClient(http, raise_server_exceptions=False)
    apps[f"{app_dir}{studies}"] = ours


@pytest.fixture
def as_ours(a_stub_server, monkeypatch):
    """Put WordMask back in the place of the plain app."""

    def switch() -> TestClient:
        monkeypatch.setitem(
            apps, f"{settings.MONAI_LABEL_APP_DIR}{settings.MONAI_LABEL_STUDIES}", a_stub_server.app
        )
        return a_stub_server.http

    return switch


def files_around(studies: Path) -> dict[Path, bytes]:
    """Every file beside the studies, with what is in it; logs and the spool of requests aside."""
    around = studies.parent
    inside = (studies, around / "app", around / "scratch")
    return {
        p: p.read_bytes()
        for p in around.rglob("*")
        if p.is_file() and not any(p.is_relative_to(folder) for folder in inside)
    }


def assert_refused(answer: Any, studies: Path, before: dict[Path, bytes], case: str = "") -> None:
    assert 400 <= answer.status_code < 500, f"{case} {answer.text}"
    assert SECRET not in answer.content, case
    assert str(studies.parent) not in answer.text, case
    assert files_around(studies) == before, case


def test_params_cannot_name_a_file(a_stub_server, plain, as_ours, outside):
    params = {"params": json.dumps({"image": str(outside / "secret.nii.gz")})}
    open_door = plain.post("/infer/reader", params={"image": "ct"}, data=params)
    assert SECRET.decode() in open_door.text, "the hole is there in MONAI Label"
    before = files_around(a_stub_server.studies)
    for route in ("/infer/simple_vilmedsam", "/wordmask/jobs"):
        assert_refused(
            as_ours().post(route, params={"image": "ct"}, data=params), a_stub_server.studies, before
        )


def test_the_image_of_a_request_cannot_be_a_path(a_stub_server, plain, as_ours, outside):
    path = str(outside / "secret.nii.gz")
    assert SECRET.decode() in plain.post("/infer/reader", params={"image": path}).text, (
        "the hole is there in MONAI Label"
    )
    before = files_around(a_stub_server.studies)
    for route in ("/infer/simple_vilmedsam", "/wordmask/jobs"):
        for image in (path, "../outside/secret", "ct/../../outside/secret.nii.gz"):
            assert_refused(as_ours().post(route, params={"image": image}), a_stub_server.studies, before)


def test_an_image_cannot_be_added_outside(a_stub_server, plain, as_ours):
    files = {"file": ("x.nii.gz", b"planted")}
    assert plain.put("/datastore/image", params={"image": "../planted"}, files=files).status_code == 200
    planted = a_stub_server.studies.parent / "planted.nii.gz"
    assert planted.read_bytes() == b"planted", "the hole is there in MONAI Label"
    planted.unlink()
    before = files_around(a_stub_server.studies)
    for route in ("/datastore/", "/datastore/image"):
        for image in ("../planted", "/tmp/planted", "a/../../planted"):
            assert_refused(
                as_ours().put(route, params={"image": image}, files=files), a_stub_server.studies, before
            )


def test_a_label_cannot_be_saved_outside(a_stub_server, plain, as_ours):
    files = {"label": ("x.nii.gz", b"planted")}
    assert (
        plain.put("/datastore/label", params={"image": "ct", "tag": "../../planted"}, files=files).status_code
        == 200
    )
    planted = a_stub_server.studies.parent / "planted" / "ct.nii.gz"
    assert planted.read_bytes() == b"planted", "the hole is there in MONAI Label"
    planted.unlink()
    before = files_around(a_stub_server.studies)
    for query in (
        {"image": "ct", "tag": "../../planted"},
        {"image": "../ct", "tag": "final"},
        {"image": "ct", "tag": "/tmp"},
    ):
        assert_refused(
            as_ours().put("/datastore/label", params=query, files=files), a_stub_server.studies, before
        )
    saving = json.dumps({"prompt": "liver", "save_label": True, "label_tag": "../../planted"})
    for route in ("/infer/simple_vilmedsam", "/wordmask/jobs"):
        assert_refused(
            as_ours().post(route, params={"image": "ct"}, data={"params": saving}),
            a_stub_server.studies,
            before,
        )


ROUTES_OUT = [
    ("GET", "/datastore/image", {"image": "../outside/secret"}),
    ("HEAD", "/datastore/image", {"image": "../outside/secret"}),
    ("DELETE", "/datastore/image", {"id": "../outside/secret"}),
    ("DELETE", "/datastore/", {"id": "../outside/secret"}),
    ("GET", "/datastore/image/info", {"image": "../outside/secret"}),
    ("GET", "/datastore/label", {"label": "ct", "tag": "../../outside"}),
    ("GET", "/datastore/label", {"label": "../../../outside/secret", "tag": "final"}),
    ("DELETE", "/datastore/label", {"id": "../../../outside/secret", "tag": "final"}),
    ("DELETE", "/datastore/label", {"id": "ct", "tag": "../../outside"}),
    ("GET", "/session/..%2f..%2foutside", {}),
    ("DELETE", "/session/..%2f..%2foutside", {}),
    ("DELETE", "/session/%2e%2e", {}),
    ("GET", "/ohif/..%2f..%2f..%2fapp.py", {}),
    ("GET", "/ohif/..:..:app.py", {}),
    ("GET", "/proxy/dicom/..%2f..%2fsecret", {}),
    ("GET", "/static/..%2f..%2fapp.py", {}),
    ("GET", "/logs/", {}),
    ("PUT", "/model/simple_vilmedsam", {}),
    ("DELETE", "/model/simple_vilmedsam", {}),
    ("GET", "/model/..%2f..%2fapp", {}),
]


def test_no_route_leads_outside(a_stub_server, outside):
    before = files_around(a_stub_server.studies)
    for method, path, query in ROUTES_OUT:
        answer = a_stub_server.http.request(method, path, params=query)
        assert_refused(answer, a_stub_server.studies, before, f"{method} {path} {query}")


def test_a_session_of_another_name_is_not_removed(a_stub_server, plain, as_ours, outside):
    sessions = Path(settings.MONAI_LABEL_SESSION_PATH)
    (sessions / "inner").mkdir(parents=True)
    victim = sessions.parent / "victim"

    def lay_out() -> None:
        victim.mkdir(exist_ok=True)
        (victim / "meta.info").write_text(json.dumps({"name": "x", "path": "x", "image": "gone", "meta": {}}))

    lay_out()
    plain.delete("/session/..%2fvictim")
    reached = not victim.exists()
    lay_out()
    before = files_around(a_stub_server.studies)
    assert_refused(as_ours().delete("/session/..%2fvictim"), a_stub_server.studies, before)
    for route in ("/infer/simple_vilmedsam", "/wordmask/jobs"):
        assert_refused(
            as_ours().post(route, params={"session_id": "../victim"}), a_stub_server.studies, before
        )
    assert victim.exists()
    # A slash in the path does not reach MONAI Label's route, so only the query parameter of infer is a hole
    # there.
    plain.post("/infer/reader", params={"session_id": "../victim"})
    assert reached or not victim.exists(), "the hole is there in MONAI Label"


def test_an_archive_cannot_be_unpacked_outside(a_stub_server, plain, as_ours):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("../../planted.txt")
        member.size = 7
        archive.addfile(member, io.BytesIO(b"planted"))
    files = {"files": ("scan.tar", buffer.getvalue())}
    plain.put("/session/", params={"uncompress": "true"}, files=files)
    planted = list(a_stub_server.studies.parent.rglob("planted.txt"))
    for path in planted:
        path.unlink()
    before = files_around(a_stub_server.studies)
    for given in ("true", "1", "yes", "on", "TRUE"):
        assert_refused(
            as_ours().put("/session/", params={"uncompress": given}, files=files),
            a_stub_server.studies,
            before,
        )
    assert planted, "the hole is there in MONAI Label"


def test_a_parameter_given_twice_is_judged_on_every_value(a_stub_server, outside):
    before = files_around(a_stub_server.studies)
    for query in ("image=ct&image=../outside/secret", "image=../outside/secret&image=ct"):
        answer = a_stub_server.http.get(f"/datastore/image?{query}")
        assert_refused(answer, a_stub_server.studies, before)
