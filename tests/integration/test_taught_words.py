"""A word that a server was taught is found again however it is spelt."""

from __future__ import annotations

from tests.support.learning import MODEL, QUICK, LearningServer, pictures


def test_a_taught_word_is_known_over_http_in_every_spelling(a_learning_server: LearningServer) -> None:
    a_learning_server.forget()
    cases = pictures()
    for case in cases:
        value = next(iter(case.words.values()))[0]
        a_learning_server.client.submit_label(case.name, case.truth, {"Heart-Spine": value})
    state = a_learning_server.train(QUICK)
    assert state["state"] == "done", state
    for typed in ("Heart-Spine", "heart-spine", "Heart Spine", "heart_spine"):
        answer = a_learning_server.client.infer(MODEL, cases[0].name, {"words": typed})
        assert not [line for line in answer.fields["warnings"] if "was not trained on" in line]
        assert answer.fields["version"] == str(state["version"])
    stranger = a_learning_server.client.infer(MODEL, cases[0].name, {"words": "spine heart"})
    assert [line for line in stranger.fields["warnings"] if "was not trained on" in line]
    a_learning_server.forget()
