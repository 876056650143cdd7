"""Which package may import which: the one table of it, and what the code does.

A package stands below all that import it. `tests/unit/test_arrows.py` compares the code with the table;
`python -m tests.draw_arrows` draws docs/images/packages.png from it and prints it for docs/architecture.md.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ROOTS = {"wordmask": REPOSITORY / "lib/wordmask", "wordmask_app": REPOSITORY / "monailabel_app/wordmask_app"}

BASE = ("errors", "files", "resources", "progress")
PARTS = (*BASE, "words", "data", "weights", "environment")
MODELS = (*PARTS, "encoders", "models")
LIBRARY = (*MODELS, "phantoms", "inference", "learning")
SERVER = (*MODELS, "inference", "app.settings", "app.hardening")

# Package -> what it may import, each row naming rows above it only. `wordmask` is the front door,
# lib/wordmask/__init__.py; a name with a dot is of the app. words, data and weights do not know each other.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "files": ("errors",),
    "resources": ("errors",),
    "progress": ("errors",),
    "words": BASE,
    "data": BASE,
    "weights": BASE,
    "environment": BASE,
    "phantoms": (),
    "encoders": PARTS,
    "models": (*PARTS, "encoders"),
    "inference": MODELS,
    "wordmask": (*MODELS, "inference"),
    "learning": (*MODELS, "phantoms", "inference"),
    "pretraining": LIBRARY,
    "demo": (*LIBRARY, "pretraining"),
    "app.settings": (*BASE, "words"),
    "app.hardening": (*BASE, "data"),
    "app.serving": (*BASE, "data", "weights", "app.settings", "app.hardening"),
    "app.jobs": SERVER,
    "app.tasks": (*SERVER, "learning", "app.jobs"),
    "app.http": (*SERVER, "learning", "wordmask", "app.jobs", "app.tasks"),
    "app.app": (*SERVER, "learning", "wordmask", "app.jobs", "app.tasks", "app.http"),
    "cli": (*LIBRARY, "wordmask", "pretraining", "app.serving"),
}


@dataclass(frozen=True)
class Arrow:
    """One import. file: from the repository's folder; source, target: packages."""

    file: str
    line: int
    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.source} imports {self.target}"

    @property
    def is_allowed(self) -> bool:
        """Whether the table has it."""
        return self.target in MAY_IMPORT.get(self.source, ())


@cache
def read_arrows() -> tuple[Arrow, ...]:
    """Every import from one package into another, those inside functions and under TYPE_CHECKING too."""
    found = []
    for root, folder in ROOTS.items():
        for path in sorted(folder.rglob("*.py")):
            source = package_of(".".join((root, *path.relative_to(folder).with_suffix("").parts)))
            file = path.relative_to(REPOSITORY).as_posix()
            found += arrows_of(path.read_text(encoding="utf-8"), source, file)
    return tuple(found)


def arrows_of(text: str, source: str, file: str) -> list[Arrow]:
    """The arrows of one file that belongs to ``source``."""
    lines = {
        (node.lineno, package_of(module)) for node in ast.walk(ast.parse(text)) for module in _modules(node)
    }
    return [Arrow(file, line, source, target) for line, target in sorted(lines) if target != source]


def _modules(node: ast.AST) -> Iterator[str]:
    """Our modules that a node imports.

    One that names something of a package's ``__init__`` counts as that package.
    """
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports are not used here"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return
    yield from (name for name in names if name.split(".")[0] in ROOTS)


def package_of(module: str) -> str:
    """`wordmask.data.volumes` -> data, `wordmask_app.http.routes` -> app.http, `wordmask.__version__` ->
    wordmask.
    """
    root, *parts = module.split(".")
    inside = (
        parts
        and ((ROOTS[root] / parts[0]).is_dir() or (ROOTS[root] / f"{parts[0]}.py").is_file())
        and parts[0] != "__init__"
    )
    if root == "wordmask":
        return parts[0] if inside else "wordmask"
    return f"app.{parts[0]}" if inside else "app"
