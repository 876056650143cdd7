"""Keeps labels in the datastore, after reading and comparing them as a training would.

A final label that is superseded is kept once more, and a second person's final label beside the first. Knows
the datastore; not HTTP, not models.
"""

from __future__ import annotations

import filecmp
import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import LabelNotFoundException

from wordmask.data.image_files import suffix_of
from wordmask.data.label_maps import check_same_grid, read_label_map
from wordmask.data.volumes import read_volume
from wordmask.errors import RequestError
from wordmask_app.hardening.datastore import GuardedDatastore
from wordmask_app.hardening.images import find_image
from wordmask_app.tasks.labelled import FINAL, make_case

BEFORE = "final_before"  # the tag of the final label that the present one took the place of
BESIDE = "final_by_"  # begins the tags of the final labels of further people
MODEL = "model"  # who makes a final label that no person submits


@dataclass(frozen=True)
class NewLabel:
    """A label map that is to be kept.

    Attributes:
        image: id of its image.
        file: the label map, named so that sentences about it can be understood.
        tag: under which it is to be kept.
        info: what is said of it, such as its ``label_info``.
        annotator: who made it; empty for a model.
        replace: whether it may take the place of another person's final label.
    """

    image: str
    file: Path
    tag: str
    info: Mapping[str, Any]
    annotator: str = ""
    replace: bool = False


@dataclass(frozen=True)
class KeptLabel:
    """What became of a label.

    Attributes:
        label: its id.
        tag: under which it was kept.
        message: the same as a sentence.
    """

    label: str
    tag: str
    message: str


def keep_label(new: NewLabel, datastore: Datastore, max_voxels: int | None = None) -> KeptLabel:
    """Check a label and keep it; what cannot be used leaves everything as it was.

    Raises:
        UnknownImageError: there is no such image.
        RequestError: the tag or the ending of the file cannot be used.
        VolumeError, LabelError, PromptError: a training could not use it; the message says why.
        TooLargeError: the header announces more than ``max_voxels``.
        ReadOnlyError: the datastore cannot be written to.
    """
    check_label(new, datastore, max_voxels)
    if new.tag != FINAL or not isinstance(datastore, GuardedDatastore):
        label: str = datastore.save_label(new.image, str(new.file), new.tag, dict(new.info))
        return KeptLabel(label, new.tag, f"The label map of {new.image} is kept as {new.tag}.")
    info = {**new.info, "annotator": new.annotator} if new.annotator else dict(new.info)
    with datastore.lock.writing():
        tags = datastore.get_labels_by_image_id(new.image)
        owner = datastore.get_label_info(new.image, FINAL).get("annotator", "") if FINAL in tags else ""
        own_tag = tag_of(new.annotator)
        if owner and owner != new.annotator and not new.replace:
            label = datastore.save_label(new.image, str(new.file), own_tag, info)
            return KeptLabel(label, own_tag, _say_beside(new.image, str(owner), own_tag))
        old = datastore.get_label_uri(new.image, FINAL)
        is_superseding = bool(old) and not filecmp.cmp(old, new.file, shallow=False)
        if is_superseding:
            datastore.save_label(new.image, old, BEFORE, datastore.get_label_info(new.image, FINAL))
        label = datastore.save_label(new.image, str(new.file), FINAL, info)
        if own_tag in tags:
            datastore.remove_label(new.image, own_tag)
    kept_before = f" The one before is kept as {BEFORE}." if is_superseding else ""
    return KeptLabel(label, FINAL, f"The label map of {new.image} is kept as its final one.{kept_before}")


def check_label(new: NewLabel, datastore: Datastore, max_voxels: int | None = None) -> None:
    """Read a label with its image as a training would; other tags than the final one need no names.

    Raises:
        UnknownImageError, VolumeError, LabelError, PromptError, TooLargeError: it cannot be used.
    """
    image = find_image(new.image, datastore)
    if new.tag == FINAL:
        make_case(new.image, image, new.file, new.info).read(max_voxels)
        return
    if not new.annotator:  # what a model makes lies on the grid of its image
        return
    labels = read_label_map(new.file, max_voxels)
    check_same_grid(labels, new.file, read_volume(image, max_voxels=max_voxels), image)


def check_new_info(
    image: str, tag: str, added: Mapping[str, Any], datastore: Datastore, max_voxels: int | None = None
) -> None:
    """Refuse what is to be added to the information about a final label, if its names would not fit any more.

    Raises:
        RequestError: it names another annotator.
        UnknownImageError, VolumeError, LabelError, PromptError: a training could not use the label.
    """
    if "annotator" in added:
        raise RequestError("annotator is set when a label is submitted; leave it out.")
    if tag == FINAL and added.keys() & {"label_info", "params"}:
        info = {**datastore.get_label_info(image, tag), **added}
        label = Path(datastore.get_label_uri(image, tag))
        if label.is_file():
            make_case(image, find_image(image, datastore), label, info).read(max_voxels)


def restore_label(
    image: str, datastore: Datastore, *, annotator: str, max_voxels: int | None = None
) -> KeptLabel:
    """Exchange the final label of an image with the one before it; doing so twice changes nothing.

    Raises:
        UnknownImageError: there is no such image.
        LabelNotFoundException: no final label was replaced.
    """
    find_image(image, datastore)
    lock = datastore.lock.writing() if isinstance(datastore, GuardedDatastore) else nullcontext()
    with lock, tempfile.TemporaryDirectory() as folder:
        if BEFORE not in datastore.get_labels_by_image_id(image):
            raise LabelNotFoundException(f"Label: {image} Tag: {BEFORE} not found")
        kept = Path(datastore.get_label_uri(image, BEFORE))
        file = shutil.copy(kept, Path(folder) / label_file_name(image, suffix_of(kept)))
        info = datastore.get_label_info(image, BEFORE)
        owner = str(info.get("annotator", annotator))
        new = NewLabel(image, Path(file), FINAL, info, owner, replace=True)
        return keep_label(new, datastore, max_voxels)


def label_file_name(image: str, ending: str) -> str:
    """How the file of a label map is called while it is checked; sentences about it show the name."""
    return f"{image.rpartition('/')[2]}.label{ending}"


def tag_of(annotator: str) -> str:
    """The tag of a person's final label beside that of another; no two people have the same."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", annotator)[:30]
    if safe != annotator:
        safe = f"{safe}-{hashlib.sha256(annotator.encode(errors='replace')).hexdigest()[:8]}"
    return f"{BESIDE}{safe if annotator else MODEL}"


def _say_beside(image: str, owner: str, tag: str) -> str:
    return (
        f"{image} has a final label map by {owner} already, so this one is kept beside it as {tag}; send it "
        "again with replace=true to make it the final one."
    )
