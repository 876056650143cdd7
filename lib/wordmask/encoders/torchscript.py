"""Reads the weights in a TorchScript archive, such as OpenAI's ViT-B-16.pt, without running its program.

`torch.jit.load` would compile the archive's own code, and a plain unpickler would call whatever the pickle
names; here every name in the pickle stands for an empty shell, except tensors and their storage types. Knows
the layout of such an archive: a zip with a pickle of the module tree and one raw file per tensor; not the
model.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordmask.errors import WeightsError

STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}


def is_torchscript(path: Path) -> bool:
    """Whether ``path`` is an archive with TorchScript code in it, rather than a file of tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[1:3] == ["code", "__torch__"] for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read every tensor of the module tree.

    Returns:
        Dotted name -> tensor on the CPU: parameters, buffers, and any other attribute of a module.

    Raises:
        WeightsError: the archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next(name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"])
            root = _Reader(archive, entry.removesuffix(".pkl")).load()
            return dict(_tensors(root, ""))
    except Exception as error:  # zip, pickle, key, index and runtime errors among them
        raise WeightsError(
            f"{path.name} is a damaged TorchScript archive; fetch or import it again."
        ) from error


class _Shell:
    """Stands for any class or function that the pickle names; keeps attributes and does nothing else."""

    def __init__(self, *_: object) -> None: ...


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}.pkl")))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return dict if (module, name) == ("collections", "OrderedDict") else _Shell

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, _ = pid
        data = bytearray(self._archive.read(f"{self._folder}/{key}"))
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _tensors(module: object, prefix: str) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            found.append((prefix + name, value))
        elif isinstance(value, _Shell):
            found += _tensors(value, f"{prefix}{name}.")
    return found
