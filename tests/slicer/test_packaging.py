"""What Slicer's build, its extensions index and its Pythons need of the folder `slicer_module`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

EXTENSION = Path(__file__).parents[2] / "slicer_module"
MODULE = EXTENSION / "WordMask"
LIBRARY = MODULE / "WordMaskLib"
FILES = sorted(LIBRARY.glob("*.py"))

QT = {"qt", "ctk", "PythonQt", "PySide6", "PyQt5", "PySide2"}
MRML = {"slicer", "vtk"}
NETWORK = {"http", "urllib", "socket", "ssl", "requests", "asyncio", "subprocess"}
GONE = {"cgi", "imp", "distutils", "asyncore", "asynchat", "smtpd", "telnetlib", "pipes", "crypt", "audioop"}  # by Python 3.13
STANDARD = set(sys.stdlib_module_names) - GONE
PURE_ROOTS = ("__init__", "client", "prompts", "server_process")
MRML_ROOTS = ("segments", "export", "overlay", "hints", "findings")


def _set(name: str) -> list[str]:
    """The entries of a CMake list of the module, with its name filled in."""
    text = re.sub(r"#.*", "", (MODULE / "CMakeLists.txt").read_text())
    (entries,) = re.findall(rf"set\({name}\s+([^)]*)\)", text)
    return entries.replace("${MODULE_NAME}", "WordMask").split()


def _imports(path: Path) -> tuple[set[str], set[str]]:
    """(top names of other packages, files of this one) that a file imports, also inside of functions."""
    others, own = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("WordMaskLib")):
            module = (node.module or "").removeprefix("WordMaskLib").strip(".")
            own |= {module.split(".")[0]} if module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            others.add((node.module or "").split(".")[0])
    return others - {"WordMaskLib"}, own & {path.stem for path in FILES}


IMPORTS = {path.stem: _imports(path) for path in FILES}
QT_FILES = {name for name, (others, _) in IMPORTS.items() if others & QT or name.startswith(("panel", "qt_"))}


def _all_behind(*names: str) -> dict[str, set[str]]:
    """Every file of ours that importing these brings in -> what else each imports."""
    found: dict[str, set[str]] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = IMPORTS[name][0]
            waiting += IMPORTS[name][1]
    return found


def test_the_list_of_scripts_is_the_files_on_disk() -> None:
    on_disk = {str(path.relative_to(MODULE)) for path in MODULE.rglob("*.py") if "Testing" not in path.parts}
    assert sorted(_set("MODULE_PYTHON_SCRIPTS")) == sorted(on_disk)


def test_the_list_of_resources_is_the_files_on_disk() -> None:
    on_disk = {str(path.relative_to(MODULE)) for path in (MODULE / "Resources").rglob("*") if path.is_file()}
    assert sorted(_set("MODULE_PYTHON_RESOURCES")) == sorted(on_disk)


def test_the_extension_file_has_what_slicers_build_reads() -> None:
    text = (EXTENSION.parent / "CMakeLists.txt").read_text()
    assert re.search(r"project\(WordMask\)", text)
    for name in ("HOMEPAGE", "CATEGORY", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert re.search(rf'set\(EXTENSION_{name} "[^"]+"\)', text), name
    order = ("find_package(Slicer", "Slicer_USE_FILE", "add_subdirectory(slicer_module/WordMask)", "## NEXT_MODULE", "CPACK")
    positions = [text.index(part) for part in order]
    assert positions == sorted(positions)
    assert 'set(EXTENSION_DEPENDS "NA")' in text


def test_the_icon_is_a_square_png_with_a_see_through_corner() -> None:
    path = MODULE / "Resources" / "Icons" / "WordMask.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(path) as icon:
        assert (icon.size, icon.mode) == ((128, 128), "RGBA")
        pixels = np.asarray(icon)
    assert pixels[0, 0, 3] == 0
    assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 50


def test_every_file_runs_on_python_3_9() -> None:
    command = [sys.executable, "-c", "import vermin; vermin.main()", "--target=3.9-", "--violations", "--no-tips", str(MODULE)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert found.returncode == 0, found.stdout + found.stderr


def test_annotations_are_not_evaluated() -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in MODULE.rglob("*.py")}
    postponed = re.compile(r"^from __future__ import annotations$", re.MULTILINE)
    assert [name for name, source in sources.items() if source.strip() and not postponed.search(source)] == []


def test_plain_python_needs_the_standard_library_alone() -> None:
    for root in PURE_ROOTS:
        for name, others in _all_behind(root).items():
            assert others <= STANDARD, f"{root} brings in {name}"


def test_what_knows_mrml_needs_neither_qt_nor_a_server() -> None:
    for root in MRML_ROOTS:
        behind = _all_behind(root)
        assert behind[root] & {"slicer"}, root
        for name, others in behind.items():
            assert others <= {*MRML, "numpy", *STANDARD} - NETWORK, f"{root} brings in {name}"


def test_only_files_of_the_window_know_files_of_the_window() -> None:
    assert [name for name in sorted(set(IMPORTS) - QT_FILES) if IMPORTS[name][1] & QT_FILES] == []


def test_nothing_of_the_folder_is_left_of_a_developers_machine() -> None:
    for path in EXTENSION.rglob("*"):
        if path.is_file() and path.suffix in (".py", ".txt", ".json", ".ui"):
            assert not re.search(r"(?<![\w.])/(home|work|tmp|Users)/", path.read_text(encoding="utf-8")), path
