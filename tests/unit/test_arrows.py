"""Every import between our packages points one way: down the table of tests/arrows.py."""

from __future__ import annotations

from tests.arrows import MAY_IMPORT, arrows_of, package_of, read_arrows


def test_every_import_is_in_the_table():
    wrong = [arrow for arrow in read_arrows() if not arrow.is_allowed]
    assert not wrong, "\n".join(
        f"{arrow}, which the table in tests/arrows.py does not allow" for arrow in wrong
    )


def test_the_table_has_no_circle():
    above: list[str] = []
    for package, lower in MAY_IMPORT.items():
        assert set(lower) <= set(above), (
            f"{package} may import {sorted(set(lower) - set(above))}, which stand below it in the table"
        )
        above.append(package)


def test_the_table_names_the_packages_that_there_are():
    sources = {arrow.source for arrow in read_arrows()} | {arrow.target for arrow in read_arrows()}
    assert sources == set(MAY_IMPORT)


def test_imports_count_wherever_they_stand():
    text = """
from typing import TYPE_CHECKING
from wordmask import __version__
import wordmask.learning.cases as cases
if TYPE_CHECKING:
    from wordmask_app.http import routes
def late():
    from wordmask.cli import main
"""
    arrows = arrows_of(text, "data", "a.py")
    assert [(arrow.line, arrow.target, arrow.is_allowed) for arrow in arrows] == [
        (3, "wordmask", False),
        (4, "learning", False),
        (6, "app.http", False),
        (8, "cli", False),
    ]
    assert str(arrows[1]) == "a.py:4: data imports learning"


def test_a_module_belongs_to_its_folder_or_is_a_package_by_itself():
    modules = (
        "wordmask.data.volumes",
        "wordmask.errors.VolumeError",
        "wordmask.__version__",
        "wordmask_app.app",
    )
    assert [package_of(module) for module in modules] == ["data", "errors", "wordmask", "app.app"]
