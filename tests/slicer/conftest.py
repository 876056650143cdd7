"""Real MRML for every test here: the harness is installed before test files import `WordMaskLib`, and each
test has an empty scene.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.slicer import harness, libraries, qt_harness, views

harness.install()

from tests.slicer.real_server import Running, running_server  # noqa: E402  needs the harness
from tests.slicer.scenes import add_volume, affine  # noqa: E402


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
