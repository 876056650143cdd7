"""The datastore: an id is never a path, and neither a kill nor a full disk costs a label or the record of
them.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException
from tests.support.processes import repeating

from wordmask.errors import RequestError
from wordmask_app.hardening.datastore import GuardedDatastore
from wordmask_app.hardening.images import UnknownImageError

ENDINGS = ("*.nii.gz", "*.nii", "*.nrrd")
PATHS = ("../x", "/etc/x", "a/../../x", "..", "a\\b", "x\x00", "x\n")


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "ct.nii.gz").write_bytes(b"image")
    return folder


@pytest.fixture
def datastore(studies: Path) -> GuardedDatastore:
    return GuardedDatastore(str(studies), extensions=ENDINGS)


def a_label(folder: Path, content: bytes, name: str = "label.nii.gz") -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("path", PATHS)
def test_no_method_takes_a_path_for_an_id_or_a_tag(datastore, studies, path):
    label = a_label(studies.parent, b"x")
    before = sorted(studies.parent.rglob("*"))
    for call in (
        lambda: datastore.get_image_uri(path),
        lambda: datastore.get_image(path),
        lambda: datastore.get_label_uri(path, "final"),
        lambda: datastore.get_label_uri("ct", path),
        lambda: datastore.add_image(path, label, {}),
        lambda: datastore.remove_image(path),
        lambda: datastore.remove_label("ct", path),
        lambda: datastore.remove_label(path, "final"),
        lambda: datastore.save_label(path, label, "final", {}),
        lambda: datastore.save_label("ct", label, path, {}),
    ):
        with pytest.raises(RequestError):
            call()
    assert sorted(studies.parent.rglob("*")) == before


def test_images_and_labels_are_kept_with_what_is_said_about_them(datastore, studies):
    assert datastore.add_image("mr", a_label(studies.parent, b"new"), {"who": "me"}) == "mr"
    assert (
        datastore.save_label(
            "mr", a_label(studies.parent, b"label"), "final", {"label_info": [{"name": "liver", "idx": 1}]}
        )
        == "mr"
    )
    again = GuardedDatastore(str(studies), extensions=ENDINGS)
    assert sorted(again.list_images()) == ["ct", "mr"]
    assert Path(again.get_label_uri("mr", "final")).read_bytes() == b"label"
    assert again.get_label_info("mr", "final")["label_info"] == [{"name": "liver", "idx": 1}]
    assert again.get_image_info("mr")["who"] == "me"


def test_what_is_not_there_is_not_found(datastore, studies):
    with pytest.raises(ImageNotFoundException):
        datastore.remove_image("nobody")
    with pytest.raises(LabelNotFoundException):
        datastore.remove_label("ct", "final")
    with pytest.raises(ImageNotFoundException):
        datastore.save_label("nobody", a_label(studies.parent, b"x"), "final", {})
    with pytest.raises(UnknownImageError):
        datastore.get_dataset_archive(None)


@pytest.mark.parametrize("name", ["label.sh", "label", "label.nii.zip"])
def test_only_files_of_known_endings_are_kept(datastore, studies, name):
    for call in (
        lambda: datastore.add_image("mr", a_label(studies.parent, b"x", name), {}),
        lambda: datastore.save_label("ct", a_label(studies.parent, b"x", name), "final", {}),
    ):
        with pytest.raises(RequestError, match="end in one of"):
            call()


def test_an_old_label_stays_when_the_new_one_cannot_be_written(datastore, studies, monkeypatch):
    datastore.save_label("ct", a_label(studies.parent, b"old"), "final", {})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        datastore.save_label("ct", a_label(studies.parent, b"new"), "final", {})
    assert Path(datastore.get_label_uri("ct", "final")).read_bytes() == b"old"
    assert list(studies.rglob("*.part")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("a small disk cannot be mounted here: this needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_label_and_the_record(small_disk, tmp_path):
    (small_disk / "ct.nii.gz").write_bytes(b"image")
    datastore = GuardedDatastore(str(small_disk), extensions=ENDINGS)
    datastore.save_label("ct", a_label(tmp_path, b"old"), "final", {"who": "old"})
    with pytest.raises(OSError, match="No space left"):
        datastore.save_label("ct", a_label(tmp_path, b"n" * 2**21), "final", {"who": "new"})
    (small_disk / "filler").write_bytes(b"0" * (2**20 - 2**15))
    with pytest.raises(OSError, match="No space left"):  # here it is the record that has no room
        datastore.update_image_info("ct", {"text": "x" * 2**16})
    for store in (datastore, GuardedDatastore(str(small_disk), extensions=ENDINGS)):
        assert Path(store.get_label_uri("ct", "final")).read_bytes() == b"old"
        assert store.get_label_info("ct", "final")["who"] == "old"
        assert "text" not in store.get_image_info("ct")


def test_links_out_of_the_folder_are_neither_read_nor_followed(studies, tmp_path):
    secret = tmp_path / "secret.nii.gz"
    secret.write_bytes(b"secret")
    datastore = GuardedDatastore(str(studies), extensions=ENDINGS)
    datastore.add_image("known", a_label(tmp_path, b"x"), {})
    (studies / "known.nii.gz").unlink()
    for name in ("known", "new"):
        (studies / f"{name}.nii.gz").symlink_to(secret)
    datastore.refresh()
    assert "new" not in datastore.list_images()
    with pytest.raises(UnknownImageError, match="outside"):
        datastore.get_image_uri("known")
    datastore.remove_image("known")
    assert secret.read_bytes() == b"secret"
    (studies / "labels" / "mine").symlink_to(tmp_path)
    with pytest.raises(RequestError, match="leads out"):
        datastore.save_label("ct", a_label(tmp_path, b"x", "y.nii.gz"), "mine", {})
    assert not (tmp_path / "ct.nii.gz").exists()


@pytest.mark.parametrize("info", [{"a": float("nan")}, {"a": "\ud800"}, [1], "text"])
def test_what_could_not_be_read_again_is_not_written(datastore, studies, info):
    datastore.update_image_info("ct", {"who": "me"})
    with pytest.raises(RequestError):
        datastore.update_image_info("ct", info)
    assert GuardedDatastore(str(studies), extensions=ENDINGS).get_image_info("ct")["who"] == "me"
    assert "a" not in datastore.get_image_info("ct")


def test_two_processes_do_not_undo_what_the_other_wrote(studies, tmp_path):
    ours, theirs = (GuardedDatastore(str(studies), extensions=ENDINGS) for _ in range(2))
    theirs.save_label("ct", a_label(tmp_path, b"x"), "original", {"who": "batch"})
    ours.save_label("ct", a_label(tmp_path, b"y"), "final", {"who": "reader"})
    again = GuardedDatastore(str(studies), extensions=ENDINGS)
    assert [again.get_label_info("ct", tag)["who"] for tag in ("original", "final")] == ["batch", "reader"]


def test_an_image_that_is_sent_again_keeps_its_labels(datastore, studies, tmp_path):
    datastore.save_label("ct", a_label(tmp_path, b"x"), "final", {"who": "me"})
    datastore.add_image("ct", a_label(tmp_path, b"newer", "ct.nrrd"), {})
    assert datastore.get_label_info("ct", "final")["who"] == "me"
    assert Path(datastore.get_image_uri("ct")).read_bytes() == b"newer"
    assert [path.name for path in studies.glob("ct.*")] == ["ct.nrrd"]


def test_a_damaged_record_is_put_aside_and_made_anew_from_the_files(studies, caplog):
    GuardedDatastore(str(studies), extensions=ENDINGS).save_label(
        "ct", a_label(studies.parent, b"x"), "final", {}
    )
    (studies / "datastore_v2.json").write_text('{"name": "new-data')
    again = GuardedDatastore(str(studies), extensions=ENDINGS)
    assert again.list_images() == ["ct"]
    assert again.get_label_by_image_id("ct", "final") == "ct"
    assert len(list(studies.glob("datastore_v2.json.damaged-*"))) == 1
    assert "damaged" in caplog.text


def test_a_server_killed_while_it_saves_leaves_the_old_label_or_the_new_one(studies, tmp_path):
    contents = [bytes([value]) * 300_000 for value in (1, 2)]
    files = [a_label(tmp_path, content, f"label{number}.nii.gz") for number, content in enumerate(contents)]

    def save(saver: GuardedDatastore) -> None:
        for file in files:
            saver.save_label("ct", file, "final", {"label_info": [{"name": Path(file).name, "idx": 1}]})

    moments = random.Random(0)
    for _ in range(8):
        with repeating(lambda: partial(save, GuardedDatastore(str(studies), extensions=ENDINGS))):
            time.sleep(moments.uniform(0, 0.05))
        json.loads((studies / "datastore_v2.json").read_text())
        again = GuardedDatastore(str(studies), extensions=ENDINGS)
        assert again.list_images() == ["ct"]
        assert Path(again.get_label_uri("ct", "final")).read_bytes() in contents
        assert list(studies.rglob("*.part")) == []
