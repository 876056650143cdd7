from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.pins import find_problems, find_unpinned, read_first_releases, read_installed, read_pins

PYTHONS = ["3.11.0", "3.12.0"]


def install(folder: Path, name: str, version: str, *lines: str) -> None:
    """What pip leaves behind of a package, as far as its metadata goes."""
    record = folder / f"{name}-{version}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, ""])
    )


def problems(folder: Path, constraints: str) -> list[str]:
    return list(find_problems(read_pins(constraints), PYTHONS, read_installed([str(folder)])))


def test_pin_that_only_a_later_patch_release_of_python_takes_is_reported(tmp_path):
    install(tmp_path, "soupsieve", "4.1.2", "Requires-Python: >=3.11.5")
    assert problems(tmp_path, "soupsieve==4.1.2") == [
        (
            "soupsieve ==4.1.2 does not install on Python 3.11.0, because it needs >=3.11.5: pin an older "
            "release."
        )
    ]


@pytest.mark.parametrize(
    "line", ["Requires-Python: >=3.11", "Requires-Python: >=3.8,!=3.9.*", "Summary: says nothing of Python"]
)
def test_pin_that_installs_everywhere_is_not_reported(tmp_path, line):
    install(tmp_path, "soupsieve", "2.9.2", line)
    assert problems(tmp_path, "# the tested set\nsoupsieve==2.9.2  # as pinned\n") == []


def test_pin_of_another_version_than_the_installed_is_reported(tmp_path):
    install(tmp_path, "numpy", "2.1.0")
    assert problems(tmp_path, "numpy==1.26.4") == [
        "numpy 2.1.0 is installed, but the pin is ==1.26.4: install the pins and lint again."
    ]


def test_cpu_build_is_the_release_that_is_pinned(tmp_path):
    install(tmp_path, "torch", "2.14.1+cpu")
    assert problems(tmp_path, "torch==2.14.1") == []


def test_pin_that_is_not_installed_is_reported_where_its_marker_applies(tmp_path):
    constraints = 'here==1.0; python_version >= "3.11"\nelsewhere==1.0; python_version < "3.11"\n'
    assert [problem.split()[0] for problem in problems(tmp_path, constraints)] == ["here"]


def test_package_without_a_pin_is_reported_with_the_one_that_needs_it(tmp_path):
    install(tmp_path, "Project", "0.1", "Requires-Dist: blosc2", 'Requires-Dist: pytest; extra == "dev"')
    install(tmp_path, "blosc2", "4.0", "Requires-Dist: httpx[http2]", "Requires-Dist: torch")
    install(
        tmp_path,
        "httpx",
        "0.28",
        'Requires-Dist: h2; extra == "http2"',
        'Requires-Dist: socksio; extra == "socks"',
    )
    install(tmp_path, "torch", "2.14.1", "Requires-Dist: nvidia-cublas")
    for name in ("h2", "socksio", "nvidia-cublas", "pytest"):
        install(tmp_path, name, "4.4.1")
    pins = read_pins("blosc2==4.0\nHTTPX==0.28\ntorch==2.14.1")
    assert sorted(find_unpinned(pins, Requirement("project[dev]"), read_installed([str(tmp_path)]))) == [
        "h2 has no pin, but httpx needs it: add h2==4.4.1.",
        "pytest has no pin, but project needs it: add pytest==4.4.1.",
    ]


def test_first_releases_are_those_that_the_project_supports():
    assert read_first_releases(">=3.11,<3.13") == PYTHONS
