"""The datastore: an id is never a path, and neither a kill nor a full disk costs a label or the record of
them.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException
from tests.support.dicom_writer import write_dicom, write_series
from tests.support.processes import repeating
from tests.support.servers import eventually

from wordmask.data.studies import OWN_FILES, list_studies
from wordmask.errors import RequestError
from wordmask_app.hardening.datastore import GuardedDatastore
from wordmask_app.hardening.folder_lock import ReadOnlyError
from wordmask_app.hardening.images import UnknownImageError

VOXELS = np.arange(3 * 5 * 6, dtype=np.int16).reshape(3, 5, 6)
PATHS = ("../x", "/etc/x", "a/../../x", "..", "a\\b", "x\x00", "x\n")


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "ct.nii.gz").write_bytes(b"image")
    return folder


@pytest.fixture
def datastore(studies: Path) -> GuardedDatastore:
    return GuardedDatastore(str(studies))


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
    again = GuardedDatastore(str(studies))
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
    datastore = GuardedDatastore(str(small_disk))
    datastore.save_label("ct", a_label(tmp_path, b"old"), "final", {"who": "old"})
    with pytest.raises(OSError, match="No space left"):
        datastore.save_label("ct", a_label(tmp_path, b"n" * 2**21), "final", {"who": "new"})
    (small_disk / "filler").write_bytes(b"0" * (2**20 - 2**15))
    with pytest.raises(OSError, match="No space left"):  # here it is the record that has no room
        datastore.update_image_info("ct", {"text": "x" * 2**16})
    for store in (datastore, GuardedDatastore(str(small_disk))):
        assert Path(store.get_label_uri("ct", "final")).read_bytes() == b"old"
        assert store.get_label_info("ct", "final")["who"] == "old"
        assert "text" not in store.get_image_info("ct")


def test_links_out_of_the_folder_are_neither_read_nor_followed(studies, tmp_path):
    secret = tmp_path / "secret.nii.gz"
    secret.write_bytes(b"secret")
    datastore = GuardedDatastore(str(studies))
    datastore.add_image("known", a_label(tmp_path, b"x"), {})
    (studies / "known.nii.gz").unlink()
    for name in ("known", "new"):
        (studies / f"{name}.nii.gz").symlink_to(secret)
    with pytest.raises(UnknownImageError, match="outside"):
        datastore.get_image_uri("known")
    datastore.refresh()
    assert datastore.list_images() == ["ct"]
    assert "link out of the folder" in datastore.left_out["known.nii.gz"]
    with pytest.raises(ImageNotFoundException):
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
    assert GuardedDatastore(str(studies)).get_image_info("ct")["who"] == "me"
    assert "a" not in datastore.get_image_info("ct")


def test_two_processes_do_not_undo_what_the_other_wrote(studies, tmp_path):
    ours, theirs = (GuardedDatastore(str(studies)) for _ in range(2))
    theirs.save_label("ct", a_label(tmp_path, b"x"), "original", {"who": "batch"})
    ours.save_label("ct", a_label(tmp_path, b"y"), "final", {"who": "reader"})
    again = GuardedDatastore(str(studies))
    assert [again.get_label_info("ct", tag)["who"] for tag in ("original", "final")] == ["batch", "reader"]


def test_an_image_that_is_sent_again_keeps_its_labels(datastore, studies, tmp_path):
    datastore.save_label("ct", a_label(tmp_path, b"x"), "final", {"who": "me"})
    datastore.add_image("ct", a_label(tmp_path, b"newer", "ct.nrrd"), {})
    assert datastore.get_label_info("ct", "final")["who"] == "me"
    assert Path(datastore.get_image_uri("ct")).read_bytes() == b"newer"
    assert [path.name for path in studies.glob("ct.*")] == ["ct.nrrd"]


def test_a_damaged_record_is_put_aside_and_made_anew_from_the_files(studies, caplog):
    GuardedDatastore(str(studies)).save_label("ct", a_label(studies.parent, b"x"), "final", {})
    (studies / "datastore_v2.json").write_text('{"name": "new-data')
    again = GuardedDatastore(str(studies))
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
        with repeating(lambda: partial(save, GuardedDatastore(str(studies)))):
            time.sleep(moments.uniform(0, 0.05))
        json.loads((studies / "datastore_v2.json").read_text())
        again = GuardedDatastore(str(studies))
        assert again.list_images() == ["ct"]
        assert Path(again.get_label_uri("ct", "final")).read_bytes() in contents
        assert list(studies.rglob("*.part")) == []


# --- what the folder holds
# --------------------------------------------------------------------------------------------------


def test_exactly_what_the_command_line_reads_is_listed_and_the_rest_is_named(studies, caplog):
    (studies / "ct.nii.gz").rename(studies / "CT 1.5.NII.GZ")
    write_series(studies / "series.v2", VOXELS, positions=[(0, 0, 2 * k) for k in range(len(VOXELS))])
    write_dicom(studies / "IM0001", VOXELS[0], series="1.2.3")
    write_dicom(studies / "one.dcm", VOXELS[0], series="1.2.4")
    for name in ("._CT.nii.gz", "a\\b.png", "x" * 201 + ".png", "one.png", "notes.txt", "head.mhd"):
        (studies / name).write_bytes(b"x")
    (studies / os.fsdecode(b"m\xe9thode.png")).write_bytes(b"x")
    (studies / "more").mkdir()
    (studies / "more" / "other.nii.gz").write_bytes(b"x")
    datastore = GuardedDatastore(str(studies))
    assert datastore.list_images() == ["CT 1.5", "IM0001", "one", "series.v2"]
    assert datastore.list_images() == list(list_studies(studies, ignore=OWN_FILES).images)
    for image in datastore.list_images():
        assert Path(datastore.get_image_uri(image)).exists()
        datastore.update_image_info(image, {"seen": True})
    assert len(datastore.left_out) == 8
    assert "8 files or folders of the studies are left out." in caplog.text
    for name in datastore.left_out:
        assert f"Left out: {name!r}, because" in caplog.text
    assert GuardedDatastore(str(studies)).get_image_info("one")["seen"]


def test_the_record_of_an_older_server_loses_what_is_not_an_image(studies):
    unfit = {"image": {"ext": ".nii.gz", "info": {}}, "labels": {}}
    record = {"name": "x", "description": "x", "objects": {"._ct": unfit, "ct": unfit}}
    (studies / "datastore_v2.json").write_text(json.dumps(record))
    (studies / "._ct.nii.gz").write_bytes(b"x")
    assert GuardedDatastore(str(studies)).list_images() == ["ct"]


def test_labels_put_into_the_folder_by_hand_are_found_whatever_the_case_of_their_ending(datastore, studies):
    (studies / "labels" / "mine").mkdir()
    (studies / "labels" / "final" / "ct.NII.GZ").write_bytes(b"label")
    (studies / "labels" / "mine" / "ct.png").write_bytes(b"label")
    (studies / "labels" / "final" / "nobody.nii.gz").write_bytes(b"label")
    datastore.refresh()
    assert datastore.get_labeled_images() == ["ct"]
    assert sorted(datastore.get_labels_by_image_id("ct")) == ["final", "mine"]
    assert Path(datastore.get_label_uri("ct", "final")).name == "ct.NII.GZ"


def test_what_is_put_into_the_folder_is_seen_by_itself(studies):
    datastore = GuardedDatastore(str(studies), auto_reload=True)
    datastore.save_label("ct", a_label(studies.parent, b"x"), "final", {})
    write_series(studies / "series", VOXELS, positions=[(0, 0, 2 * k) for k in range(len(VOXELS))])
    write_dicom(studies / "IM0001", VOXELS[0], series="1.2.3")
    eventually(lambda: datastore.list_images() == ["IM0001", "ct", "series"])
    (studies / "IM0001").rename(studies / "IM0002")
    eventually(lambda: datastore.list_images() == ["IM0002", "ct", "series"])
    (studies / "IM0002").unlink()
    eventually(lambda: datastore.list_images() == ["ct", "series"])
    assert datastore.get_labeled_images() == ["ct"]


def test_the_archive_of_all_labelled_cases_holds_every_file_of_a_dicom_folder(studies):
    write_series(studies / "series", VOXELS, positions=[(0, 0, 2 * k) for k in range(len(VOXELS))])
    datastore = GuardedDatastore(str(studies))
    datastore.save_label("series", a_label(studies.parent, b"x"), "final", {})
    with zipfile.ZipFile(datastore.get_dataset_archive(None)) as archive:
        names = archive.namelist()
    assert len([name for name in names if name.startswith("image/series/")]) == len(VOXELS)
    assert "label/series.nii.gz" in names


def test_a_dicom_folder_is_removed_or_replaced_like_a_file(studies, tmp_path):
    for name in ("old", "gone"):
        write_series(studies / name, VOXELS, positions=[(0, 0, 2 * k) for k in range(len(VOXELS))])
    datastore = GuardedDatastore(str(studies))
    datastore.remove_image("gone")
    datastore.add_image("old", a_label(tmp_path, b"new"), {})
    assert sorted(path.name for path in studies.iterdir() if path.name not in OWN_FILES) == [
        "ct.nii.gz",
        "old.nii.gz",
    ]
    datastore.refresh()
    assert datastore.list_images() == ["ct", "old"]


# --- a folder that cannot be written to
# --------------------------------------------------------------------------------------------------


def check_read_only(datastore: GuardedDatastore, label: str, sentence: str) -> None:
    assert datastore.list_images() == ["ct"]
    assert Path(datastore.get_image_uri("ct")).read_bytes() == b"image"
    for call in (
        lambda: datastore.save_label("ct", label, "final", {}),
        lambda: datastore.add_image("mr", label, {}),
        lambda: datastore.remove_image("ct"),
        lambda: datastore.remove_label("ct", "final"),
        lambda: datastore.update_image_info("ct", {"a": 1}),
        lambda: datastore.update_label_info("ct", "final", {"a": 1}),
    ):
        with pytest.raises(ReadOnlyError, match=sentence):
            call()
    datastore.refresh()


def test_monai_labels_read_only_setting_lists_and_writes_nothing(studies):
    datastore = GuardedDatastore(str(studies), read_only=True)
    check_read_only(datastore, a_label(studies.parent, b"x"), "studies .*MONAI_LABEL_DATASTORE_READ_ONLY")
    assert [path.name for path in studies.iterdir()] == ["ct.nii.gz"]


def test_a_disk_that_is_mounted_read_only_is_listed_and_what_writes_is_a_sentence(small_disk, tmp_path):
    (small_disk / "ct.nii.gz").write_bytes(b"image")
    label = a_label(tmp_path, b"x")
    remount(small_disk, "ro")
    check_read_only(GuardedDatastore(str(small_disk)), label, "folder disk .* right to write")
    remount(small_disk, "rw")
    datastore = GuardedDatastore(str(small_disk))
    datastore.save_label("ct", label, "final", {})
    remount(small_disk, "ro")  # while the server runs
    check_read_only(datastore, label, "folder disk cannot be written to .*Read-only")
    assert datastore.get_labeled_images() == ["ct"]


def remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


def test_a_folder_of_another_account_is_listed_and_what_writes_is_a_sentence():
    with tempfile.TemporaryDirectory() as folder:  # other accounts may not look into pytest's
        studies = Path(folder) / "studies"
        studies.mkdir()
        (studies / "ct.nii.gz").write_bytes(b"image")
        label = a_label(Path(folder), b"x")
        Path(folder).chmod(0o755)
        studies.chmod(0o555)
        if not os.getuid():
            os.seteuid(65534)  # nobody, to whom the rights apply
        try:
            check_read_only(GuardedDatastore(str(studies)), label, "folder studies .* right to write")
        finally:
            os.seteuid(os.getuid())
