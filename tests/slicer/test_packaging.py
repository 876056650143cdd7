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
FILES = {
    ".".join(path.relative_to(LIBRARY).with_suffix("").parts): path for path in sorted(LIBRARY.rglob("*.py"))
}

QT = {"qt", "ctk", "PythonQt", "PySide6", "PyQt5", "PySide2"}
MRML = {"slicer", "vtk", "SampleData"}
NETWORK = {"http", "urllib", "socket", "ssl", "requests", "asyncio", "subprocess"}
# By Python 3.13.
GONE = {
    "cgi",
    "imp",
    "distutils",
    "asyncore",
    "asynchat",
    "smtpd",
    "telnetlib",
    "pipes",
    "crypt",
    "audioop",
}
STANDARD = set(sys.stdlib_module_names) - GONE
ALLOWED = {  # layer -> the other layers that it may import
    "client": set(),
    "scene": {"client"},
    "flows": {"client", "scene"},
    "server": {"client"},
    "panel": {"client", "scene", "flows", "server"},
    "__main__": {"client", "scene", "flows"},
}
OUTSIDE = {  # file or layer -> the packages that it may import
    "client": STANDARD,
    "scene": {*MRML, "numpy", *STANDARD} - NETWORK,
    "flows": {*MRML, "numpy", *STANDARD} - NETWORK,
    "server": STANDARD,
    "server.local_server": {*QT, "slicer", *STANDARD},  # the one that the window starts
    "panel": {*QT, *MRML, "numpy", *STANDARD},
    "__main__": {*MRML, *STANDARD},
}


def _set(name: str) -> list[str]:
    """The entries of a CMake list of the module, with its name filled in."""
    text = re.sub(r"#.*", "", (MODULE / "CMakeLists.txt").read_text())
    (entries,) = re.findall(rf"set\({name}\s+([^)]*)\)", text)
    return entries.replace("${MODULE_NAME}", "WordMask").split()


def _layer(file: str) -> str:
    """The folder of a file of ours, or its name where it lies in none."""
    return file.split(".")[0]


def _imports(file: str) -> tuple[set[str], set[str]]:
    """(top names of other packages, layers of this one) that a file imports, also inside of functions."""
    others, own = set(), set()
    package = ["WordMaskLib", *file.split(".")[:-1]]
    for node in ast.walk(ast.parse(FILES[file].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            modules = (
                [f"{module}.{alias.name}" for alias in node.names] if module == "WordMaskLib" else [module]
            )
        else:
            continue
        for module in modules:
            top, _, rest = module.partition(".")
            if top == "WordMaskLib":
                own.add(_layer(rest))
            else:
                others.add(top)
    return others, own & set(ALLOWED)


def test_the_list_of_scripts_is_the_files_on_disk() -> None:
    on_disk = {str(path.relative_to(MODULE)) for path in MODULE.rglob("*.py") if "Testing" not in path.parts}
    assert sorted(_set("MODULE_PYTHON_SCRIPTS")) == sorted(on_disk)


def test_the_list_of_resources_is_the_files_on_disk() -> None:
    on_disk = {str(path.relative_to(MODULE)) for path in (MODULE / "Resources").rglob("*") if path.is_file()}
    assert sorted(_set("MODULE_PYTHON_RESOURCES")) == sorted(on_disk)


def test_the_extension_file_has_what_slicers_build_reads() -> None:
    text = (EXTENSION.parent / "CMakeLists.txt").read_text()
    assert re.search(r"project\(WordMask\)", text)
    for name in (
        "HOMEPAGE",
        "CATEGORY",
        "CONTRIBUTORS",
        "DESCRIPTION",
        "ICONURL",
        "SCREENSHOTURLS",
        "DEPENDS",
    ):
        assert re.search(rf'set\(EXTENSION_{name} "[^"]+"\)', text), name
    order = (
        "find_package(Slicer",
        "Slicer_USE_FILE",
        "add_subdirectory(slicer_module/WordMask)",
        "## NEXT_MODULE",
        "CPACK",
    )
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
    command = [
        sys.executable,
        "-c",
        "import vermin; vermin.main()",
        "--target=3.9-",
        "--violations",
        "--no-tips",
        str(MODULE),
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert found.returncode == 0, found.stdout + found.stderr


def test_annotations_are_not_evaluated() -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in MODULE.rglob("*.py")}
    postponed = re.compile(r"^from __future__ import annotations$", re.MULTILINE)
    assert [name for name, source in sources.items() if source.strip() and not postponed.search(source)] == []


def test_every_file_lies_in_a_layer() -> None:
    assert {_layer(file) for file in FILES} == {"__init__", *ALLOWED}


def test_every_layer_imports_only_layers_that_it_may_know() -> None:
    for file in FILES:
        layer = _layer(file)
        assert _imports(file)[1] <= {layer, *ALLOWED.get(layer, set())}, file


def test_every_layer_imports_only_packages_that_it_may_know() -> None:
    for file in FILES:
        assert _imports(file)[0] <= OUTSIDE.get(file, OUTSIDE.get(_layer(file), STANDARD)), file


def test_nothing_of_the_folder_is_left_of_a_developers_machine() -> None:
    for path in EXTENSION.rglob("*"):
        if path.is_file() and path.suffix in (".py", ".txt", ".json", ".ui"):
            assert not re.search(r"(?<![\w.])/(home|work|tmp|Users)/", path.read_text(encoding="utf-8")), path
