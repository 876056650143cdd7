"""Slicer without the application: what an unmodified scripted module needs beyond slicer-core, for tests.

`start` gives `slicer.mrmlScene`, `slicer.app` and `slicer.modules`; `install` also the base classes of
scripted modules. Both may be called any number of times. Real: every vtkMRML class and logic, `slicer.util`.
Stand-ins: the four base classes of `slicer.ScriptedLoadableModule`, `slicer.parameterNodeWrapper`,
`slicer.i18n`, `slicer.app` and, in `qt_harness`, the ctk and qMRML widgets.

Slicer's own PNG, JPEG and TIFF readers are not in slicer-core: tests make picture nodes from arrays.
"""

from __future__ import annotations

import importlib
import logging
import sys
import tempfile
import types
import unittest
from pathlib import Path
from typing import Any

import slicer
import slicer.util
import vtk

MODULE_FOLDER = Path(__file__).parents[2] / "slicer_module" / "WordMask"

_module_files: dict[str, Path] = {}


def start() -> Any:
    """The scene, with colours, module logics and slice orientations as in Slicer; the same at every call."""
    if getattr(slicer, "mrmlScene", None) is not None:
        return slicer.mrmlScene
    vtk.vtkObject.GlobalWarningDisplayOff()  # VTK logs in colour on stderr, also for what a test provokes
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    colors = application.GetColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    application.SetModuleLogic("Colors", colors)  # volumes cannot be loaded without it
    application.SetSliceLogics(vtk.vtkCollection())
    application.SetViewLogics(vtk.vtkCollection())
    for factory in (
        slicer.vtkMRMLThreeDViewDisplayableManagerFactory,
        slicer.vtkMRMLSliceViewDisplayableManagerFactory,
    ):
        factory.GetInstance().SetMRMLApplicationLogic(application)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)  # patient right is screen left
    slicer.modules = types.SimpleNamespace(colors=_module(colors))
    for name, logic in (
        ("Volumes", slicer.vtkSlicerVolumesLogic()),
        ("Terminologies", slicer.vtkSlicerTerminologiesModuleLogic()),
        ("Segmentations", slicer.vtkSlicerSegmentationsModuleLogic()),
        ("SubjectHierarchy", slicer.vtkSlicerSubjectHierarchyModuleLogic()),
        ("Markups", slicer.vtkSlicerMarkupsLogic()),
        ("Sequences", slicer.vtkSlicerSequencesLogic()),
    ):
        logic.SetMRMLScene(scene)
        logic.SetMRMLApplicationLogic(application)
        application.SetModuleLogic(name, logic)
        setattr(slicer.modules, name.lower(), _module(logic))
    slicer.app = _Application(application)
    slicer.mrmlScene = scene
    return scene


def install() -> None:
    """`start`, and the modules that a scripted module imports; `WordMaskLib` and `WordMask` can be imported
    after it.
    """
    start()
    if str(MODULE_FOLDER) not in sys.path:
        sys.path.insert(0, str(MODULE_FOLDER))
    base = types.ModuleType("slicer.ScriptedLoadableModule")
    for standin in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleTest,
    ):
        setattr(base, standin.__name__, standin)
    base.__all__ = [name for name in vars(base) if name.startswith("Scripted")]  # type: ignore[attr-defined]
    translation = types.ModuleType("slicer.i18n")
    translation.tr = lambda text: text  # type: ignore[attr-defined]
    translation.translate = lambda context, text: text  # type: ignore[attr-defined]
    from tests.slicer import parameter_nodes

    parameters = types.ModuleType("slicer.parameterNodeWrapper")
    parameters.parameterNodeWrapper = parameter_nodes.parameterNodeWrapper  # type: ignore[attr-defined]
    for name, module in (
        ("ScriptedLoadableModule", base),
        ("i18n", translation),
        ("parameterNodeWrapper", parameters),
    ):
        sys.modules.setdefault(f"slicer.{name}", module)
        setattr(slicer, name, sys.modules[f"slicer.{name}"])
    slicer.util.modulePath = lambda name: str(_module_files[name])


def load_module(path: str | Path) -> Any:
    """Import a scripted module by its file, as Slicer does with *Additional module paths*."""
    install()
    path = Path(path).resolve()
    _module_files[path.stem] = path
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    return importlib.import_module(path.stem)


def clear_scene() -> None:
    """An empty scene, as after File > Close scene; the singletons and default colours stay."""
    start().Clear(0)


class ScriptedLoadableModule:
    """Stand-in: keeps what the module says of itself."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__


class ScriptedLoadableModuleLogic:
    """Stand-in: the singleton parameter node is real."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetAttribute("ModuleName", self.moduleName)
            node.SetName(self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleWidget:
    """Stand-in: needs `qt_harness.install_qt` before the first one is made."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        if parent is None:
            parent = slicer.qMRMLWidget()
            sys.modules["qt"].QVBoxLayout(parent)
            parent.setMRMLScene(slicer.mrmlScene)
        self.parent = parent
        self.layout = parent.layout()

    def resourcePath(self, name: str) -> str:
        return str(_module_files[self.moduleName].parent / "Resources" / name)

    def setup(self) -> None:
        """As in Slicer: for the module to extend."""

    def enter(self) -> None:
        """As in Slicer: the person chose the module."""

    def exit(self) -> None:
        """As in Slicer: the person chose another one."""

    def cleanup(self) -> None:
        """As in Slicer: the application closes."""


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Stand-in: messages go to the log."""

    def runTest(self) -> None:
        """As in Slicer: for the module to extend."""

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        logging.getLogger(__name__).info(message)


class _Application:
    """What modules ask of `slicer.app`; processEvents does nothing until `qt_harness` replaces it by Qt's."""

    def __init__(self, application_logic: Any) -> None:
        self._logic = application_logic
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.processEvents: Any = lambda *_: None
        self.setOverrideCursor: Any = lambda *_: None
        self.restoreOverrideCursor: Any = lambda *_: None
        self.connections: list[tuple[str, Any]] = []

    def connect(self, signal: str, slot: Any) -> None:
        self.connections.append((signal, slot))

    def applicationLogic(self) -> Any:
        return self._logic

    def testingEnabled(self) -> bool:
        return True

    @property
    def temporaryPath(self) -> str:
        self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="wordmask-")
        return self._temporary.name


def _module(logic: Any) -> Any:
    return types.SimpleNamespace(logic=lambda: logic)
