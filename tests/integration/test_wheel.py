"""The wheel alone, in an environment without the source tree.

The command, the app for MONAI Label, the server.

The other packages are borrowed from the environment of the tests; WordMask itself comes from the wheel.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from tests.support.servers import PATIENCE, REPOSITORY, SAMPLES, eventually, serving

from wordmask.demo.client import AppClient, free_port

IN_THE_WHEEL = (
    "pyproject.toml",
    "setup.py",
    "configs",
    "constraints.txt",
    "README.md",
    "LICENSE",
    "lib",
    "monailabel_app",
)
MODEL = "simple_vilmedsam"
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", "logs", "spool", "bin", "[0-9]*")

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with WordMask from a wheel that was built of a copy of the source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in IN_THE_WHEEL:
        path = REPOSITORY / name
        shutil.copytree(path, source / name, ignore=IGNORED) if path.is_dir() else shutil.copy(path, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)],
        check=True,
        timeout=300,
    )
    shutil.rmtree(source)
    venv.create(folder / "environment", symlinks=True)
    (wheel,) = folder.glob("wordmask-*.whl")
    prefix = folder / "environment"
    subprocess.run(
        [*pip, "--python", str(python(prefix)), "install", "--no-deps", str(wheel)], check=True, timeout=300
    )
    borrowed = Path(sysconfig.get_path("purelib"))
    own = next(prefix.glob("lib/python3*/site-packages"))
    (own / "borrowed.pth").write_text(str(borrowed))
    return prefix


def python(prefix: Path) -> Path:
    return prefix / "bin" / "python"


def run(prefix: Path, folder: Path, *arguments: str) -> str:
    """What a program of the environment prints; the source tree cannot be seen from there."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python(prefix)), *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wordmask_comes_from_the_wheel_and_segments(environment, tmp_path):
    where = run(
        environment,
        tmp_path,
        "-c",
        "import wordmask, wordmask_app; print(wordmask.__file__, wordmask_app.__file__)",
    )
    assert where.count(str(environment)) == 2
    image = str(SAMPLES / "studies" / "dermoscopy_1.png")
    assert "skin lesion" in run(
        environment, tmp_path, "-m", "wordmask.cli", "segment", image, "skin lesion", "-o", "mask.png"
    )
    assert (tmp_path / "mask.png").stat().st_size


def test_monai_label_lists_the_app_and_copies_one_that_works(environment, tmp_path):
    assert "wordmask" in run(
        environment, tmp_path, "-m", "monailabel.main", "apps", "--prefix", str(environment)
    )
    run(
        environment,
        tmp_path,
        "-m",
        "monailabel.main",
        "apps",
        "--prefix",
        str(environment),
        "--download",
        "--name",
        "wordmask",
    )
    assert sorted(path.name for path in (tmp_path / "wordmask").iterdir()) == [
        "LICENSE",
        "README.md",
        "main.py",
        "requirements.txt",
    ]
    studies = tmp_path / "studies"
    studies.mkdir()
    shutil.copy(SAMPLES / "studies" / "dermoscopy_1.png", studies)
    port = free_port()
    arguments = (
        "--studies",
        str(studies),
        "--app",
        str(tmp_path / "wordmask"),
        "--port",
        str(port),
        "--conf",
        f"models={MODEL}",
    )
    with serving(tmp_path, *arguments, python=python(environment), ignored=True) as (server, lines):
        assert set(AppClient(f"http://127.0.0.1:{port}").info()["models"]) == {MODEL}
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE) == 0
    eventually(lambda: lines[-1] == "WordMask has stopped.\n")
