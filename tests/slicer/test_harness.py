"""The harness runs an unmodified scripted module: Logic on real MRML, Widget on PySide6, its Test class."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import slicer
from tests.slicer import harness
from tests.slicer.scenes import add_volume, affine, np

MODULE = """
import qt, slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin


class {name}(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)


class {name}Logic(ScriptedLoadableModuleLogic):
    pass


class {name}Widget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.seen = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        loaded = slicer.util.loadUI(self.resourcePath("UI/{name}.ui"))
        self.layout.addWidget(loaded)
        self.ui = slicer.util.childWidgetVariables(loaded)
        loaded.setMRMLScene(slicer.mrmlScene)
        self.ui.inputSelector.currentNodeChanged.connect(self.seen.append)
        self.ui.applyButton.clicked.connect(lambda *args: self.ui.label.setText(_("clicked")))


class {name}Test(ScriptedLoadableModuleTest):
    def runTest(self):
        self.delayDisplay("start")
        assert {name}Logic().getParameterNode() is {name}Logic().getParameterNode()
"""

UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>{name}</class>
<widget class="qMRMLWidget" name="{name}"><layout class="QVBoxLayout" name="l">
<item><widget class="ctkCollapsibleButton" name="box">
<property name="text"><string>Inputs</string></property>
<layout class="QVBoxLayout" name="l2">
<item><widget class="qMRMLNodeComboBox" name="inputSelector">
<property name="nodeTypes"><stringlist notr="true"><string>vtkMRMLScalarVolumeNode</string></stringlist>
</property><property name="showChildNodeTypes"><bool>false</bool></property>
<property name="noneEnabled"><bool>true</bool></property></widget></item>
<item><widget class="ctkSliderWidget" name="opacity">
<property name="maximum"><double>1.0</double></property><property name="singleStep"><double>0.01</double>
</property><property name="value"><double>0.5</double></property></widget></item></layout></widget></item>
<item><widget class="QPushButton" name="applyButton"/></item>
<item><widget class="QLabel" name="label"/></item>
</layout></widget></ui>
"""


@pytest.fixture
def a_module(qt: Any, tmp_path: Path) -> Any:
    """A small scripted module of its own name in its own folder."""
    name = f"Small{abs(hash(str(tmp_path)))}"
    (tmp_path / "Resources" / "UI").mkdir(parents=True)
    (tmp_path / f"{name}.py").write_text(MODULE.format(name=name))
    (tmp_path / "Resources" / "UI" / f"{name}.ui").write_text(UI.format(name=name))
    yield harness.load_module(tmp_path / f"{name}.py")
    sys.path.remove(str(tmp_path))
    del sys.modules[name]


@pytest.fixture
def a_widget(a_module: Any) -> Any:
    """Its Widget, set up."""
    widget = getattr(a_module, f"{a_module.__name__}Widget")()
    widget.setup()
    return widget


def test_the_scene_is_the_same_one_at_every_call_and_can_load_volumes() -> None:
    assert harness.start() is harness.start() is slicer.mrmlScene
    volume = add_volume(np.zeros((2, 2, 2), np.int16), affine())
    assert slicer.modules.volumes.logic().CompareVolumeGeometry(volume, volume) == ""
    harness.clear_scene()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


def test_a_modules_logic_has_its_singleton_parameter_node_and_its_own_test_runs(a_module: Any) -> None:
    name = a_module.__name__
    getattr(a_module, f"{name}Test")().runTest()
    node = getattr(a_module, f"{name}Logic")().getParameterNode()
    assert (node.GetClassName(), node.GetAttribute("ModuleName")) == ("vtkMRMLScriptedModuleNode", name)


def test_a_widget_is_loaded_from_its_ui_file_and_answers_clicks(a_widget: Any) -> None:
    a_widget.ui.applyButton.click()
    assert a_widget.ui.label.property("text") == "clicked"
    assert a_widget.ui.box.title() == "Inputs"


def test_the_node_selector_follows_the_scene(a_widget: Any) -> None:
    selector = a_widget.ui.inputSelector
    assert selector.currentNode() is None
    volume = add_volume(np.zeros((2, 2, 2), np.int16), affine(), "CT")
    add_volume(np.zeros((2, 2, 2), np.int16), affine(), "labels", "vtkMRMLLabelMapVolumeNode")
    assert [selector.itemText(index) for index in range(selector.count())] == ["None", "CT"]
    selector.setCurrentNode(volume)
    assert selector.currentNodeID() == volume.GetID()
    assert a_widget.seen == [volume]
    harness.clear_scene()
    assert selector.currentNode() is None
    assert a_widget.seen == [volume, None]


def test_the_slider_keeps_one_value_in_both_of_its_parts(a_widget: Any) -> None:
    slider, seen = a_widget.ui.opacity, []
    assert slider.property("value") == 0.5
    slider.valueChanged.connect(seen.append)
    slider.setValue(0.25)
    assert (slider.property("value"), seen) == (0.25, [0.25])
    slider.setProperty("value", 0.75)
    assert seen == [0.25, 0.75]


def test_a_collapsed_box_hides_what_is_in_it(a_widget: Any) -> None:
    a_widget.parent.show()
    a_widget.ui.box.setCollapsed(True)
    assert not a_widget.ui.inputSelector.isVisible()
    a_widget.ui.box.setProperty("collapsed", False)
    assert a_widget.ui.inputSelector.isVisible()


def test_the_panel_can_be_photographed(a_widget: Any, tmp_path: Path) -> None:
    a_widget.parent.resize(300, 200)
    a_widget.parent.show()
    slicer.app.processEvents()
    assert a_widget.parent.grab().save(str(tmp_path / "panel.png"))
    assert (tmp_path / "panel.png").stat().st_size > 1000
