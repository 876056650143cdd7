"""Labels that are sent to the server: kept if a training could read them, else refused with its sentence."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import SimpleITK as sitk
from monailabel.config import settings
from PIL import Image

from wordmask.errors import RequestError
from wordmask_app.jobs.spool import Spool
from wordmask_app.tasks.keeping import BEFORE, tag_of
from wordmask_app.tasks.labelled import labelled_cases

NAMES = [{"name": "liver", "idx": 1}]


class Sender:
    """Sends labels of the CT of a stub server, and reads what is kept."""

    def __init__(self, server: Any) -> None:
        self.server, self.file = server, server.studies.parent / "drawn.nii.gz"

    def draw(self, value: float = 1, *, dtype: str = "uint8", turn: Any = None) -> bytes:
        """The bright block as a label map on the grid of the CT; turn: changes it before it is written."""
        image = sitk.GetImageFromArray(((self.server.voxels > 0) * value).astype(dtype))
        image.CopyInformation(sitk.ReadImage(str(self.server.studies / "ct.nii.gz")))
        sitk.WriteImage(turn(image) if turn else image, str(self.file))
        return self.file.read_bytes()

    def send(
        self, content: bytes, info: Any = None, *, image: str = "ct", ending: str = ".nii.gz", **query: Any
    ) -> httpx.Response:
        params = json.dumps({"label_info": NAMES} if info is None else info)
        answer: httpx.Response = self.server.http.put(
            "/datastore/label",
            params={"image": image, **query},
            data={"params": params},
            files={"label": (f"x{ending}", content)},
        )
        return answer

    def kept(self, tag: str = "final") -> bytes:
        """The file that is kept; empty when there is none."""
        answer = self.server.http.get("/datastore/label", params={"label": "ct", "tag": tag})
        return answer.content if answer.status_code == 200 else b""

    def tags(self) -> list[str]:
        return sorted(self.server.app.datastore().get_labels_by_image_id("ct"))


@pytest.fixture
def sender(a_stub_server) -> Sender:
    return Sender(a_stub_server)


def shifted(image: sitk.Image) -> sitk.Image:
    image.SetOrigin([value + 3 for value in image.GetOrigin()])
    return image


WRONG_FILES = {
    "text": (lambda sender: b"no label map", {}, "ct.label.nii.gz"),
    "another size": (lambda sender: sender.draw(turn=lambda image: image[:-1]), {}, "12 x 10 x 6"),
    "shifted": (lambda sender: sender.draw(turn=shifted), {}, "lies elsewhere"),
    "mirrored": (
        lambda sender: sender.draw(turn=lambda image: sitk.Flip(image, [True, False, False])),
        {},
        "lies",
    ),
    "fractions": (lambda sender: sender.draw(0.5, dtype="float32"), {}, "fractions"),
    "four dimensions": (
        lambda sender: sender.draw(turn=lambda image: sitk.JoinSeries([image, image])),
        {},
        "ct.label.nii.gz",
    ),
    "values that no name announces": (lambda sender: sender.draw(255), {}, "write 255"),
    "negative values": (lambda sender: sender.draw(-1, dtype="int16"), {}, "-1"),
    "no names": (lambda sender: sender.draw(), {}, "came without names"),
    "a name twice": (lambda sender: sender.draw(), [*NAMES, {"name": "Liver", "idx": 2}], "two values"),
    "a value twice": (lambda sender: sender.draw(), [*NAMES, {"name": "spleen", "idx": 1}], "its own"),
    "another script": (lambda sender: sender.draw(), [{"name": "肝", "idx": 1}], "肝"),
    "a number": (lambda sender: sender.draw(), [{"name": "1", "idx": 1}], "1"),
    "300 letters": (lambda sender: sender.draw(), [{"name": "x" * 300, "idx": 1}], "300 characters"),
    "no list": (lambda sender: sender.draw(), 3, "label_info must be a list"),
    "no rows": (lambda sender: sender.draw(), ["liver"], "label"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_what_no_training_could_use_is_refused_with_its_sentence_and_the_old_label_stays(sender, case):
    good = sender.draw()
    assert sender.send(good).status_code == 200
    make, names, said = WRONG_FILES[case]
    info = {} if case == "no names" else {"label_info": names or NAMES}
    content = make(sender)
    answer = sender.send(content, info)
    assert answer.status_code == 400, answer.text
    sentence = answer.json()["detail"]
    assert said in sentence, sentence
    assert str(sender.server.studies.parent) not in sentence
    assert sender.kept() == good
    assert sender.tags() == ["final"]
    assert os.listdir(sender.server.scratch) == []
    if case not in ("another script", "a number", "300 letters"):
        return
    # The sentence is that of the training, for a label that somebody puts into the folder.
    sender.server.app.datastore().save_label("ct", str(sender.file), "final", info)
    _, (problem,) = labelled_cases(sender.server.app.datastore())
    assert problem == f"ct: {sentence}"


def test_a_label_of_an_image_that_is_not_there_or_of_an_unknown_ending_is_refused(sender):
    assert sender.send(sender.draw(), image="nobody").status_code == 404
    assert sender.send(sender.draw(), image="../ct").status_code == 400
    assert sender.send(sender.draw(), ending=".exe").status_code == 400
    assert sender.send(sender.draw(), tag="../x").status_code == 400


def test_a_picture_is_labelled_by_a_picture_of_its_size(sender, tmp_path):
    mask = np.zeros((16, 20), dtype=np.uint8)
    mask[4:9, 5:15] = 255
    for name, array in (("good.png", mask), ("turned.png", mask.T)):
        Image.fromarray(array).save(tmp_path / name)
    info = {"label_info": [{"name": "polyp", "idx": 255}]}
    turned = sender.send((tmp_path / "turned.png").read_bytes(), info, image="skin", ending=".png")
    assert (turned.status_code, "16 x 20" in turned.json()["detail"]) == (400, True)
    assert sender.send((tmp_path / "good.png").read_bytes(), info, image="skin", ending=".png").is_success
    (case,), _ = labelled_cases(sender.server.app.datastore())
    assert np.count_nonzero(case.read().masks["polyp"]) == 50


def test_a_label_of_another_tag_needs_no_names_but_the_grid(sender):
    assert sender.send(sender.draw(7), {}, tag="draft").status_code == 200
    assert sender.send(sender.draw(turn=shifted), {}, tag="draft").status_code == 400
    assert sender.send(b"no label map", {}, tag="draft").status_code == 400
    assert sender.tags() == ["draft"]


def test_names_that_do_not_fit_the_final_label_are_not_given_to_it_later(sender):
    sender.send(sender.draw())
    for info, status in (
        ({"label_info": [{"name": "liver", "idx": 2}]}, 400),
        ({"label_info": [{"name": "肝", "idx": 1}]}, 400),
        ({"annotator": "somebody else"}, 400),
        ({"label_info": [{"name": "spleen", "idx": 1}]}, 200),
        ({"reviewed": True}, 200),
    ):
        answer = sender.server.http.put(
            "/datastore/label/info", params={"label": "ct", "tag": "final"}, data={"info": json.dumps(info)}
        )
        assert answer.status_code == status, answer.text
    (case,), _ = labelled_cases(sender.server.app.datastore())
    assert list(case.words) == ["spleen"]


def test_a_header_that_announces_too_much_is_not_read(sender, monkeypatch):
    object.__setattr__(sender.server.app.chosen, "megavoxels", 0)
    assert sender.send(sender.draw()).status_code == 413


# --- undo
# --------------------------------------------------------------------------------------------------


def test_the_label_that_was_replaced_comes_back_and_goes_again(sender):
    restore = lambda: sender.server.http.post("/datastore/label/restore", params={"image": "ct"})  # noqa: E731
    first, second = sender.draw(1), sender.draw(2)
    assert restore().status_code == 404
    sender.send(first)
    assert restore().status_code == 404
    answer = sender.send(second, {"label_info": [{"name": "spleen", "idx": 2}]}).json()
    assert (answer["tag"], BEFORE in answer["message"]) == ("final", True)
    sender.send(second, {"label_info": [{"name": "spleen", "idx": 2}]})  # a client that tries again
    assert (sender.kept(), sender.kept(BEFORE)) == (second, first)
    for now, before, word in ((first, second, "liver"), (second, first, "spleen")):
        assert restore().status_code == 200
        assert (sender.kept(), sender.kept(BEFORE)) == (now, before)
        (case,), _ = labelled_cases(sender.server.app.datastore())
        assert list(case.words) == [word]
    assert sender.server.http.post("/datastore/label/restore", params={"image": "nobody"}).status_code == 404


# --- several people
# --------------------------------------------------------------------------------------------------


def test_a_second_persons_final_label_is_kept_beside_the_first_until_it_may_replace_it(sender):
    of_anna, of_ben = sender.draw(1), sender.draw(2)
    info = {"label_info": [{"name": "liver", "idx": 2}]}
    assert sender.send(of_anna, annotator="anna").json()["tag"] == "final"
    answer = sender.send(of_ben, info, annotator="ben")
    assert (answer.status_code, answer.json()["tag"]) == (200, "final_by_ben")
    assert "final label map by anna" in answer.json()["message"]
    assert "replace=true" in answer.json()["message"]
    assert (sender.kept(), sender.kept("final_by_ben")) == (of_anna, of_ben)
    assert sender.send(of_anna, annotator="anna").json()["tag"] == "final"  # her own she may replace
    assert sender.send(of_ben, info, annotator="ben", replace="true").json()["tag"] == "final"
    assert (sender.kept(), sender.kept(BEFORE)) == (of_ben, of_anna)
    assert sender.tags() == ["final", BEFORE]
    sender.server.http.post("/datastore/label/restore", params={"image": "ct", "annotator": "ben"})
    assert sender.send(of_ben, info, annotator="ben").json()["tag"] == "final_by_ben", "it is anna's again"


def test_a_models_label_never_takes_the_place_of_a_persons(sender):
    of_anna = sender.draw()
    sender.send(of_anna, annotator="anna")
    asked = json.dumps({"words": "liver", "save_label": True, "label_tag": "final"})
    assert sender.server.post("ct", asked).status_code == 200
    assert sender.kept() == of_anna
    assert sender.tags() == ["final", "final_by_model"]
    sender.server.http.delete("/datastore/label", params={"id": "ct", "tag": "final"})
    assert sender.server.post("ct", asked).status_code == 200
    assert sender.send(of_anna, annotator="anna").json()["tag"] == "final", "a person corrects the model"


def test_with_authentication_the_user_counts_and_not_the_name_that_is_sent(sender, monkeypatch):
    monkeypatch.setattr("wordmask_app.http.people.settings", SimpleNamespace(MONAI_LABEL_AUTH_ENABLE=True))
    sender.send(sender.draw(), annotator="anna")
    (case,) = sender.server.app.datastore().get_labeled_images()
    info = sender.server.app.datastore().get_label_info(case, "final")
    assert info["annotator"] not in ("anna", "testclient")


def test_people_with_odd_names_have_tags_of_their_own():
    names = ["model", "anna", "Anna", "änna", "ännä", "a/b", "a b", "../x", "x" * 500, "x" * 501, "肝"]
    tags = [tag_of(name) for name in names]
    assert len({tag.lower() for tag in [*tags, tag_of("")]}) == len(names) + 1
    assert all(tag.isascii() and len(tag) <= 64 and "/" not in tag for tag in tags)


def ask(server: Any, who: str, **query: Any) -> Any:
    answer = server.http.post("/wordmask/next", params={"strategy": "first", "annotator": who, **query})
    assert answer.status_code == 200, answer.text
    return answer.json()["case"]


def test_a_case_is_with_one_person_until_it_is_submitted_or_skipped(a_stub_server):
    assert ask(a_stub_server, "anna") == "ct"
    assert ask(a_stub_server, "anna") == "ct", "her own is offered again"
    assert ask(a_stub_server, "ben") == "gut"
    theirs = a_stub_server.http.post("/activelearning/first", json={"client_id": "carl"}).json()
    assert theirs["id"] == "scan"
    assert ask(a_stub_server, "anna", skip=["ct"]) == "series"
    assert ask(a_stub_server, "ben", skip=["gut"]) == "ct"
    Sender(a_stub_server).send(Sender(a_stub_server).draw(), annotator="ben")
    a_stub_server.http.delete("/datastore/label", params={"id": "ct", "tag": "final"})
    assert ask(a_stub_server, "carl", skip=["scan"]) == "ct", "ben submitted it, so he has it no more"


def test_when_everything_is_with_others_the_answer_says_so(a_stub_server):
    for who in ("anna", "ben", "carl", "dora", "emil"):
        assert ask(a_stub_server, who) is not None
    found = a_stub_server.http.post(
        "/wordmask/next", params={"strategy": "hybrid", "annotator": "fritz"}
    ).json()
    assert found["case"] is None
    assert "with another person (5)" in found["reason"]
    assert a_stub_server.http.post("/activelearning/first", json={"client_id": "fritz"}).json() == {}


def test_a_claim_ends_by_itself_and_outlives_a_reload_of_the_app(a_stub_server, monkeypatch):
    assert ask(a_stub_server, "anna") == "ct"
    assert a_stub_server.http.post("/reload").status_code == 200
    assert ask(a_stub_server, "ben") == "gut"
    later = time.time() + 240 * 60 + 1
    monkeypatch.setattr("wordmask_app.tasks.claims.time.time", lambda: later)
    assert ask(a_stub_server, "carl") == "ct"


@pytest.mark.parametrize("strategy", ["first", "random", "hybrid"])
def test_people_who_ask_at_the_same_time_never_get_the_same_case(a_stub_server, strategy):
    with ThreadPoolExecutor(8) as pool:
        given = list(
            pool.map(
                lambda who: ask(a_stub_server, who, strategy=strategy), [f"p{number}" for number in range(8)]
            )
        )
    cases = [case for case in given if case is not None]
    assert sorted(cases) == ["ct", "gut", "scan", "series", "skin"]


def test_two_people_who_submit_at_the_same_time_both_find_their_label(sender):
    contents = {f"p{number}": sender.draw(1 + number) for number in range(6)}

    def submit(who: str) -> str:
        value = 1 + int(who[1:])
        answer = sender.send(contents[who], {"label_info": [{"name": "liver", "idx": value}]}, annotator=who)
        return str(answer.json()["tag"])

    with ThreadPoolExecutor(6) as pool:
        tags = dict(zip(contents, pool.map(submit, contents), strict=True))
    assert list(tags.values()).count("final") == 1
    for who, tag in tags.items():
        assert sender.kept(tag) == contents[who]


# --- no right to write
# --------------------------------------------------------------------------------------------------


def test_a_read_only_setting_serves_and_infers_and_what_writes_is_403(a_stub_server, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_READ_ONLY", True)
    sender, server = Sender(a_stub_server), a_stub_server
    before = sorted(path for path in server.studies.rglob("*"))
    assert server.http.post("/reload").status_code == 200
    assert server.post("ct", '{"words": "liver"}').status_code == 200
    assert ask(server, "anna") == "ct"
    assert server.http.post("/activelearning/first", json={"client_id": "anna"}).json()["id"] == "ct"
    http, content = server.http, sender.draw()
    for answer in (
        sender.send(content),
        sender.send(content, tag="draft"),
        http.put("/datastore/image", params={"image": "new"}, files={"file": ("x.nii.gz", content)}),
        http.delete("/datastore/image", params={"id": "ct"}),
        http.put("/datastore/image/info", params={"image": "ct"}, data={"info": "{}"}),
        server.post("ct", '{"words": "liver", "save_label": true}'),
    ):
        assert answer.status_code == 403, answer.text
        assert "The studies folder studies is served without the right to write" in answer.json()["detail"]
    assert sorted(path for path in server.studies.rglob("*")) == before


def test_an_app_folder_that_becomes_read_only_is_named(a_stub_server, monkeypatch):
    def deny(*_: object, **__: object) -> None:
        folder = a_stub_server.app.runtime.spool.folder
        raise PermissionError(13, "Permission denied", str(folder / "result-x.nii.gz"))

    monkeypatch.setattr("wordmask_app.jobs.spool.tempfile.mkstemp", deny)
    answer = a_stub_server.post("ct", '{"words": "liver"}')
    assert answer.status_code == 403
    assert "in the app folder app (Permission denied)" in answer.json()["detail"]
    assert "give its account the right" in answer.json()["detail"]


def test_no_training_begins_whose_model_could_not_be_kept(a_stub_server, monkeypatch):
    folder = a_stub_server.app.app_dir
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != folder and access(path, mode))
    for route in ("/train/simple_vilmedsam", "/scoring/active_learning", "/batch/infer/simple_vilmedsam"):
        answer = a_stub_server.http.post(route, json={})
        assert answer.status_code == 403, answer.text
        assert "The app folder app cannot be written to" in answer.json()["detail"]


def test_an_app_folder_that_cannot_be_written_to_is_refused_at_the_start(tmp_path: Path, monkeypatch):
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", deny)
    with pytest.raises(RequestError, match=rf"app folder {tmp_path} cannot be written to .* --app"):
        Spool(tmp_path / "spool", upload_bytes=1).claim()
