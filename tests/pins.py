"""Does every pin of constraints.txt install on every supported Python, and is what is installed what was
pinned? `make lint` asks.

Reads the metadata of the installed packages, so it needs no network. Knows: constraints.txt and
pyproject.toml, which says what is supported.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
HAS_ITS_OWN_PINS = (
    "torch"  # which GPU packages it brings depends on its build, and it pins their versions itself
)

Installed = Mapping[str, metadata.Distribution]


def read_pins(constraints: str) -> list[Requirement]:
    """The pins that a file in pip's format lists."""
    lines = (line.partition("#")[0].strip() for line in constraints.splitlines())
    return [Requirement(line) for line in lines if line]


def read_first_releases(requires_python: str) -> list[str]:
    """The first release of each Python that is supported: ">=3.11,<3.13" gives 3.11.0 and 3.12.0."""
    supported = SpecifierSet(requires_python)
    return [f"3.{minor}.0" for minor in range(100) if f"3.{minor}.0" in supported]


def read_installed(path: Sequence[str]) -> Installed:
    """Canonical name -> distribution, for those found in the folders of path.

    The first one wins, as in an import.
    """
    found: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions(path=list(path)):
        found.setdefault(canonicalize_name(distribution.metadata["Name"]), distribution)
    return found


def find_problems(pins: Iterable[Requirement], pythons: Iterable[str], installed: Installed) -> Iterator[str]:
    """One sentence per pin that is not installed as pinned, or not installable on one of the pythons."""
    for pin in pins:
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        distribution = installed.get(canonicalize_name(pin.name))
        if distribution is None:
            yield (
                f"{pin.name} is pinned but not installed: if nothing needs it any more, delete its line; "
                "else install the pins."
            )
            continue
        if distribution.version not in pin.specifier:
            yield (
                f"{pin.name} {distribution.version} is installed, but the pin is {pin.specifier}: install "
                "the pins and lint again."
            )
            continue
        needs = SpecifierSet(distribution.metadata.get("Requires-Python", ""))
        for python in (python for python in pythons if python not in needs):
            yield (
                f"{pin.name} {pin.specifier} does not install on Python {python}, because it needs {needs}: "
                "pin an older release."
            )


def find_unpinned(pins: Iterable[Requirement], project: Requirement, installed: Installed) -> Iterator[str]:
    """One sentence per package that the project brings, directly or not, and that has no pin."""
    pinned = {canonicalize_name(pin.name) for pin in pins}
    seen: set[tuple[str, str]] = set()
    todo = [project]
    while todo:
        parent = todo.pop()
        distribution = installed.get(canonicalize_name(parent.name))
        if distribution is None or canonicalize_name(parent.name) == HAS_ITS_OWN_PINS:
            continue
        for needed in _needs(distribution, parent.extras):
            name = canonicalize_name(needed.name)
            if name in installed and name not in pinned and (name, "") not in seen:
                yield f"{name} has no pin, but {parent.name} needs it: add {name}=={installed[name].version}."
            for extra in {"", *needed.extras}:
                if (name, extra) not in seen:
                    seen.add((name, extra))
                    todo.append(Requirement(f"{name}[{extra}]"))


def _needs(distribution: metadata.Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    """What a distribution needs here, with these extras."""
    for requirement in map(Requirement, distribution.requires or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield requirement


def main() -> int:
    """Print what is wrong with the pins; 1 when something is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = read_pins((ROOT / "constraints.txt").read_text())
    installed = read_installed(sys.path)
    everything = Requirement(f"{project['name']}[{','.join(project['optional-dependencies'])}]")
    problems = [
        *find_problems(pins, read_first_releases(project["requires-python"]), installed),
        *find_unpinned(pins, everything, installed),
    ]
    for problem in problems:
        print(f"constraints.txt: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
