"""Can this machine run WordMask: its Python, system libraries, port, folders and accelerator?

Each problem is one sentence. Knows the machine; packages and their versions are the business of
`wordmask.environment.packages`.
"""

from __future__ import annotations

import http.client
import importlib
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.specifiers import SpecifierSet

IMPORTED = ("numpy", "SimpleITK", "torch", "torchvision", "monai", "open_clip", "monailabel")
PACKAGE_OF_LIBRARY = {  # by Debian's names; what a minimal installation lacks
    "libgomp.so.1": "libgomp1",
    "libstdc++.so.6": "libstdc++6",
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
}


def find_python_problem(version: tuple[int, ...] = sys.version_info[:3]) -> str | None:
    """A sentence when this Python is older or newer than the packages that WordMask needs."""
    found = ".".join(map(str, version))
    if found in SpecifierSet(metadata.metadata("wordmask")["Requires-Python"]):  # of pyproject.toml
        return None
    return (
        f"This is Python {found}, and WordMask needs 3.11 or 3.12, because "
        "numpy 1.26 is not built for others; install one of these (for "
        "example `uv python install 3.12`) and make the environment with it."
    )


def find_library_problems(
    names: Iterable[str] = IMPORTED, load: Callable[[str], object] = importlib.import_module
) -> list[str]:
    """One sentence per package that is installed but cannot be imported. Takes seconds.

    Args:
        names: modules to import.
        load: imports one; replaced in tests.
    """
    problems = []
    for name in names:
        try:
            load(name)
        except Exception as error:  # noqa: BLE001 - a broken package may raise anything while it is imported
            problems.append(_why_not_imported(name, error))
    return problems


def _why_not_imported(name: str, error: Exception) -> str:
    missing = re.search(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object", str(error))
    if missing is None:
        return (
            f"{name} is installed but cannot be imported ({type(error).__name__}: {error}); install it again."
        )
    library = missing.group(1)
    package = PACKAGE_OF_LIBRARY.get(library)
    remedy = (
        f"on Debian and Ubuntu type `sudo apt-get install {package}`"
        if package
        else "install the package of your system that has it"
    )
    return f"{name} needs the system library {library}, which is missing; {remedy}."


def probe_port(port: int) -> Literal["free", "WordMask", "taken"]:
    """What listens on a port of this machine.

    Returns:
        "free", "WordMask" (also for a server that asks for a token), or "taken" by another program.
    """
    with socket.socket() as probe:
        probe.settimeout(2.0)
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return "free"
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/wordmask/health", timeout=5.0):
            return "WordMask"
    except urllib.error.HTTPError as error:
        return "WordMask" if error.code == 401 else "taken"
    except (OSError, http.client.HTTPException):
        return "taken"


def find_folder_problems(folders: dict[str, tuple[Path, str]]) -> list[str]:
    """One sentence per folder that this account cannot make or write to; nothing is left behind.

    Args:
        folders: what is kept there -> (folder, how to choose another one).
    """
    problems = []
    for content, (folder, remedy) in folders.items():
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            problems.append(
                f"The folder for {content}, {folder}, cannot be written to ({error.strerror}); {remedy}."
            )
    return problems


def find_device_problem() -> str | None:
    """A sentence when the machine has an accelerator that this installation of torch does not use."""
    import torch

    if sys.platform == "darwin" and platform.machine() == "arm64":
        usable = torch.backends.mps.is_available()
        return (
            None
            if usable
            else "torch cannot use this Mac's GPU (MPS); update macOS to 12.3 or newer, or use the CPU."
        )
    gpu = name_nvidia_gpu()
    if gpu is None or torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return (
            f"This machine has the GPU {gpu}, but torch {torch.__version__} is built for "
            "CPUs; install torch and torchvision again from the package index, without CPU=1."
        )
    return (
        f"This machine has the GPU {gpu}, but its driver is too old "
        f"for CUDA {torch.version.cuda}; update the NVIDIA driver."
    )


def name_nvidia_gpu() -> str | None:
    """The first NVIDIA GPU as its driver names it, None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    names = answer.stdout.splitlines()
    return names[0].strip() if answer.returncode == 0 and names else None
