"""Images that were read last are kept, and read again when their file changes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from wordmask_app.jobs import recent_volumes
from wordmask_app.jobs.recent_volumes import KEPT, RecentVolumes


def write(path, value: int) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.full((3, 4, 5), value, np.int16)), str(path))


def test_an_image_is_read_again_only_if_its_file_has_changed(tmp_path):
    recent, path = RecentVolumes(), tmp_path / "a.nii.gz"
    write(path, 1)
    first = recent.read(path, max_voxels=1000)
    assert recent.read(path, max_voxels=1000) is first
    write(path, 2222)
    again = recent.read(path, max_voxels=1000)
    assert again.array.max() == 2222
    for number in range(KEPT):
        write(tmp_path / f"{number}.nii.gz", number)
        recent.read(tmp_path / f"{number}.nii.gz", max_voxels=1000)
    assert recent.read(path, max_voxels=1000) is not again


def test_large_images_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(recent_volumes, "MOST_BYTES", 100)
    recent, path = RecentVolumes(), tmp_path / "a.nii.gz"
    write(path, 1)
    assert recent.read(path, max_voxels=1000) is not recent.read(path, max_voxels=1000)
