"""MONAI Label's datastore in a folder, where an id is never a path and a crash loses nothing.

MONAI Label makes paths of whatever ids and tags it is given, copies onto the old file, and truncates its record before it writes it
anew (seen in 0.8.5). Here ids and tags are checked in one place, and every file is replaced whole or not at all.
Knows files, ids and tags; not HTTP, not images.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

from wordmask.errors import RequestError
from wordmask_app.images import UnknownImageError, safe_id, safe_tag

logger = logging.getLogger(__name__)

_PART = ".part"  # no ending of an image, so that a half-written file is never listed


class GuardedDatastore(LocalDatastore):  # type: ignore[misc]  # monailabel has no types
    """Every method that takes an id or a tag raises RequestError for one that is a path."""

    def __init__(self, datastore_path: str, **options: Any) -> None:
        """options: as MONAI Label's. A damaged record is put aside with a warning and made anew from the files."""
        for left in Path(datastore_path).glob(f"**/.*{_PART}"):
            left.unlink()
        super().__init__(datastore_path, **options)
        if options.get("auto_reload"):
            self._handler.on_moved = self._on_replaced

    def get_image(self, image_id: str, params: Any = None) -> Any:
        """The content of an image."""
        return super().get_image(safe_id(image_id), params)

    def get_image_uri(self, image_id: str) -> str:
        """The file of an image; empty when there is no such image."""
        found: str = super().get_image_uri(safe_id(image_id))
        return found

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> Any:
        """The content of a label."""
        return super().get_label(safe_id(label_id), safe_tag(label_tag), params)

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """The file of a label; empty when there is no such label."""
        found: str = super().get_label_uri(safe_id(label_id), safe_tag(label_tag))
        return found

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Copy a file in as an image; RequestError for an id that is a path or an ending that is not served."""
        stem, ending = self._to_id(os.path.basename(image_filename))
        image_id = safe_id(image_id or stem)
        name = self._filename(image_id, self._served(ending))
        with FileLock(self._lock_file):
            _replace(Path(self._datastore.image_path()) / name, lambda part: shutil.copy(image_filename, part))
            info = {**(image_info or {}), "ts": int(time.time()), "name": name}
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=ending))
            self._update_datastore_file(lock=False)
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels; ImageNotFoundException."""
        super().remove_image(safe_id(image_id))

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: Mapping[str, Any]) -> str:
        """Copy a file in as a label of an image: a label that was there stays whole until the new one is."""
        entry = self._datastore.objects.get(safe_id(image_id))
        if entry is None:
            raise ImageNotFoundException(f"Image {image_id} not found")
        _, ending = self._to_id(os.path.basename(label_filename))
        name, folder = self._filename(image_id, self._served(ending)), Path(self._datastore.label_path(safe_tag(label_tag)))
        with FileLock(self._lock_file):
            folder.mkdir(parents=True, exist_ok=True)
            _replace(folder / name, lambda part: shutil.copy(label_filename, part))
            info = {**(label_info or {}), "ts": int(time.time()), "name": name}
            entry.labels[label_tag] = DataModel(info=info, ext=ending)
            self._update_datastore_file(lock=False)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label; LabelNotFoundException."""
        if not self.get_label_uri(label_id, label_tag):
            raise LabelNotFoundException(f"Label: {label_id} Tag: {label_tag} not found")
        super().remove_label(label_id, label_tag)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """A ZIP of all images with a final label; UnknownImageError when there is none yet."""
        if not self.datalist():
            raise UnknownImageError("No image of this server has a final label yet, so there is no data set to download.")
        found: str = super().get_dataset_archive(limit_cases)
        return found

    def _served(self, ending: str) -> str:
        known = [pattern.removeprefix("*") for pattern in self._extensions]
        if ending not in known:
            raise RequestError(f"Images and labels end in one of {', '.join(known)}, not in {ending[:20]!r}.")
        return ending

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        try:
            super()._init_from_datastore_file(throw_exception=throw_exception)
        except ValueError:
            record = Path(self._datastore_config_path)
            aside = record.with_name(f"{record.name}.damaged-{int(time.time())}")
            record.rename(aside)
            logger.warning("The record of images and labels was damaged; it is now %s, and a new one is made from the files.", aside.name)

    def _update_datastore_file(self, lock: bool = True) -> None:
        if lock:
            with FileLock(self._lock_file):
                self._update_datastore_file(lock=False)
            return
        record = Path(self._datastore_config_path)
        text = json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str)
        _replace(record, lambda part: part.write_text(text))
        self._config_ts = record.stat().st_mtime

    def _on_replaced(self, event: Any) -> None:
        """Another process, such as a batch inference, has replaced the record."""
        if event.dest_path == self._datastore_config_path:
            self._init_from_datastore_file()


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, and move it there once it is on the disk; the old one stays when anything fails."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=_PART)
    part = Path(name)
    try:
        write(part)
        os.fsync(handle)
        part.chmod(0o644)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
