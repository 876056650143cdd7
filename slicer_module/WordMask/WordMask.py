"""WordMask in 3D Slicer: type words, get named segments, correct them, teach the model.

This file wires: the panel is made of `WordMaskLib/panel_*.py`, what happens on a click of the flows in
`WordMaskLib`.
"""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin
from WordMaskLib.client.addresses import ServerAddress, repair_address
from WordMaskLib.client.client import WordMaskClient
from WordMaskLib.client.errors import ClientError
from WordMaskLib.flows.flows import Flow, run_waiting
from WordMaskLib.flows.segmenting import Segmented, connect, segment, shake_hands
from WordMaskLib.flows.session import ServerState, Session
from WordMaskLib.scene import sample_data
from WordMaskLib.scene.parameters import WordMaskParameterNode


class WordMask(ScriptedLoadableModule):  # type: ignore[misc]
    """What Slicer shows of the module."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("WordMask")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["The WordMask authors"]
        self.parent.helpText = _(
            "Type words and get them as segments, from a MONAI Label server with the WordMask app."
        )
        self.parent.acknowledgementText = _(
            "Models and datasets are named in the documentation of the server."
        )
        slicer.app.connect("startupCompleted()", sample_data.register)  # not before: it needs another module


class WordMaskLogic(ScriptedLoadableModuleLogic):  # type: ignore[misc]
    """Requests as flows, and the same waiting; knows neither Qt nor the panel."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.session = Session()

    def getParameterNode(self) -> WordMaskParameterNode:  # noqa: N802 - Slicer's way
        """What the scene remembers of the panel."""
        return WordMaskParameterNode(super().getParameterNode())

    def connect(self, address: str | ServerAddress, model: str = "") -> Flow[ServerState]:
        """Flow: ask a server what it can do."""
        return connect(self.session, _address(address), model)

    def segment(
        self, address: str | ServerAddress, volume: Any, text: str, segmentation: Any = None, **options: Any
    ) -> Flow[Segmented]:
        """Flow: segment an open volume by words; arguments as of `WordMaskLib.flows.segmenting.segment`."""
        return segment(self.session, _address(address), volume, text, segmentation, **options)

    def segmentAndWait(  # noqa: N802 - Slicer's way
        self, client: WordMaskClient, volume: Any, text: str, segmentation: Any | None = None, **options: Any
    ) -> Segmented:
        """The same for scripts: returns when the segments are there.

        ClientError, SegmentsError: nothing was changed.
        """
        return run_waiting(self.segment(client.address, volume, text, segmentation, **options), client)

    def undo(self) -> tuple[str, ...]:
        """Take the last result back; its words."""
        return self.session.undo()


class WordMaskWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):  # type: ignore[misc]
    """The panel.

    settings, make_transport: set before `setup` to replace Slicer's settings and Qt's transport.
    """

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: WordMaskLogic | None = None
        self.panel: Any = None
        self.scene: Any = None
        self.settings: Any = None
        self.make_transport: Any = None
        self._parameterNode: WordMaskParameterNode | None = None

    def setup(self) -> None:
        """Build the panel."""
        import qt  # the only place outside of the panel's files; the Logic is used without Qt, too
        from WordMaskLib.panel.panel import Panel
        from WordMaskLib.panel.panel_cases import CasesSection
        from WordMaskLib.panel.panel_local import LocalSection
        from WordMaskLib.panel.panel_overlay import OverlaySection
        from WordMaskLib.panel.panel_results import ResultsSection
        from WordMaskLib.panel.panel_scene import SceneSection
        from WordMaskLib.panel.panel_server import ServerSection
        from WordMaskLib.panel.panel_training import TrainingSection
        from WordMaskLib.panel.panel_words import WordsSection
        from WordMaskLib.panel.qt_transport import QtTransport
        from WordMaskLib.panel.settings import Settings

        ScriptedLoadableModuleWidget.setup(self)
        loaded = slicer.util.loadUI(self.resourcePath("UI/WordMask.ui"))
        self.layout.addWidget(loaded)
        self.ui = slicer.util.childWidgetVariables(loaded)
        loaded.setMRMLScene(slicer.mrmlScene)
        self.logic = WordMaskLogic()
        settings = self.settings or Settings(qt.QSettings())
        self.panel = Panel(self.ui, self.logic.session, settings, self.make_transport or QtTransport)
        server = ServerSection(self.panel)
        others = [
            section(self.panel)
            for section in (WordsSection, ResultsSection, OverlaySection, CasesSection, TrainingSection)
        ]
        self.scene = SceneSection(self.panel, server)
        self.panel.sections += [server, LocalSection(self.panel, server), self.scene, *others]
        for event, step in (
            (slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose),
            (slicer.mrmlScene.EndCloseEvent, self.onSceneEndChange),
            (slicer.mrmlScene.StartImportEvent, self.onSceneStartImport),
            (slicer.mrmlScene.EndImportEvent, self.onSceneEndChange),
            (slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved),
        ):
            self.addObserver(slicer.mrmlScene, event, step)
        self.initializeParameterNode()
        self.panel.changed()

    def enter(self) -> None:
        """The person came back, perhaps from the Segment Editor.

        There is no `exit`: work that goes on while another module is shown, such as the next case, is
        remembered, too.
        """
        if self.panel is not None:
            self.initializeParameterNode()
            self.panel.changed()

    def cleanup(self) -> None:
        """Slicer ends, or the module is reloaded."""
        self.setParameterNode(None)
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()

    def onSceneStartClose(self, *_args: Any) -> None:  # noqa: N802 - Slicer's way
        """Nothing may come into a scene that was closed meanwhile."""
        self.panel.cancel()
        self.logic.session.forget_scene()
        self.setParameterNode(None)

    def onSceneStartImport(self, *_args: Any) -> None:  # noqa: N802
        """Selectors choose nodes as they come; that must not be put over what the file remembers."""
        self.setParameterNode(None)

    def onSceneEndChange(self, *_args: Any) -> None:  # noqa: N802
        """A scene was closed or loaded; the selectors may still have to hear of it."""
        self.panel.soon(self.initializeParameterNode)
        self.panel.changed_soon()

    def onNodeRemoved(self, *_args: Any) -> None:  # noqa: N802
        """A node is gone."""
        self.panel.changed_soon()

    def initializeParameterNode(self) -> None:  # noqa: N802
        """Show what the scene remembers, and keep there what is chosen; not before a scene that is on its way
        has come.
        """
        if not slicer.mrmlScene.IsClosing() and not slicer.mrmlScene.IsImporting():
            self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, node: WordMaskParameterNode | None) -> None:  # noqa: N802
        """Follow another parameter node; None: none."""
        modified = vtk.vtkCommand.ModifiedEvent
        if self._parameterNode is not None:
            self.removeObserver(self._parameterNode.parameterNode, modified, self.onParametersChanged)
        self._parameterNode = node
        if node is not None:
            self.addObserver(node.parameterNode, modified, self.onParametersChanged)
        if self.scene is not None:
            self.scene.follow(node)

    def onParametersChanged(self, *_args: Any) -> None:  # noqa: N802
        """A script or another module changed them, or the panel did."""
        self.scene.show()


class WordMaskTest(ScriptedLoadableModuleTest):  # type: ignore[misc]
    """Runs in Slicer's self-test; with a server only where one answers at the usual address."""

    def setUp(self) -> None:
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:  # noqa: N802
        """Run every test of this class in an empty scene."""
        self.setUp()
        self.test_without_a_server()
        self.setUp()
        self.test_with_a_server()

    def test_without_a_server(self) -> None:
        """A server that is down is one sentence, and the scene is as it was."""
        volume = _a_volume()
        before = slicer.mrmlScene.GetNumberOfNodes()
        client = WordMaskClient("http://127.0.0.1:9", timeout=2.0)
        with self.assertRaises(ClientError):
            WordMaskLogic().segmentAndWait(client, volume, "liver")
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
        self.delayDisplay(_("Without a server: passed"))

    def test_with_a_server(self) -> None:
        """A request goes through; what is found in noise does not matter."""
        client = WordMaskClient(repair_address("127.0.0.1"), timeout=60.0)
        try:
            run_waiting(shake_hands(client.address), client)
        except ClientError as error:
            self.delayDisplay(_("No server, so not tried: {reason}").format(reason=error))
            return
        done = WordMaskLogic().segmentAndWait(client, _a_volume(), "liver")
        self.assertEqual(len(done.imported.ids) + len(done.imported.not_found), 1)
        self.delayDisplay(_("With a server: passed"))


def _address(address: str | ServerAddress) -> ServerAddress:
    return repair_address(address) if isinstance(address, str) else address


def _a_volume() -> Any:
    """A small volume of numbers."""
    import numpy as np

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Test")
    slicer.util.updateVolumeFromArray(
        node, np.random.default_rng(0).integers(-1000, 1000, (8, 32, 32)).astype(np.int16)
    )
    return node
