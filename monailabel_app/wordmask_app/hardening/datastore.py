"""MONAI Label's datastore in a folder, where an id is never a path and a crash loses nothing.

MONAI Label makes paths of whatever ids and tags it is given, copies onto the old file, and truncates its
record before it writes it again (seen in 0.8.5). Here ids and tags are checked in one place, and every file
is replaced whole or not at all. Knows files, ids and tags; not HTTP, not images.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

from wordmask.data.studies import FILE_SUFFIXES, OWN_FILES, list_studies
from wordmask.errors import RequestError
from wordmask_app.hardening.folder_lock import FolderLock, ReadOnlyError
from wordmask_app.hardening.images import UnknownImageError, safe_id, safe_tag
from wordmask_app.hardening.record import (
    check_info,
    make_entries,
    report_left_out,
    split_served,
    stage,
    write_archive,
)
from wordmask_app.hardening.watching import watch_folder

logger = logging.getLogger(__name__)


RECORD = "datastore_v2.json"
IMAGE_SUFFIXES = (*FILE_SUFFIXES, ".dcm")


class GuardedDatastore(LocalDatastore):  # type: ignore[misc]  # monailabel has no types
    """MONAI Label's datastore, where an id or a tag that is a path raises RequestError.

    Its images are those of `wordmask.data.studies`. A file outside the folder that a symbolic link points to
    is never read (UnknownImageError) nor removed. One lock is for threads and processes, because MONAI
    Label's batch inference writes the same record from a process of its own. A damaged record is put aside
    with a warning and made again from the files.

    Args:
        datastore_path: the folder.
        auto_reload: whether to look for files that others put into the folder.
        read_only: whether nothing is to be written. A folder that cannot be written to is read-only anyway:
            what would change it raises ReadOnlyError.

    Attributes:
        root: the folder.
        lock: whoever changes more than one thing holds it.
        left_out: name -> why it is not an image, of what else lies in the folder.
    """

    _datastore: LocalDatastoreModel

    def __init__(self, datastore_path: str, *, auto_reload: bool = False, read_only: bool = False) -> None:
        # Not MONAI Label's own, which makes folders and the record whether or not that is allowed.
        self.root = Path(datastore_path).resolve()
        self._datastore_path = datastore_path
        self._datastore_config_path = os.path.join(datastore_path, RECORD)
        self._config_ts = 0.0
        self._datastore = LocalDatastoreModel(name="new-dataset", description="New Dataset", images_dir=".")
        self._datastore.base_path = datastore_path
        self.left_out: dict[str, str] = {}
        self.lock = FolderLock(self.root, read_only=read_only)
        self._reconcile_datastore()
        if auto_reload:
            self._observer = watch_folder(self.root, self._reload)

    def get_image(self, image_id: str, params: Any = None) -> Any:
        """The content of an image; None when there is no such image."""
        return super().get_image(_id(image_id), params)

    def get_image_uri(self, image_id: str) -> str:
        """The file of an image; empty when there is no such image.

        Raises:
            UnknownImageError: the file is outside the folder.
        """
        return self._check_inside(super().get_image_uri(_id(image_id)))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image; empty when there is no such image."""
        info: dict[str, Any] = super().get_image_info(_id(image_id))
        # Active learning relies on the form of this field, and a client may have written anything there.
        shown = info.get("strategy", {})
        if not isinstance(shown, dict) or not all(isinstance(entry, dict) for entry in shown.values()):
            del info["strategy"]
        return info

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> Any:
        """The content of a label; None when there is no such label."""
        return super().get_label(_id(label_id), safe_tag(label_tag), params)

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """The file of a label; empty when there is no such label.

        Raises:
            UnknownImageError: the file is outside the folder.
        """
        return self._check_inside(super().get_label_uri(_id(label_id), safe_tag(label_tag)))

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is known of a label; empty when there is no such label."""
        info: dict[str, Any] = super().get_label_info(_id(label_id), safe_tag(label_tag))
        return info

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """The ids of an image's labels, by tag."""
        found: dict[str, str] = super().get_labels_by_image_id(_id(image_id))
        return found

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Files of images and their final labels, without those outside the folder."""
        pairs: list[dict[str, Any]] = super().datalist(full_path)
        return [
            pair
            for pair in pairs
            if not full_path or all(self._is_inside(Path(file)) for file in pair.values())
        ]

    def add_image(self, image_id: str, image_filename: str, image_info: Mapping[str, Any] | None) -> str:
        """Copy a file in as an image; labels of the same id stay.

        Raises:
            RequestError: the id is a path, or the file has an ending that is not supported.
        """
        stem, ending = split_served(os.path.basename(image_filename), IMAGE_SUFFIXES)
        image_id = _id(image_id or stem)
        name = image_id + ending
        info = {**check_info(image_info), "ts": int(time.time()), "name": name}
        with self.lock.writing():
            self._init_from_datastore_file()
            before = self._datastore.objects.get(image_id)
            labels = before.labels if before else {}
            entry = ImageLabelModel(image=DataModel(info=info, ext=ending), labels=labels)
            with (
                self._track_change(image_id, entry),
                stage(self._place(self._datastore.image_path(), name), image_filename),
            ):
                pass
            if before is not None and before.image.ext != ending:
                _remove(self._place(self._datastore.image_path(), image_id + before.image.ext))
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels; ImageNotFoundException."""
        with self.lock.writing():
            entry = self._entry(image_id)
            for tag, label in entry.labels.items():
                self._place(self._datastore.label_path(safe_tag(tag)), image_id + label.ext).unlink(
                    missing_ok=True
                )
            _remove(self._place(self._datastore.image_path(), image_id + entry.image.ext))
            with self._track_change(image_id, None):
                pass

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: Mapping[str, Any] | None
    ) -> str:
        """Copy a file in as a label of an image; an earlier label stays whole until the new one is.

        Raises:
            ImageNotFoundException: there is no such image.
        """
        _, ending = split_served(os.path.basename(label_filename), FILE_SUFFIXES)
        name = _id(image_id) + ending
        info = {**check_info(label_info), "ts": int(time.time()), "name": name}
        with self.lock.writing():
            entry = self._entry(image_id)
            folder = self._datastore.label_path(safe_tag(label_tag))
            before = entry.labels.get(label_tag)
            entry.labels[label_tag] = DataModel(info=info, ext=ending)
            with self._track_change(image_id, entry), stage(self._place(folder, name), label_filename):
                pass
            if before is not None and before.ext != ending:
                self._place(folder, image_id + before.ext).unlink(missing_ok=True)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; ImageNotFoundException, LabelNotFoundException."""
        safe_tag(label_tag)
        with self.lock.writing():
            entry = self._entry(label_id)
            label = entry.labels.pop(label_tag, None)
            if label is None:
                raise LabelNotFoundException(f"Label: {label_id} Tag: {label_tag} not found")
            self._place(self._datastore.label_path(label_tag), label_id + label.ext).unlink(missing_ok=True)
            with self._track_change(label_id, entry):
                pass

    def update_image_info(self, image_id: str, info: Mapping[str, Any]) -> None:
        """Add to what is known of an image.

        Raises:
            ImageNotFoundException: there is no such image.
            RequestError: the information is not a JSON object.
        """
        with self.lock.writing():
            entry = self._entry(image_id)
            entry.image.info.update(check_info(info))
            with self._track_change(image_id, entry):
                pass

    def update_label_info(self, label_id: str, label_tag: str, info: Mapping[str, Any]) -> None:
        """Add to what is known of a label.

        Raises:
            ImageNotFoundException: there is no such image.
            LabelNotFoundException: the image has no such label.
            RequestError: the information is not a JSON object.
        """
        safe_tag(label_tag)
        with self.lock.writing():
            entry = self._entry(label_id)
            if label_tag not in entry.labels:
                raise LabelNotFoundException(f"Label: {label_id} Tag: {label_tag} not found")
            entry.labels[label_tag].info.update(check_info(info))
            with self._track_change(label_id, entry):
                pass

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """A ZIP of all images with a final label.

        Raises:
            UnknownImageError: no image has a final label yet.
        """
        if not self.datalist():
            raise UnknownImageError(
                "No image of this server has a final label yet, so there is no data set to download."
            )
        metadata: str = self._datastore.model_dump_json(exclude={"base_path"})
        return write_archive(self.datalist()[: limit_cases or None], metadata)

    def _entry(self, image_id: str) -> ImageLabelModel:
        """A copy of what the record says of an image, as it is on the disk now; with the lock held."""
        _id(image_id)
        self._init_from_datastore_file()
        entry = self._datastore.objects.get(image_id)
        if entry is None:
            raise ImageNotFoundException(f"Image {image_id} not found")
        return entry.model_copy(deep=True)

    @contextmanager
    def _track_change(self, image_id: str, entry: ImageLabelModel | None) -> Iterator[None]:
        """The record with a new entry, or without one; as before when the body or the writing fails."""
        before = self._datastore.objects.get(image_id)
        self._set(image_id, entry)
        try:
            with self._stage_record():
                yield
        except BaseException:
            self._set(image_id, before)
            raise

    def _set(self, image_id: str, entry: ImageLabelModel | None) -> None:
        if entry is None:
            self._datastore.objects.pop(image_id, None)
        else:
            self._datastore.objects[image_id] = entry

    @contextmanager
    def _stage_record(self) -> Iterator[None]:
        """Write the record beside its place before the body runs, and move it there after it.

        A full disk is therefore noticed before anything changes.
        """
        try:
            text = json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str)
            # A value that cannot be read again would cost the whole record.
            LocalDatastoreModel.model_validate_json(text)
        except (ValueError, RecursionError):
            raise RequestError(
                "The information about an image or label is nested "
                "too deeply, or has characters that cannot be stored."
            ) from None
        record = Path(self._datastore_config_path)
        with stage(record, text.encode()):
            yield
        self._config_ts = record.stat().st_mtime

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root)

    def _check_inside(self, uri: str) -> str:
        if uri and not self._is_inside(Path(uri)):
            raise UnknownImageError(
                "The file of this image or label lies outside the "
                "folder of studies and is not served; copy it there."
            )
        return uri

    def _place(self, folder: str, name: str) -> Path:
        """Where a file is written or removed; the name itself, not what a link of that name leads to."""
        path = Path(folder) / name
        if not self._is_inside(path.parent):
            raise RequestError("This label_tag leads out of the folder of studies; use another one.")
        return path

    def _reconcile_datastore(self) -> None:
        """Record the files that there are now."""
        with self.lock.reading():
            self._init_from_datastore_file()
            found = list_studies(self.root, ignore=OWN_FILES, follow_links=False)
            entries = make_entries(
                found.images, self.root / "labels", self._datastore.objects, self._is_inside
            )
            if entries != self._datastore.objects:
                self._datastore.objects = entries
                self._update_datastore_file()
        self.left_out = report_left_out(found.left_out, self.left_out)

    def _reload(self) -> None:
        """Take note of what others changed in the folder."""
        try:
            self._reconcile_datastore()
        except OSError:  # the folder is away, such as that of a network; the next change may bring it back
            logger.exception("The studies folder %s could not be looked through", self.root)

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read the record when it has changed; a damaged one is put aside."""
        record = Path(self._datastore_config_path)
        with self.lock.reading():
            if not record.exists() or record.stat().st_mtime == self._config_ts:
                return
            changed = record.stat().st_mtime
            try:
                self._datastore = LocalDatastoreModel.model_validate_json(record.read_bytes())
            except ValueError:
                aside = record.with_name(f"{record.name}.damaged-{int(time.time())}")
                record.rename(aside)
                logger.warning(
                    "The record of images and labels was damaged; it was "
                    "renamed to %s, and is made again from the files.",
                    aside.name,
                )
            self._datastore.base_path = self._datastore_path
            self._config_ts = changed

    def _update_datastore_file(self, lock: bool = True) -> None:
        # Without the right to write, the record lives in memory.
        with suppress(ReadOnlyError), self.lock.writing(), self._stage_record():
            pass


def _id(image_id: object) -> str:
    """An id that is one file name.

    Raises:
        RequestError: it is anything else.
    """
    safe = safe_id(image_id)
    if "/" in safe or safe.startswith(".") or len(safe.encode(errors="replace")) > 200:
        raise RequestError("image is the id of an image of this server: one short name, not a path.")
    return safe


def _remove(image: Path) -> None:
    """Remove a file or a link, or a folder with a DICOM series."""
    if image.is_dir() and not image.is_symlink():
        shutil.rmtree(image)
    else:
        image.unlink(missing_ok=True)
