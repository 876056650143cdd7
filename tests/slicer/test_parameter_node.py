"""A saved scene remembers what the panel showed: real MRML, written to files and read back, with the panel
open.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from slicer.parameterNodeWrapper import parameterNodeWrapper
from tests.slicer.fault_server import fault_server, says_json
from tests.slicer.person import MODEL, MemoryStore, click, open_panel, routes, until, until_done, write
from tests.slicer.person import panels_are_closed as panels_are_closed
from tests.slicer.scenes import SHAPE, add_segmentation, add_volume, affine, box

WORDS = 'liver, "Magen & Darm" <größer>; spleen'


@pytest.fixture(autouse=True)
def a_cache(tmp_path: Path) -> Any:
    """Where Slicer unpacks a .mrb; the application gives its scene one."""
    cache, manager = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    (tmp_path / "cache").mkdir()
    cache.SetRemoteCacheDirectory(str(tmp_path / "cache"))
    manager.SetCacheManager(cache)
    slicer.mrmlScene.SetCacheManager(cache)
    slicer.mrmlScene.SetDataIOManager(manager)
    yield cache
    slicer.mrmlScene.SetDataIOManager(None)
    slicer.mrmlScene.SetCacheManager(None)


def a_scene() -> dict[str, Any]:
    """Two of each kind, so that what a selector would choose by itself is never what is expected."""
    values = np.random.default_rng(1).integers(-1000, 1000, SHAPE).astype(np.int16)
    volumes = [add_volume(values, affine(), name) for name in ("First", "Second")]
    mask = box(SHAPE, (1, 3), (1, 3), (1, 3))
    segmentations = [
        add_segmentation(volume, {"liver": mask}, name=f"{volume.GetName()} segments") for volume in volumes
    ]
    points = [
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"Points {number}")
        for number in (1, 2)
    ]
    return {"volume": volumes[1], "segmentation": segmentations[0], "points": points[1], "other": volumes[0]}


def choose(widget: Any, nodes: dict[str, Any], words: str) -> None:
    widget.ui.volumeSelector.setCurrentNode(nodes["volume"])
    widget.ui.segmentationSelector.setCurrentNode(nodes["segmentation"])
    widget.ui.markupsSelector.setCurrentNode(nodes["points"])
    widget.ui.wordsLine.setText(words)


def shown(widget: Any) -> list[str]:
    """The names of what is chosen, and the words."""
    nodes = [
        getattr(widget.ui, name).currentNode()
        for name in ("volumeSelector", "segmentationSelector", "markupsSelector")
    ]
    return [*("" if node is None else node.GetName() for node in nodes), widget.ui.wordsLine.text()]


def save(path: Path) -> None:
    """As File > Save does, with all data beside a .mrml or in a .mrb."""
    scene = slicer.mrmlScene
    if path.suffix == ".mrb":
        assert scene.WriteToMRB(str(path))
        return
    for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
        if (
            node.IsA("vtkMRMLVolumeNode")
            or node.IsA("vtkMRMLSegmentationNode")
            or node.IsA("vtkMRMLMarkupsNode")
        ):
            node.AddDefaultStorageNode()
            storage = node.GetStorageNode()
            storage.SetFileName(str(path.parent / f"{node.GetID()}.{storage.GetDefaultWriteFileExtension()}"))
            assert storage.WriteData(node)
    scene.SetURL(str(path))
    assert scene.Commit()


def load(path: Path) -> None:
    """As File > Add Data does; the scene stays as it is besides."""
    scene = slicer.mrmlScene
    if path.suffix == ".mrb":
        assert scene.ReadFromMRB(str(path), False)
        return
    scene.SetURL(str(path))
    assert scene.Import()


def settle() -> None:
    """All that waits for the event loop."""
    for _ in range(3):
        slicer.app.processEvents()


def parameters(widget: Any) -> Any:
    return widget.logic.getParameterNode()


@pytest.mark.parametrize("name", ["scene.mrml", "Müllers scene.mrb"])
def test_a_saved_scene_brings_back_what_was_chosen_and_typed(tmp_path: Path, name: str) -> None:
    widget, nodes = open_panel(""), a_scene()
    choose(widget, nodes, WORDS)
    expected = ["Second", "First segments", "Points 2", WORDS]
    assert shown(widget) == expected
    save(tmp_path / name)
    slicer.mrmlScene.Clear(0)
    settle()
    assert shown(widget) == ["", "", "", WORDS], "what is typed is not lost with the scene"
    write(widget.ui.wordsLine, "polyp")
    load(tmp_path / name)
    settle()
    assert shown(widget) == expected
    widget.ui.volumeSelector.setCurrentNode(slicer.util.getNode("First"))
    assert parameters(widget).inputVolume.GetName() == "First", "what is chosen afterwards is remembered, too"


def test_a_scene_that_is_loaded_before_the_module_is_opened_is_shown(tmp_path: Path) -> None:
    first = open_panel("")
    choose(first, a_scene(), WORDS)
    save(tmp_path / "scene.mrb")
    first.cleanup()
    slicer.mrmlScene.Clear(0)
    load(tmp_path / "scene.mrb")
    assert shown(open_panel("")) == ["Second", "First segments", "Points 2", WORDS]


def test_a_file_has_the_names_that_slicer_gives_parameters_and_no_address(tmp_path: Path) -> None:
    widget = open_panel("http://127.0.0.1:9", "secret-token")
    choose(widget, a_scene(), "liver")
    save(tmp_path / "scene.mrml")
    text = (tmp_path / "scene.mrml").read_text(encoding="utf-8")
    nodes = [part.split("</ScriptedModule>")[0] for part in text.split("<ScriptedModule")[1:]]
    (node,) = (node for node in nodes if 'singletonTag="WordMask"' in node)
    for reference in (
        "inputVolume:vtkMRMLScalarVolumeNode",
        "segmentation:vtkMRMLSegmentationNode",
        "hint:vtkMRMLMarkupsFiducialNode",
    ):
        assert reference in node
    assert '"words liver"' in node
    assert "127.0.0.1" not in text
    assert "secret-token" not in text


def test_a_scene_without_words_of_ours_leaves_those_that_are_typed(tmp_path: Path) -> None:
    a_scene()
    for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode"):
        slicer.mrmlScene.RemoveNode(node)
    save(tmp_path / "scene.mrb")
    slicer.mrmlScene.Clear(0)
    widget = open_panel("")
    write(widget.ui.wordsLine, "polyp")
    load(tmp_path / "scene.mrb")
    settle()
    assert shown(widget) == ["First", "", "", "polyp"]
    assert parameters(widget).inputVolume.GetName() == "First"


def test_events_that_are_handled_while_a_scene_comes_in_change_nothing(tmp_path: Path) -> None:
    """Slicer shows a progress bar meanwhile, which lets the window work."""
    widget = open_panel("")
    choose(widget, a_scene(), WORDS)
    save(tmp_path / "scene.mrb")
    slicer.mrmlScene.Clear(0)  # and its deferred step is due while the next scene comes
    tag = slicer.mrmlScene.AddObserver(slicer.mrmlScene.NodeAddedEvent, lambda *_: settle())
    load(tmp_path / "scene.mrb")
    slicer.mrmlScene.RemoveObserver(tag)
    settle()
    assert shown(widget) == ["Second", "First segments", "Points 2", WORDS]


def test_closing_the_scene_again_and_again_does_no_harm() -> None:
    widget = open_panel("")
    for _ in range(3):
        choose(widget, a_scene(), "liver")
        slicer.mrmlScene.Clear(0)
        slicer.mrmlScene.Clear(0)
        settle()
    assert parameters(widget).inputVolume is None
    choose(widget, a_scene(), "liver")
    assert parameters(widget).inputVolume.GetName() == "Second"
    slicer.mrmlScene.Clear(0)
    widget.cleanup()  # what was put off must not come after the end
    settle()
    a_scene()
    settle()
    assert parameters(widget).inputVolume is None


@pytest.mark.parametrize("key", ["volume", "segmentation", "points"])
def test_a_node_that_is_removed_is_forgotten(key: str) -> None:
    widget, nodes = open_panel(""), a_scene()
    choose(widget, nodes, "liver")
    removed = nodes[key].GetID()
    scene = slicer.mrmlScene  # something is kept before the selectors hear of it
    tag = scene.AddObserver(scene.NodeRemovedEvent, lambda *_: widget.ui.wordsLine.setText("spleen"), 100.0)
    scene.RemoveNode(nodes[key])
    scene.RemoveObserver(tag)
    settle()
    assert parameters(widget).words == "spleen"
    node = parameters(widget).parameterNode
    kept = [node.GetNodeReferenceID(role) for role in ("inputVolume", "segmentation", "hint")]
    assert removed not in kept
    now = (widget.panel.volume, widget.panel.segmentation, widget.ui.markupsSelector.currentNode())
    assert kept == [None if chosen is None else chosen.GetID() for chosen in now]


def test_what_a_script_sets_is_shown() -> None:
    widget, nodes = open_panel(""), a_scene()
    choose(widget, nodes, "liver")
    remembered = parameters(widget)
    remembered.words = "spleen"
    remembered.inputVolume = nodes["other"]
    remembered.segmentation = None
    assert shown(widget) == ["First", "", "Points 2", "spleen"]


def test_the_module_can_be_left_and_entered_while_something_changes() -> None:
    widget, nodes = open_panel(""), a_scene()
    choose(widget, nodes, "liver")
    widget.exit()
    widget.ui.volumeSelector.setCurrentNode(nodes["other"])  # as the next case does when it comes meanwhile
    widget.enter()
    assert shown(widget) == ["First", "First segments", "Points 2", "liver"]


def test_the_model_of_a_scene_is_asked_when_the_server_has_it(tmp_path: Path) -> None:
    models = {"models": [MODEL, {**MODEL, "name": "other", "title": "Other"}]}
    store = MemoryStore(model="other")
    with fault_server(routes(models=says_json(models))) as server:
        widget = open_panel(server.url, store=store)
        click(widget.ui.connectButton)
        until_done(widget)
        assert parameters(widget).model == "other"
        save(tmp_path / "scene.mrb")
        parameters(widget).model = "m"  # a script: the panel follows
        until(lambda: widget.panel.session.model is not None and widget.panel.session.model.name == "m")
        until_done(widget)
        slicer.mrmlScene.Clear(0)
        load(tmp_path / "scene.mrb")
        until(lambda: widget.panel.session.model is not None and widget.panel.session.model.name == "other")
        until_done(widget)
        assert widget.ui.modelBox.currentText() == "Other"
        assert parameters(widget).model == "other"
        parameters(widget).model = "m"
        until_done(widget)
        slicer.mrmlScene.Clear(0)
    load(tmp_path / "scene.mrb")
    settle()
    until_done(widget)
    assert parameters(widget).model == "other", "the server is gone, and the scene still knows"


def test_a_model_that_the_server_does_not_have_is_no_fault() -> None:
    with fault_server(routes()) as server:
        widget = open_panel(server.url, store=MemoryStore(model="gone"))
        parameters(widget).model = "gone"
        click(widget.ui.connectButton)
        until_done(widget)
        assert parameters(widget).model == "m"


# --- the stand-in for Slicer's decorator ---


@parameterNodeWrapper
class Sample:
    volume: slicer.vtkMRMLScalarVolumeNode
    text: str
    preset: str = "tiny"


def a_node() -> Any:
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")


def test_the_standin_refuses_what_slicer_refuses() -> None:
    sample, node = Sample(a_node()), a_scene()
    assert (sample.volume, sample.text, sample.preset) == (None, "", "tiny")
    sample.volume = node["volume"]
    with pytest.raises(TypeError):
        sample.volume = node["segmentation"]
    with pytest.raises(TypeError):
        sample.text = 3
    with pytest.raises(ValueError, match="None"):
        sample.text = None
    assert sample.volume is node["volume"]
    with pytest.raises(ValueError, match="reserved"):
        parameterNodeWrapper(type("Bad", (), {"__annotations__": {"getValue": str}}))
    with pytest.raises(TypeError, match="no serializer"):
        parameterNodeWrapper(type("Bad", (), {"__annotations__": {"number": int}}))


def test_two_wrappers_of_the_standin_see_what_the_other_wrote() -> None:
    node = a_node()
    first, second = Sample(node), Sample(node)
    first.text = "liver"
    assert second.text == "liver"
    node.SetParameter("text", "spleen")
    assert (first.text, second.text) == ("spleen", "spleen")
    del first
    node.SetParameter("text", "polyp")
    assert second.text == "polyp"
