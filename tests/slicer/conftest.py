"""Real MRML for every test here: the harness is installed before test files import `WordMaskLib`, and each
test has an empty scene.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.slicer import harness, libraries, qt_harness, views

harness.install()

from tests.slicer.real_server import Running, running_server  # noqa: E402  needs the harness
from tests.slicer.scenes import LABELS, SHAPE, add_segmentation, add_volume, affine, box, write_file  # noqa: E402


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Skip the tests whose fixtures need libraries that are missing; tests/conftest.py says at the end how to
    install them.
    """
    for need, reason in libraries.reasons_to_skip().items():
        for item in items:
            if need in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def qt() -> Any:
    """The flat `qt` module.

    Whoever uses Qt asks for it, if only by `usefixtures`, and is skipped where it cannot be loaded.
    """
    return qt_harness.install_qt()


@pytest.fixture(scope="session")
def rendering() -> None:
    """Whoever draws views asks for it, and is skipped where VTK cannot do so."""
    if problem := libraries.say_missing("rendering"):
        raise ImportError(problem)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A real one, which all tests share. They leave its queue empty, and give what they upload new names."""
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(autouse=True)
def scene() -> Iterator[Any]:
    """The scene, empty; nodes, widgets and views that a test leaves are gone for the next one."""
    harness.clear_scene()
    yield harness.start()
    qt_harness.close_widgets()
    views.close_views()
    harness.clear_scene()


@pytest.fixture
def an_oblique_ct() -> Any:
    """6 x 7 x 8 (k, j, i) voxels of 1.5 x 2 x 4 mm, turned by 12 and 7 degrees."""
    values = np.random.default_rng(5).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)
    return add_volume(values, affine(), "CT")


@pytest.fixture
def a_large_file(tmp_path: Path) -> Path:
    """48 MB of zeros."""
    path = tmp_path / "large.nii"
    with path.open("wb") as file:
        file.truncate(48 << 20)
    return path


@pytest.fixture
def a_result(tmp_path: Path) -> Path:
    """The file of a result that has a liver and a right kidney, and no spleen."""
    return write_file(tmp_path / "labels.nii.gz", LABELS, affine())


@pytest.fixture
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where flows put their files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def a_scene() -> Any:
    """A volume, and a person's two segments, which overlap."""
    volume = add_volume(
        np.random.default_rng(5).integers(-1000, 1000, SHAPE).astype(np.int16), affine(), "CT"
    )
    masks = {"mine": box(SHAPE, (1, 4), (1, 5), (2, 6)), "liver": box(SHAPE, (0, 3), (0, 4), (0, 4))}
    return volume, add_segmentation(volume, masks)


@pytest.fixture
def a_labelled_scene() -> Any:
    """A volume that no other test has, and segments of a person that do not overlap."""
    volume = add_volume(
        np.random.default_rng(time.time_ns()).integers(-1000, 1000, SHAPE).astype(np.int16), affine(), "CT"
    )
    return volume, add_segmentation(
        volume, {"liver": box(SHAPE, (0, 3), (0, 4), (0, 4)), "my mass": box(SHAPE, (4, 6), (1, 5), (2, 6))}
    )
