"""The tutorial's images in Slicer's *Sample Data*: registered at start-up, with what Slicer needs to fetch,
check and load each.
"""

from __future__ import annotations

import hashlib
import sys
import types
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import slicer
from PIL import Image
from tests.slicer import harness
from WordMaskLib.scene import sample_data


class SampleDataLogic:
    """Stand-in with the keywords that Slicer has from 5.6 on; `loadFileType` became `loadFileTypes`
    meanwhile, so neither is here.
    """

    sources: list[dict[str, Any]]

    @staticmethod
    def registerCustomSampleDataSource(  # noqa: N802
        category: str = "Custom", sampleName: str | None = None, uris: Any = None, fileNames: Any = None,
        nodeNames: Any = None, customDownloader: Any = None, thumbnailFileName: str | None = None,
        loadFiles: Any = None, loadFileProperties: Any = None, checksums: Any = None,
    ) -> None:  # fmt: skip
        assert customDownloader is None
        assert loadFiles is None, "Slicer decides"
        SampleDataLogic.sources.append({
            "category": category, "name": sampleName, "address": uris, "file": fileNames, "node": nodeNames,
            "thumbnail": thumbnailFileName, "properties": loadFileProperties, "checksum": checksums,
        })  # fmt: skip


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the module registers when Slicer has started."""
    module = types.ModuleType("SampleData")
    module.SampleDataLogic = SampleDataLogic  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "SampleData", module)
    monkeypatch.setattr(slicer.app, "connections", [])
    SampleDataLogic.sources = []
    harness.load_module(harness.MODULE_FOLDER / "WordMask.py").WordMask(types.SimpleNamespace())
    assert SampleDataLogic.sources == [], "SampleData may not be there before Slicer has started"
    for signal, slot in slicer.app.connections:
        if signal == "startupCompleted()":
            slot()
    return SampleDataLogic.sources


def test_a_ct_and_a_picture_are_offered(registered: list[dict[str, Any]]) -> None:
    assert [source["file"] for source in registered] == ["ct_chest_abdomen.nii.gz", "endoscopy_1.png"]
    assert {source["category"] for source in registered} == {"WordMask"}
    assert len({source["name"] for source in registered}) == len(registered)
    assert all(source["properties"] == {"singleFile": True} for source in registered)


def test_what_is_offered_can_be_fetched_checked_and_loaded(
    registered: list[dict[str, Any]], tmp_path: Path
) -> None:
    """As Slicer does: by `urlretrieve`, then the checksum, then the reader for the file's ending."""
    for source in registered:
        path, _ = urllib.request.urlretrieve(source["address"], tmp_path / source["file"])
        kind, digest = source["checksum"].split(":")
        assert kind == "SHA256"
        assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest, source["file"]
        if path.suffix != ".png":  # Slicer's own readers of pictures are not in slicer-core
            node = slicer.modules.volumes.logic().AddArchetypeVolume(str(path), source["node"])
            assert node.GetName() == "ct_chest_abdomen"
            assert node.GetImageData().GetNumberOfPoints() > 0


def test_every_button_has_a_picture(registered: list[dict[str, Any]]) -> None:
    for source in registered:
        with Image.open(source["thumbnail"]) as picture:
            assert 200 <= min(picture.size) <= max(picture.size) <= 300


def test_an_installed_extension_asks_the_public_address(tmp_path: Path) -> None:
    for sample in sample_data.SAMPLES:
        assert sample.address().startswith("file:///")
        public = sample.address(tmp_path)
        assert public == f"{sample_data.ADDRESS}/raw/main/sample_data/studies/{sample.file}"
        assert (sample_data.REPOSITORY / public.partition("/raw/main/")[2]).is_file()
