"""The steps of transforms.py as MONAI transforms of dictionaries, composed after ``LoadImaged`` and ``EnsureChannelFirstd``.

Thin: shapes and affines are MONAI's here, the work is done by the numpy code. Apart from transforms.py so that nothing else has
to load MONAI. Tensors are channel first, [C, i, j, k] with a RAS affine, as MONAI's readers give them; pictures are [C, x, y].
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from wordmask.errors import RequestError, VolumeError
from wordmask.geometry import Geometry, Slicing, slicing_for
from wordmask.image_files import grey_range
from wordmask.transforms import Plane, choose_plane, rescale, window_named
from wordmask.volumes import Volume


@dataclass(frozen=True, eq=False)
class Cut:
    """How one entry was cut, for `Restackd` to undo. affine: [4, 4] RAS before the cut; is_picture: it was [C, x, y]."""

    slicing: Slicing
    affine: torch.Tensor
    is_picture: bool


class CutSlicesd(MapTransform):  # type: ignore[misc]
    """Cut [C, i, j, k] into slices [C, n, h, w] in display orientation; the affine follows, and ``<key>_cut`` remembers how.

    plane: ``auto``, ``axial``, ``coronal`` or ``sagittal``; ``auto`` is decided by the first key and used for all.
    Raises RequestError for an unknown plane, VolumeError for a sheared affine.
    """

    def __init__(self, keys: KeysCollection, *, plane: str = "auto", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.plane = plane

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut every key."""
        result = dict(data)
        chosen: Plane | None = None
        for key in self.key_iterator(result):
            tensor = _meta(result[key], str(key))
            voxels, geometry = _voxels(tensor, str(key))
            if chosen is None:
                chosen = choose_plane(Volume(voxels[..., 0], geometry, "unknown", str(key)), self.plane)
            slicing = slicing_for(geometry, chosen)
            stack = np.ascontiguousarray(np.moveaxis(slicing.cut(voxels), -1, 0))
            affine = torch.as_tensor(tensor.affine.cpu().numpy() @ _slice_to_voxel(slicing))
            result[key] = _like(tensor, stack, affine)
            result[f"{key}_cut"] = Cut(slicing, tensor.affine.clone(), tensor.ndim == 3)
        return result


class Restackd(MapTransform):  # type: ignore[misc]
    """Undo `CutSlicesd`: [C, n, h, w] -> [C, i, j, k], on the grid that ``like`` had before it was cut.

    Any tensor or array will do. like: the key that was cut, each key itself when None. Raises RequestError when it was not cut.
    """

    def __init__(self, keys: KeysCollection, *, like: str | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.like = like

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put every key back."""
        result = dict(data)
        for key in self.key_iterator(result):
            name = f"{self.like or key}_cut"
            if not isinstance(cut := result.get(name), Cut):
                raise RequestError(f"{key!r} cannot be restacked: {self.like or key!r} was not cut; put CutSlicesd before Restackd.")
            tensor = torch.as_tensor(result[key])
            voxels = cut.slicing.restack(np.moveaxis(tensor.detach().cpu().numpy(), 0, -1))
            back = torch.from_numpy(np.ascontiguousarray(voxels.transpose(3, 2, 1, 0))).to(tensor.device)
            result[key] = MetaTensor(back[..., 0] if cut.is_picture else back, affine=cut.affine)
        return result


class NamedWindowd(MapTransform):  # type: ignore[misc]
    """Grey values to 0..1, float32, any shape: Hounsfield units through a named window, others between two percentiles.

    window: a name in configs/windows.yaml; None: percentiles 0.5 and 99.5 of the tensor. RequestError on another name.
    """

    def __init__(self, keys: KeysCollection, *, window: str | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.window = None if window is None else window_named(window)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Rescale every key."""
        result = dict(data)
        for key in self.key_iterator(result):
            tensor = _meta(result[key], str(key))
            image = tensor.cpu().numpy()
            unit = rescale(image, *grey_range(image)) if self.window is None else self.window(image)
            result[key] = _like(tensor, unit, tensor.affine)
        return result


def _meta(value: Any, key: str) -> MetaTensor:
    if not isinstance(value, MetaTensor):
        raise VolumeError(f"{key!r} has no affine; load it with MONAI's LoadImaged, or make it a MetaTensor.")
    return value


def _like(tensor: MetaTensor, array: NDArray[Any], affine: torch.Tensor) -> MetaTensor:
    """The array with what is known of the tensor, but its own affine (an affine in ``meta`` would win over a separate one)."""
    return MetaTensor(torch.from_numpy(array).to(tensor.device), meta={**tensor.meta, "affine": affine})


def _voxels(tensor: MetaTensor, key: str) -> tuple[NDArray[Any], Geometry]:
    """[k, j, i, C], and the grid of it."""
    array = tensor.cpu().numpy()
    if array.ndim == 3:
        return array[..., None].transpose(3, 2, 1, 0), Geometry.of_picture(array.shape[1], array.shape[2])
    if array.ndim != 4:
        raise VolumeError(f"{key!r} has shape {array.shape}; put EnsureChannelFirstd before this.")
    return array.transpose(3, 2, 1, 0), Geometry.from_affine_ras(tensor.affine.cpu().numpy(), array.shape[1:])


def _slice_to_voxel(slicing: Slicing) -> NDArray[np.float64]:
    """[4, 4], (slice, row, column, 1) -> (i, j, k, 1)."""
    matrix = np.eye(4)
    matrix[:3, 3] = slicing.slice_to_voxel(np.zeros(3))
    matrix[:3, :3] = (slicing.slice_to_voxel(np.eye(3)) - matrix[:3, 3]).T
    return matrix
