"""A flat `qt` module on PySide6 and stand-ins for the ctk and qMRML widgets of our `.ui`, for tests of the
Widget.

`install_qt` makes `import qt`, `import ctk` and `slicer.util.loadUI` work, off-screen. The stand-ins have the
methods, properties and signals that a module uses, not the looks. What PythonQt converts and how ctk behaves
cannot be seen here.

Widgets are written in the dialect that PythonQt and PySide6 share: set with methods, read with
`property("text")` or `isEnabled()`, connect with `widget.clicked.connect(slot)` and slots that take `*args`.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any

import slicer
from tests.slicer import harness, libraries

_application: list[Any] = []
_keep: list[Any] = []  # Python owns what QUiLoader made: without this it would be deleted while it is shown


def install_qt() -> Any:
    """The flat `qt` module; the same one at every call. Also starts the scene and installs the base classes.

    ImportError: libraries of the system are missing; the message says which, and how to install them.
    """
    harness.install()
    if "qt" in sys.modules:
        return sys.modules["qt"]
    if problem := libraries.say_missing("qt"):
        raise ImportError(problem)
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    qt = sys.modules["qt"] = _flat_qt()
    _application.append(qt.QApplication.instance() or qt.QApplication(["Slicer"]))
    standins = _standins(qt)
    ctk = sys.modules["ctk"] = types.ModuleType("ctk")
    for name, standin in standins.items():
        setattr(ctk if name.startswith("ctk") else slicer, name, standin)
    qt.QUiLoader = _loader(qt, standins)
    slicer.app.processEvents = lambda *_: qt.QApplication.processEvents()
    slicer.app.setOverrideCursor = lambda cursor: qt.QApplication.setOverrideCursor(cursor)
    slicer.app.restoreOverrideCursor = lambda: qt.QApplication.restoreOverrideCursor()
    return qt


def close_widgets() -> None:
    """Delete all widgets, as at the end of the application: one that lives on follows the scene of every
    later test.
    """
    if "qt" not in sys.modules:
        return
    qt = sys.modules["qt"]
    for widget in _keep:
        if hasattr(widget, "setMRMLScene"):
            widget.setMRMLScene(None)
    _keep.clear()
    for window in qt.QApplication.topLevelWidgets():
        window.close()
        window.deleteLater()
    qt.QApplication.sendPostedEvents(None, qt.QEvent.Type.DeferredDelete.value)
    qt.QApplication.processEvents()


def _flat_qt() -> types.ModuleType:
    import PySide6.QtCore
    import PySide6.QtGui
    import PySide6.QtNetwork
    import PySide6.QtUiTools
    import PySide6.QtWidgets

    parts = (PySide6.QtCore, PySide6.QtGui, PySide6.QtWidgets, PySide6.QtUiTools, PySide6.QtNetwork)
    qt = types.ModuleType("qt")

    def find(name: str) -> Any:
        """PySide6 makes its classes when they are asked for, so they cannot be copied beforehand."""
        for part in parts:
            if hasattr(part, name):
                setattr(qt, name, getattr(part, name))
                return getattr(part, name)
        raise AttributeError(name)

    qt.__getattr__ = find  # type: ignore[method-assign]
    return qt


def _loader(qt: Any, standins: dict[str, Any]) -> Any:
    class QUiLoader(qt.QUiLoader):  # type: ignore[misc]
        def createWidget(self, className: str, parent: Any = None, name: str = "") -> Any:
            widget = (
                standins[className](parent)
                if className in standins
                else super().createWidget(className, parent, name)
            )
            if widget is not None:
                widget.setObjectName(name)
                widget.name = (
                    name  # PythonQt's name for objectName, which slicer.util.childWidgetVariables reads
                )
                _keep.append(widget)
            return widget

    return QUiLoader


def _standins(qt: Any) -> dict[str, Any]:
    made = (_qmrml_widget(qt), _collapsible_button(qt), _slider(qt), _node_combo_box(qt))
    return {standin.__name__: standin for standin in made}


def _qmrml_widget(qt: Any) -> Any:
    class qMRMLWidget(qt.QWidget):  # type: ignore[misc]  # noqa: N801  Slicer's name
        """Hands its scene to its children, as the connections in a `.ui` do in Slicer."""

        mrmlSceneChanged = qt.Signal(object)

        def setMRMLScene(self, scene: Any) -> None:
            self._scene = scene
            for child in self.findChildren(qt.QWidget):
                if hasattr(child, "setMRMLScene"):
                    child.setMRMLScene(scene)
            self.mrmlSceneChanged.emit(scene)

        def mrmlScene(self) -> Any:
            return getattr(self, "_scene", None)

    return qMRMLWidget


def _collapsible_button(qt: Any) -> Any:
    class ctkCollapsibleButton(qt.QGroupBox):  # type: ignore[misc]  # noqa: N801
        """A titled box; collapsed hides its content, and what was hidden before stays so when it opens."""

        contentsCollapsed = qt.Signal(bool)
        _collapsed = False
        _hidden: tuple[Any, ...] = ()

        def event(self, event: Any) -> bool:
            # Uic knows no `text` or `collapsed` of a QGroupBox.
            if event.type() == qt.QEvent.Type.DynamicPropertyChange:
                name = bytes(event.propertyName()).decode()
                if name == "text":
                    self.setTitle(self.property("text"))
                elif name == "collapsed" and bool(self.property("collapsed")) != self._collapsed:
                    self._collapsed = not self._collapsed
                    self._show_contents()
            return bool(super().event(event))

        def setText(self, text: str) -> None:
            self.setProperty("text", text)

        def setCollapsed(self, collapsed: bool) -> None:
            self.setProperty("collapsed", collapsed)

        def _show_contents(self) -> None:
            children = self.findChildren(qt.QWidget, options=qt.Qt.FindChildOption.FindDirectChildrenOnly)
            if self._collapsed:
                self._hidden = tuple(child for child in children if child.isHidden())
            for child in children:
                # What is shown meanwhile is no longer hidden.
                if self._collapsed or child not in self._hidden:
                    child.setVisible(not self._collapsed)
            self.setFlat(self._collapsed)
            # QWIDGETSIZE_MAX.
            self.setMaximumHeight(self.fontMetrics().height() + 4 if self._collapsed else 16777215)
            self.contentsCollapsed.emit(self._collapsed)

        def childEvent(self, event: Any) -> None:
            super().childEvent(event)
            if event.added() and event.child().isWidgetType() and self._collapsed:
                event.child().setVisible(False)

    return ctkCollapsibleButton


def _slider(qt: Any) -> Any:
    class ctkSliderWidget(qt.QWidget):  # type: ignore[misc]  # noqa: N801
        """A slider and a spin box with one value; the spin box keeps it."""

        valueChanged = qt.Signal(float)
        _NUMBERS = ("minimum", "maximum", "singleStep", "decimals", "value")
        _STEPS = 1000

        def __init__(self, parent: Any = None) -> None:
            super().__init__(parent)
            layout = qt.QHBoxLayout(self)
            layout.setContentsMargins(0, 0, 0, 0)
            self._slider, self._box = qt.QSlider(qt.Qt.Orientation.Horizontal), qt.QDoubleSpinBox()
            self._slider.setRange(0, self._STEPS)
            layout.addWidget(self._slider)
            layout.addWidget(self._box)
            self._box.valueChanged.connect(self._follow)
            self._slider.valueChanged.connect(
                lambda step: self._box.setValue(self._low() + step * self._range() / self._STEPS)
            )

        def event(self, event: Any) -> bool:
            if event.type() == qt.QEvent.Type.DynamicPropertyChange:
                name = bytes(event.propertyName()).decode()
                if name in self._NUMBERS:
                    self._box.setProperty(name, self.property(name))
            return bool(super().event(event))

        def setValue(self, value: float) -> None:
            self._box.setValue(value)

        def _low(self) -> float:
            return float(self._box.minimum())

        def _range(self) -> float:
            return float(self._box.maximum()) - self._low()

        def _follow(self, value: float) -> None:
            self._slider.blockSignals(True)
            self._slider.setValue(round((value - self._low()) / (self._range() or 1) * self._STEPS))
            self._slider.blockSignals(False)
            if self.property("value") != value:
                self.setProperty("value", value)
            self.valueChanged.emit(value)

    return ctkSliderWidget


def _node_combo_box(qt: Any) -> Any:
    class qMRMLNodeComboBox(qt.QComboBox):  # type: ignore[misc]  # noqa: N801
        """The nodes of the scene whose class is among `nodeTypes`, as long as they are in it, with "None"
        where `noneEnabled`.
        """

        currentNodeChanged = qt.Signal(object)

        def __init__(self, parent: Any = None) -> None:
            super().__init__(parent)
            self._scene: Any = None
            self._nodes: list[Any] = []
            self._observed: list[int] = []
            self._told: Any = None
            self.currentIndexChanged.connect(lambda *_: self._tell())

        def setMRMLScene(self, scene: Any) -> None:
            for observation in self._observed:
                self._scene.RemoveObserver(observation)
            self._scene, self._observed = scene, []
            if scene is not None:
                events = (
                    scene.NodeAddedEvent,
                    scene.NodeRemovedEvent,
                    scene.EndCloseEvent,
                    scene.EndImportEvent,
                )
                self._observed = [scene.AddObserver(event, lambda *_: self._refill()) for event in events]
            self._refill()

        def mrmlScene(self) -> Any:
            return self._scene

        def currentNode(self) -> Any:
            index = self.currentIndex()
            return self._nodes[index] if 0 <= index < len(self._nodes) else None

        def currentNodeID(self) -> str:
            node = self.currentNode()
            return str(node.GetID()) if node is not None else ""

        def setCurrentNode(self, node: Any) -> None:
            if node is not None and node not in self._nodes:
                self._refill()
            self.setCurrentIndex(self._nodes.index(node) if node in self._nodes else -1)

        def setCurrentNodeID(self, node_id: str | None) -> None:
            self.setCurrentNode(
                self._scene.GetNodeByID(node_id) if self._scene is not None and node_id else None
            )

        def _refill(self) -> None:
            current = self.currentNode()
            nodes = [None] if self.property("noneEnabled") else []
            if self._scene is not None and not self._scene.IsClosing():
                found = (self._scene.GetNthNode(number) for number in range(self._scene.GetNumberOfNodes()))
                nodes += [node for node in found if self._wanted(node)]
            self.blockSignals(True)
            self.clear()
            self._nodes = nodes
            for node in nodes:
                self.addItem((self.property("noneDisplay") or "None") if node is None else node.GetName())
            self.setCurrentIndex(nodes.index(current) if current in nodes else (0 if nodes else -1))
            self.blockSignals(False)
            self._tell()

        def _wanted(self, node: Any) -> bool:
            types_ = self.property("nodeTypes") or []
            if node.GetHideFromEditors():
                return False
            if self.property("showChildNodeTypes") is False:
                return node.GetClassName() in types_
            return any(node.IsA(name) for name in types_)

        def _tell(self) -> None:
            if self.currentNode() is not self._told:
                self._told = self.currentNode()
                self.currentNodeChanged.emit(self._told)

    return qMRMLNodeComboBox
