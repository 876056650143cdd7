"""Reads files of tensors without running any code inside them.

Knows torch and safetensors files; not which model the tensors are for, nor where files are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from wordmask.errors import WeightsError

PARALLEL = "module."  # prefix of all names after a training on several GPUs
# Training scripts store numpy numbers beside the weights (Simple-ViLMedSAM its mean loss), which torch
# refuses unless named here.
# numpy's private function, which files give either of two names.
_MAKE_NUMBER = np.float64(0).__reduce__()[0]
NUMPY_NUMBERS: list[Any] = [
    (_MAKE_NUMBER, "numpy.core.multiarray.scalar"),
    (_MAKE_NUMBER, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file or of a torch file.

    A torch file holds tensors, or a table with them under ``model`` or ``state_dict``. The prefix that
    training on several GPUs gives to all names, ``module.``, is left out.

    Returns:
        Name -> tensor, on the CPU.

    Raises:
        WeightsError: the file is missing, damaged, or does not contain tensors.
    """
    content = read_content(path)
    for inside in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(inside), Mapping):
            content = content[inside]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise WeightsError(
            f"{path.name} is not a file of named tensors; give a checkpoint (.pth, .pt) or a .safetensors "
            "file."
        )
    return without_parallel_prefix(content)


def read_content(path: Path) -> Any:
    """Read whatever a .safetensors or torch file holds, on the CPU.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    if not path.is_file():
        raise WeightsError(
            f"There is no file of weights {path.name}; `wordmask weights list` shows what can be fetched."
        )
    try:
        return _read(path)
    # A damaged file fails in a dozen ways: zip, pickle, unicode, key and value errors among them.
    except Exception as error:
        raise WeightsError(
            f"{path.name} cannot be read as weights: it is damaged, cut short, or another kind of file; "
            "fetch or export it again."
        ) from error


def without_parallel_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the prefix ``module.``, when all names have it."""
    parallel = all(str(name).startswith(PARALLEL) for name in tensors)
    return {name.removeprefix(PARALLEL) if parallel else name: value for name, value in tensors.items()}


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals(NUMPY_NUMBERS):
        return torch.load(path, map_location="cpu", weights_only=True)
