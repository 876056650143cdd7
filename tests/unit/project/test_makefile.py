"""What `make` says and installs before there is an environment.

Real make and real pip, with packages that are empty.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NEEDED = ("make", "bash", "env", "grep", "sed", "mkdir", "touch", "rm")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

CONSTRAINTS = "torch==2.14.1\ntorchvision==0.29.1\nsam2==1.1.0\nsetuptools==84.2.1\n"
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "wordmask"
version = "0.1"
"""
# Builds without a network, and makes a package that needs both parts of torch, as WordMask does.
BACKEND = """
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{folder}/wordmask-0.1-py3-none-any.whl", "w") as wheel:
        needs = "".join(f"Requires-Dist: {name}\\nProvides-Extra: {extra}\\n" for name, extra in NEEDS)
        head = "Metadata-Version: 2.1\\nName: wordmask\\nVersion: 0.1\\n"
        wheel.writestr("wordmask-0.1.dist-info/METADATA", head + needs)
        kind = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr("wordmask-0.1.dist-info/WHEEL", kind)
        wheel.writestr("wordmask-0.1.dist-info/RECORD", "")
    return "wordmask-0.1-py3-none-any.whl"

NEEDS = [("torch>=2.4", "dev"), ("torchvision>=0.19", "nnunet"), ("sam2", "slicer")]
"""


@pytest.fixture
def a_checkout(tmp_path) -> Path:
    """A folder with the real Makefile and a project without weight; its name has a blank and an umlaut."""
    folder = tmp_path / "Wörd Mask"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "constraints.txt").write_text(CONSTRAINTS)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    return folder


@pytest.fixture
def a_path(tmp_path) -> Path:
    """A folder for PATH that has what make needs, and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NEEDED:
        found = shutil.which(name)
        assert found is not None, name
        (folder / name).symlink_to(found)
    return folder


def add_python(path: Path, body: str) -> None:
    """A python3 that does what these lines of shell say."""
    python = path / "python3"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)


def make(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make with this environment and no other."""
    return subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("version", ["3.10.13", "3.13.5"])
def test_python_that_does_not_fit_is_answered_with_one_way_that_works(a_checkout, a_path, version):
    add_python(a_path, f'if [ "$1" = --version ]; then echo Python {version}; else exit 1; fi')
    answer = make(a_checkout, "demo", PATH=str(a_path))
    assert answer.returncode != 0
    assert f"WordMask needs Python 3.11 or 3.12; python3 is: Python {version}." in answer.stderr
    assert "numpy 1.26, which has no build for 3.13" in answer.stderr
    assert ".uv/bin/uv venv --seed --python 3.12 .venv" in answer.stderr
    assert not (a_checkout / ".venv").exists()


def test_machine_without_python_is_told_which_one_is_needed(a_checkout, a_path):
    answer = make(a_checkout, "demo", PATH=str(a_path))
    assert answer.returncode != 0
    assert "WordMask needs Python 3.11 or 3.12" in answer.stderr


def test_python_without_its_venv_module_is_answered_with_debians_package(a_checkout, a_path):
    add_python(a_path, 'case "$2" in *ensurepip*) exit 1;; esac')
    answer = make(a_checkout, "demo", PATH=str(a_path))
    assert answer.returncode != 0
    assert "apt-get install python3-venv" in answer.stderr


@pytest.fixture
def indexes(tmp_path) -> Callable[[str], str]:
    """Two indexes of packages, by name.

    All of PyPI with torch for CUDA, and PyTorch's own with the CPU builds and nothing else.
    """
    for index, build in (("pypi", ""), ("cpu", "+cpu")):
        add_package(tmp_path / index, "torch", f"2.14.1{build}", "" if build else "nvidia-cublas")
        add_package(tmp_path / index, "torchvision", f"0.29.1{build}", "torch==2.14.1")
    for name, version in (
        ("sam2", "1.1.0"),
        ("setuptools", "84.2.1"),
        ("wheel", "0.48.0"),
        ("nvidia-cublas", "13.1"),
    ):
        add_package(tmp_path / "pypi", name, version)
    return lambda index: (tmp_path / index).as_uri()


def add_package(index: Path, name: str, version: str, needs: str = "") -> None:
    """An empty package, with the page by which pip finds it."""
    folder = index / name
    folder.mkdir(parents=True)
    file = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / f"{file}-py3-none-any.whl", "w") as wheel:
        needed = f"Requires-Dist: {needs}\n" if needs else ""
        wheel.writestr(
            f"{file}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}"
        )
        wheel.writestr(
            f"{file}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{file}.dist-info/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{file.replace("+", "%2B")}-py3-none-any.whl">{file}</a>')


@pytest.mark.parametrize(("cpu", "build"), [("1", "+cpu"), ("0", "")])
def test_torch_and_torchvision_are_of_one_build(a_checkout, indexes, cpu, build):
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": indexes("pypi")}
    answer = make(
        a_checkout,
        ".venv/.ready",
        f"CPU={cpu}",
        f"TORCH_INDEX={indexes('cpu')}",
        f"PYTHON={sys.executable}",
        PATH=os.environ["PATH"],
        **pip,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    listed = subprocess.run(
        [a_checkout / ".venv/bin/python", "-m", "pip", "freeze", "--all"],
        env=pip,
        capture_output=True,
        text=True,
        check=True,
    )
    installed = dict(line.split("==") for line in listed.stdout.split() if "==" in line)
    assert (installed["torch"], installed["torchvision"]) == (f"2.14.1{build}", f"0.29.1{build}")
    assert ("nvidia-cublas" in installed) is (cpu == "0")  # a CPU build brings nothing for a GPU
