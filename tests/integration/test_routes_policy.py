"""Every route of the server has a policy, and the documentation shows the same table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from fastapi import APIRouter
from starlette.routing import Mount
from tests.support.servers import REPOSITORY

from wordmask_app.hardening.policies import POLICIES
from wordmask_app.http.faults import fault_of

AUTHENTICATION = {
    path for path in POLICIES if path[1].startswith("/auth/")
}  # MONAI Label adds these when it is turned on


def routes_of(router: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route, also of those that the OpenAPI document hides."""
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:  # FastAPI keeps an included router whole
            yield from routes_of(inner, prefix)
        elif isinstance(route, Mount):
            yield from ((method, f"{prefix}{route.path}/{{path:path}}") for method in ("GET", "HEAD"))
        else:
            yield from ((method, prefix + route.path) for method in route.methods)


def test_every_route_has_a_policy_and_every_policy_has_a_route(a_stub_server):
    served = set(routes_of(a_stub_server.http.app))
    assert served - set(POLICIES) == set(), "a new route: decide in policies.py what becomes of it"
    assert set(POLICIES) - served - AUTHENTICATION == set()


def test_a_route_that_is_not_in_the_table_is_not_served(a_stub_server):
    added = APIRouter()

    @added.get("/backdoor")
    def backdoor() -> dict[str, str]:
        return {"secret": "read"}

    app = a_stub_server.http.app
    before = list(app.router.routes)
    try:
        app.include_router(added)
        assert ("GET", "/backdoor") in set(routes_of(app)) - set(POLICIES)
        answer = a_stub_server.http.get("/backdoor")
    finally:
        app.router.routes[:] = before
    assert answer.status_code == 404
    assert "secret" not in answer.text


def test_what_is_refused_says_why(a_stub_server):
    refused = [key for key, policy in POLICIES.items() if policy.kind == "refused"]
    assert refused
    for method, path in refused:
        answer = a_stub_server.http.request(
            method, re.sub(r"{\w+(:path)?}", "simple_vilmedsam", path), files={"file": ("x.pt", b"x")}
        )
        assert answer.status_code == 403, (method, path)
        assert answer.json()["detail"].startswith("WordMask does not offer this route"), (method, path)


@pytest.mark.parametrize(
    "path", ["/batch/infer/simple_vilmedsam", "/train/", "/scoring/", "/activelearning/random"]
)
def test_a_background_task_takes_no_paths(a_stub_server, path):
    bodies = (
        "{",
        "[1]",
        '{"label_tag": "../../x"}',
        '{"a": {"b": ["/etc/passwd"]}}',
        '{"images": ["../x"]}',
        "[" * 90_000,
    )
    for body in bodies:
        answer = a_stub_server.http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, (body[:80], answer.text)
        assert answer.json()["detail"].endswith("."), body[:80]


def test_nothing_runs_in_the_event_loop_and_unknown_names_are_not_found(a_stub_server):
    assert (
        a_stub_server.http.post(
            "/batch/infer/simple_vilmedsam", params={"run_sync": "true"}, json={}
        ).status_code
        == 400
    )
    for path in (
        "/batch/infer/nobody",
        "/train/nobody",
        "/scoring/nobody",
        "/activelearning/nobody",
        "/model/nobody",
    ):
        method = "GET" if path.startswith("/model") else "POST"
        assert a_stub_server.http.request(method, path).status_code == 404


def test_the_next_image_can_be_asked_for(a_stub_server):
    answer = a_stub_server.http.post("/activelearning/random", json={"client_id": "reader-1"})
    assert answer.status_code == 200
    assert answer.json()["id"]


def test_errors_of_monai_label_do_not_name_its_folders(a_stub_server, monkeypatch):
    monkeypatch.setattr("monailabel.config.settings.MONAI_LABEL_AUTH_ENABLE", False)
    answers = [
        a_stub_server.http.get("/logs/"),
        a_stub_server.http.get("/datastore/image", params={"image": "nobody"}),
        a_stub_server.http.put(
            "/datastore/label", params={"image": "nobody"}, files={"label": ("x.nii.gz", b"x")}
        ),
        a_stub_server.http.get("/proxy/dicom/wado/studies"),
    ]
    for answer in answers:
        assert 400 <= answer.status_code < 500
        assert str(a_stub_server.studies.parent) not in answer.text


def test_what_a_client_cannot_mean_is_a_sentence_and_not_a_failure(a_stub_server):
    http = a_stub_server.http
    files = [("files", ("a.nii.gz", b"1")), ("files", ("b.nii.gz", b"2"))]
    session = http.put("/session/", files=files).json()["session_id"]
    answers = [
        http.request("HEAD", "/datastore/image", params={"image": "ct", "check_sum": "CRC:12"}),
        http.get(f"/session/{session}", params={"image": "true"}),
        http.put("/session/", files={"files": ("..", b"1")}),
        http.put("/datastore/image", params={"image": "new"}, files={"file": ("a." + "b" * 300, b"x")}),
        http.put("/datastore/image", params={"image": "labels/final/ct"}, files={"file": ("x.nii.gz", b"x")}),
        http.post("/batch/infer/simple_vilmedsam", json={"images": "some"}),
        http.post("/batch/infer/simple_vilmedsam", json={"bundle_path": "tests"}),
        http.post("/batch/infer/simple_vilmedsam", json={"model": ["simple_vilmedsam"]}),
        http.post("/activelearning/random", json={"strategy": ["random"]}),
        *(
            http.put("/datastore/image/info", params={"image": "ct"}, data={"info": info})
            for info in ('{"a": NaN}', '{"a": "\\ud800"}')
        ),
    ]
    assert [answer.status_code for answer in answers] == [400] * len(answers)
    assert http.get("/datastore/", params={"output": "all"}).status_code == 200


def test_the_next_image_does_not_depend_on_what_clients_wrote(a_stub_server):
    for written in ("x", {"random": "x"}, {"random": {"ts": "x"}}, {"random": {"ts": 10**12}}):
        for image in a_stub_server.app.datastore().list_images():
            info = json.dumps({"strategy": written})
            assert (
                a_stub_server.http.put(
                    "/datastore/image/info", params={"image": image}, data={"info": info}
                ).status_code
                == 200
            )
        for _ in range(3):
            assert a_stub_server.http.post("/activelearning/random", json={}).json()["id"], written


def test_the_trace_of_an_error_is_logged_once_under_its_reference(caplog):
    error = KeyError("nobody foresaw this")
    first, second = fault_of(error), fault_of(error)
    assert first == second
    assert first.status == 500
    assert sum("KeyError" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(("status", "told"), [(401, 401), (400, 401), (500, 503), (None, 503)])
def test_a_realm_or_dicomweb_server_that_fails_is_told_apart_from_ours(status, told):
    response = requests.Response()
    if status is None:
        assert fault_of(requests.ConnectionError("http://realm/secret")).status == told
        return
    response.status_code = status
    assert fault_of(requests.HTTPError(response=response)).status == told


def test_a_body_beyond_the_limit_is_refused_whether_or_not_it_says_its_length(a_stub_server, monkeypatch):
    from wordmask_app.http import guards

    guards.install(a_stub_server.http.app, upload_bytes=10_000)
    announced = a_stub_server.http.put(
        "/datastore/image", params={"image": "big"}, files={"file": ("big.nii", b"0" * 20_000)}
    )

    def in_pieces() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.nii"\r\n\r\n'
        for _ in range(20):
            yield b"0" * 1000
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    streamed = a_stub_server.http.put(
        "/datastore/image", params={"image": "big"}, content=in_pieces(), headers=headers
    )
    assert (announced.status_code, streamed.status_code) == (413, 413)
    assert not (a_stub_server.studies / "big.nii").exists()


def test_the_documentation_shows_the_same_table():
    text = (REPOSITORY / "docs" / "server.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (\w+) \| (.+) \|$", text, flags=re.MULTILINE)
    assert {(method, path): (kind, why) for method, path, kind, why in shown} == {
        key: (policy.kind, policy.why) for key, policy in POLICIES.items()
    }
