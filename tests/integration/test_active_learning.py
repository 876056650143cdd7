"""Which case comes next, asked of a server.

Over MONAI Label's route and ours, with scores, without, and while they are stale.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import requests
import SimpleITK as sitk
from tests.support.learning import BROKEN, QUICK, WORD, pictures
from tests.support.servers import MODEL, eventually

from wordmask.learning.active.strategies import STRATEGIES
from wordmask.weights.checkpoint import checkpoint_folder
from wordmask.words.prompts import parse_prompts
from wordmask_app.tasks.scoring import SCORES, ScoreBook, ScoreWatch, score_datastore

VOXELS = 10**6


def ask(server, **query: Any) -> dict[str, Any]:
    answer = server.http.post("/wordmask/next", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def score_all(server, words: str = "liver") -> dict[str, int]:
    engine = server.app.runtime.models[MODEL]
    return score_datastore(engine, server.app.datastore(), parse_prompts(words), max_voxels=VOXELS)


def label(server, image: str, word: str = "liver") -> None:
    drawn = server.studies.parent / "drawn.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray((server.voxels > 0).astype("uint8")), str(drawn))
    info = {"label_info": [{"name": word, "idx": 1}]}
    server.app.datastore().save_label(image, str(drawn), "final", info)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_scores_there_is_an_answer_at_once_with_a_label_map_to_start_from(a_stub_server, strategy):
    found = ask(a_stub_server, strategy=strategy, words="liver, spleen")
    assert found["case"] in {"ct", "scan", "series", "skin", "gut"}
    assert ("no case has been scored" in found["reason"]) == (strategy not in ("first", "random"))
    assert found["score"] is None
    assert found["preview"]["words"] == ["liver", "spleen"]
    assert a_stub_server.finished(found["preview"]["id"])["state"] == "done"


def test_a_case_that_cannot_be_read_is_reported_and_skipped(a_stub_server):
    found = ask(a_stub_server, strategy="first")
    assert found["case"] == "ct"
    assert [entry["case"] for entry in found["skipped"]] == ["broken"]
    assert "broken.nii.gz" in found["skipped"][0]["reason"]
    score_all(a_stub_server)
    assert [entry["case"] for entry in ask(a_stub_server, strategy="uncertainty")["skipped"]] == ["broken"]


@pytest.mark.parametrize("strategy", ["first", "uncertainty", "hybrid"])
def test_monai_labels_route_makes_the_same_choice(a_stub_server, strategy):
    score_all(a_stub_server)
    ours = ask(a_stub_server, strategy=strategy, words="liver", annotator="reader-1")
    theirs = a_stub_server.http.post(
        f"/activelearning/{strategy}", json={"words": "liver", "client_id": "reader-1"}
    ).json()
    assert (theirs["id"], theirs["reason"]) == (ours["case"], ours["reason"])
    assert theirs["weight"] == (1.0 if ours["score"] is None else ours["score"]["uncertainty"])


def test_when_all_are_labelled_or_left_out_the_answer_says_so(a_stub_server):
    left = ask(a_stub_server, strategy="hybrid", skip=["ct", "scan", "series", "skin", "gut"])
    assert left["case"] is None
    assert "can be read" in left["reason"]
    for image in a_stub_server.app.datastore().list_images():
        label(a_stub_server, image)
    for strategy in STRATEGIES:
        found = ask(a_stub_server, strategy=strategy)
        assert (found["case"], found["preview"]) == (None, None)
        assert "final label" in found["reason"]
        assert a_stub_server.http.post(f"/activelearning/{strategy}", json={}).json() == {}


def test_words_are_those_asked_for_else_those_of_labels_else_the_configured(a_stub_server):
    assert ask(a_stub_server)["words"] == ["liver", "spleen"]
    label(a_stub_server, "ct", "aorta")
    assert ask(a_stub_server)["words"] == ["aorta"]
    assert ask(a_stub_server, words="polyp")["words"] == ["polyp"]


def test_a_question_begins_a_scoring_where_scores_are_missing_or_stale(a_stub_server):
    ask(a_stub_server, strategy="first")
    assert a_stub_server.begun == []
    ask(a_stub_server, strategy="hybrid", words="liver, spleen")
    assert a_stub_server.begun == [
        {"method": "active_learning", "model": MODEL, "words": ["liver", "spleen"]}
    ]
    score_all(a_stub_server)
    assert not ask(a_stub_server, strategy="hybrid", words="liver")["scores"]["stale"]
    assert len(a_stub_server.begun) == 1
    found = ask(a_stub_server, strategy="hybrid", words="spleen")
    assert found["scores"]["stale"]
    assert found["score"] is not None, "what there is is used"
    assert found["reason"].endswith("The scores are not up to date.")
    assert a_stub_server.begun[1]["words"] == ["spleen"]


def test_scores_are_refreshed_once_when_another_version_serves(a_stub_server):
    engines = a_stub_server.app.runtime.models
    watch, store = ScoreWatch(engines), engines[MODEL].store
    store.publish(
        lambda folder: shutil.copytree(
            checkpoint_folder("bundled/simple_vilmedsam_tiny"), folder, dirs_exist_ok=True
        )
    )
    watch.look(MODEL)
    assert a_stub_server.begun == [], "nobody has asked for scores yet"
    score_all(a_stub_server)
    watch.look(MODEL)
    assert a_stub_server.begun == []
    store.rollback()
    watch.look(MODEL)
    watch.look(MODEL)
    assert [asked["words"] for asked in a_stub_server.begun] == [["liver"]]
    assert ask(a_stub_server, strategy="uncertainty", words="liver")["scores"]["stale"]
    score_all(a_stub_server)
    assert not ask(a_stub_server, strategy="uncertainty", words="liver")["scores"]["stale"]


def test_a_full_queue_costs_the_preview_and_not_the_case(a_stub_server):
    a_stub_server.app.runtime.queue.limit = 0
    found = ask(a_stub_server)
    assert found["case"]
    assert found["preview"] is None
    assert "requests are waiting" in found["preview_message"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"strategy": "best"}, 400),
        ({"model": "nobody"}, 404),
        ({"words": ";"}, 400),
        ({"words": "x" * 9999}, 400),
    ],
)
def test_a_question_that_cannot_be_meant_is_a_sentence(a_stub_server, query, status):
    answer = a_stub_server.http.post("/wordmask/next", params=query)
    assert answer.status_code == status
    assert answer.json()["detail"].endswith((".", "?"))


def test_a_scoring_goes_on_where_it_was_and_does_again_what_has_changed(a_stub_server):
    assert score_all(a_stub_server) == {"scored": 5, "kept": 0, "unreadable": 1}
    assert score_all(a_stub_server) == {"scored": 0, "kept": 6, "unreadable": 0}
    book = ScoreBook(a_stub_server.app.runtime.models[MODEL].store)
    words, cases = book.read()
    del cases["scan"]  # as when the scoring before was killed
    book.write(words, cases)
    (a_stub_server.studies / "skin.png").write_bytes((a_stub_server.studies / "gut.jpeg").read_bytes())
    assert score_all(a_stub_server) == {"scored": 2, "kept": 4, "unreadable": 0}
    assert score_all(a_stub_server, "aorta")["scored"] == 5
    label(a_stub_server, "ct")
    assert score_all(a_stub_server, "liver") == {"scored": 4, "kept": 1, "unreadable": 1}


def test_a_damaged_file_of_scores_costs_a_warning(a_stub_server, caplog):
    score_all(a_stub_server)
    (a_stub_server.app.runtime.models[MODEL].store.path / SCORES).write_text('{"cases": {"ct": {"st')
    found = ask(a_stub_server, strategy="uncertainty")
    assert (found["scores"]["scored"], found["scores"]["stale"]) == (0, True)
    assert "damaged" in caplog.text
    assert score_all(a_stub_server)["scored"] == 5


# --- a real server
# --------------------------------------------------------------------------------------------------


@pytest.mark.server
def test_from_the_first_question_to_the_last_label(a_learning_server):
    learning = a_learning_server
    client, by_name = learning.client, {case.name: case for case in pictures()}
    learning.forget()
    assert client.next_case("first")["case"] == min(by_name)
    client.start_scoring(MODEL, WORD)
    eventually(lambda: learning.versions_scored() == {"bundled"})

    found = client.next_case("uncertainty", words=WORD)
    assert (found["scores"]["scored"], found["scores"]["stale"]) == (3, False)
    assert found["reason"].startswith("The model is least sure here: ")
    assert [entry["case"] for entry in found["skipped"]] == [BROKEN]
    assert client.wait(found["preview"]["id"])["state"] == "done"
    assert client.result(found["preview"]["id"]).fields["label_names"] == {WORD: 1}
    for strategy in ("first", "uncertainty", "diversity", "hybrid"):
        theirs = requests.post(
            f"{client.url}/activelearning/{strategy}", json={"words": WORD}, timeout=60
        ).json()
        assert theirs["id"] == client.next_case(strategy, words=WORD)["case"]

    learning.submit(by_name.pop(found["case"]))
    state = learning.train(QUICK)
    assert state["state"] == "done", state
    version = str(state["version"])
    eventually(lambda: learning.versions_scored() == {version})  # nobody asked
    eventually(lambda: not client.next_case("first")["scores"]["refreshing"])
    after = client.next_case("hybrid")
    assert (after["version"], after["words"], after["scores"]["stale"]) == (version, [WORD], False)
    assert "least like what is labelled" in after["reason"]

    learning.submit(*by_name.values())
    last = client.next_case("hybrid")
    assert last["case"] is None
    assert [entry["case"] for entry in last["skipped"]] == [BROKEN]
