"""Whatever comes over the wire, no answer is an error of the server that is not declared, and every refusal
is a sentence.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wordmask_app.hardening.policies import POLICIES

DECLARED = (503, 507)  # no memory or no weights; the disk is full
OURS = [
    (method, path)
    for (method, path), policy in POLICIES.items()
    if policy.kind == "ours" or path == "/infer/{model}"
]

# The same examples in every run: a failure in CI is one that can be repeated.
bounded = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
)
near_misses = st.fixed_dictionaries(
    {},
    optional={
        "words": st.sampled_from(["liver", "", "liver, spleen", "x" * 5000, "\u0000", "," * 50]) | anything,
        "prompt": st.sampled_from(["liver", ""]) | anything,
        "plane": st.sampled_from(["axial", "AXIAL", "", "auto"]) | anything,
        "window": st.sampled_from(["soft_tissue", "lung", "none"]) | anything,
        "threshold": st.floats() | st.sampled_from([0, 1, "0.5", 1e308, -0.0, True]) | anything,
        "slices": st.lists(st.integers(-3, 10), min_size=1, max_size=3) | st.just([10**30, 1]) | anything,
        "output_volume": st.sampled_from(["labels", "probability", "uncertainty", "attribution"]) | anything,
        "result_extension": st.sampled_from([".nii", ".nrrd", ".nii.gz", "/../x.nii"]) | anything,
        "result_dtype": st.sampled_from(["uint8", "int32", "float32", "object"]) | anything,
        "result_compress": st.booleans() | st.sampled_from(["true", "no"]) | anything,
        "save_label": st.booleans() | anything,
        "label_tag": st.sampled_from(["final", "../x", "a/b", "", "." * 3]) | anything,
        "points": anything,
        "image": st.sampled_from(["ct", "../x", "/etc/passwd"]) | anything,
        "session": anything,
    },
)


def assert_answered(answer: Any) -> None:
    assert answer.status_code < 500 or answer.status_code in DECLARED, answer.text
    if answer.status_code >= 400:
        detail = answer.json()["detail"]
        assert isinstance(detail, list) or detail.endswith("."), (
            detail
        )  # a list is FastAPI's own, on parameters of the address
        assert "Traceback" not in answer.text


@pytest.mark.parametrize("operation", OURS, ids=lambda operation: " ".join(operation))
def test_every_route_of_ours_answers_whatever_its_schema_allows(a_stub_server, operation):
    method, path = operation
    schema = schemathesis.openapi.from_asgi("/openapi.json", a_stub_server.http.app)

    @bounded
    @given(case=schema[path][method].as_strategy())
    def check(case: schemathesis.Case) -> None:
        assert_answered(case.call())

    check()


@pytest.mark.parametrize("route", ["/infer/simple_vilmedsam", "/wordmask/jobs"])
def test_params_of_any_shape_are_answered(a_stub_server, route):
    @bounded
    @given(params=near_misses | anything)
    def check(params: Any) -> None:
        answer = a_stub_server.http.post(route, params={"image": "ct"}, data={"params": json.dumps(params)})
        assert_answered(answer)
        if answer.status_code == 202:
            assert a_stub_server.finished(answer.json()["id"])["status_code"] in (None, 400)

    check()


@bounded
@given(text=st.text(max_size=200) | st.sampled_from(["{", "[" * 5000, '{"a":' * 2000, "NaN", "1e999"]))
def test_params_that_are_no_json_are_refused(stub_for_text, text):
    assert_answered(stub_for_text.post("ct", text))


@pytest.fixture
def stub_for_text(a_stub_server: Any) -> Any:
    return a_stub_server


@pytest.mark.parametrize("route", ["/datastore/image", "/datastore/label"])
def test_what_is_said_of_an_upload_is_a_json_object_or_refused(a_stub_server, route):
    part = "label" if route.endswith("label") else "file"
    content = (a_stub_server.studies / "ct.nii.gz").read_bytes()
    for params in ("[]", "{", "3", '"x"', '{"label_info": 3}', '{"a": "\\ud800"}', "[" * 5000):
        answer = a_stub_server.http.put(
            route, params={"image": "ct"}, data={"params": params}, files={part: ("x.nii.gz", content)}
        )
        assert_answered(answer)
        assert a_stub_server.http.get("/datastore/", params={"output": "all"}).status_code == 200, params[:80]
