"""What Slicer's Extensions Index asks of the repository: the entry by its schema, the root's project file,
pages, pictures, addresses.

The rules are those of slicer-extension-catalog-entry-schema-v1.0.1 and of the index's own check of new
entries, in our words.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from PIL import Image
from WordMaskLib.scene import sample_data

REPOSITORY = Path(__file__).resolve().parents[2]
ENTRY = REPOSITORY / "slicer_module" / "WordMask.json"
ADDRESS = "https://example.org/SlicerWordMask"
TEXT = {"type": "string", "minLength": 1}
RULES: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "required": ["$schema", "category", "scm_url"],
    "additionalProperties": False,
    "properties": {
        "$schema": {
            "const": "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.1.json#"
        },
        "category": {"enum": ["Segmentation", "Active Learning"]},  # of the index's list, the two that fit
        "scm_url": {
            "type": "string",
            "pattern": r"^https://\S+/[^/]*[Ss]licer[^/]*\.git$",
        },  # the check asks for Slicer in the name
        "scm_revision": TEXT,
        "scm_type": {"enum": ["git", "local"]},
        "build_dependencies": {"type": "array", "items": TEXT},
        "build_subdirectory": TEXT,
        "enabled": {"type": "boolean"},
        "tier": {"enum": [1, 3, 5]},
    },
}


def entry(**changed: Any) -> dict[str, Any]:
    return {**json.loads(ENTRY.read_text(encoding="utf-8")), **changed}


def project_file() -> str:
    return (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")


def told(name: str) -> str:
    """A text of the project file, found as the index's check finds it: on one line, between quotes."""
    (text,) = re.findall(rf'set\s*\({name}\s+"([^"]+)"\)', project_file())
    return str(text)


def test_the_entry_is_valid() -> None:
    jsonschema.Draft7Validator.check_schema(RULES)
    jsonschema.validate(entry(), RULES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tier": 2}, {"tier": "1"}, {"scm_url": "git@example.org:SlicerWordMask.git"},
        {"scm_url": "https://example.org/wordmask.git"}, {"category": "Segmentations"}, {"homepage": ADDRESS},
        {"enabled": "true"}, {"build_dependencies": "NA"}, {"scm_type": "svn"},
    ],
)  # fmt: skip
def test_a_wrong_entry_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(entry(**wrong), RULES)


def test_the_entry_agrees_with_the_project_file() -> None:
    assert re.findall(r"^project\((\w+)\)", project_file(), re.MULTILINE) == [ENTRY.stem]
    assert told("EXTENSION_CATEGORY") == entry()["category"]
    assert (told("EXTENSION_DEPENDS"), entry()["build_dependencies"]) == ("NA", [])
    assert (entry()["build_subdirectory"], entry()["scm_url"]) == (".", f"{ADDRESS}.git")
    assert (REPOSITORY / "LICENSE").is_file()
    (added,) = re.findall(r"add_subdirectory\((.+)\)", project_file())
    assert (REPOSITORY / added / "CMakeLists.txt").is_file()
    assert not (REPOSITORY / "slicer_module" / "CMakeLists.txt").exists(), "there is one project file"


def test_icon_and_screenshots_are_pictures_of_the_repository() -> None:
    addresses = [told("EXTENSION_ICONURL"), *told("EXTENSION_SCREENSHOTURLS").split()]
    assert len(addresses) >= 2
    for address in addresses:
        assert address.startswith(f"{ADDRESS}/raw/main/")
        with Image.open(REPOSITORY / address.removeprefix(f"{ADDRESS}/raw/main/")) as picture:
            assert picture.format == "PNG"


def test_the_page_has_what_reviewers_look_for() -> None:
    """Name, what it is for, a picture near the top, its module, licence, tutorial with sample data, citation,
    what is sent where.
    """
    page = (REPOSITORY / "docs" / "slicer.md").read_text(encoding="utf-8")
    head = page.partition("\n## ")[0]
    for wanted in (
        "extension WordMask",
        "one module, **WordMask**",
        "Apache-2.0",
        "(images/several_words.png)",
        "tutorial.md",
    ):
        assert wanted in head, wanted
    for title in ("Install", "What is sent where", "How to cite", "What only a public address can complete"):
        assert f"\n## {title}\n" in page, title
    for link in re.findall(r"\]\(([^)#]+)", page):
        assert link.startswith("https://") or (REPOSITORY / "docs" / link).exists(), link
    assert "Sample Data" in (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_the_public_address_stands_where_the_list_says_and_nowhere_else() -> None:
    page = (REPOSITORY / "docs" / "slicer.md").read_text(encoding="utf-8")
    steps = page.partition("## What only a public address can complete")[2]
    listed = set(re.findall(r"^- `([^`]+)`:", steps, re.MULTILINE))
    folders = [
        REPOSITORY / name for name in ("docs", "lib", "monailabel_app", "sample_data", "slicer_module")
    ]
    files = [*REPOSITORY.glob("*"), *(path for folder in folders for path in folder.rglob("*"))]
    texts = [
        path
        for path in files
        if path.suffix in (".cff", ".json", ".md", ".py", ".toml", ".txt", ".ui") and path.is_file()
    ]
    found = {
        str(path.relative_to(REPOSITORY)) for path in texts if ADDRESS in path.read_text(encoding="utf-8")
    }
    assert found == listed
    assert sample_data.ADDRESS == ADDRESS
