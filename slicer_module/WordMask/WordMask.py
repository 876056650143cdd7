"""WordMask in 3D Slicer: type words, get named segments, correct them, teach the model.

This file connects the parts: the panel is made of the sections in `WordMaskLib/panel`, and a click starts a
flow of `WordMaskLib/flows`.
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
    """Title, category and help text of the module, as Slicer shows them."""

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
    """What scripts call: requests as flows, or waited for. Knows neither Qt nor the panel."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.session = Session()

    def getParameterNode(self) -> WordMaskParameterNode:  # noqa: N802 - Slicer's way
        """Return what the scene remembers of the panel."""
        return WordMaskParameterNode(super().getParameterNode())

    def connect(self, address: str | ServerAddress, model: str = "") -> Flow[ServerState]:
        """Return a flow that asks a server what it can do."""
        return connect(self.session, _address(address), model)

    def segment(
        self, address: str | ServerAddress, volume: Any, text: str, segmentation: Any = None, **options: Any
    ) -> Flow[Segmented]:
        """Return a flow that segments an open volume by words; arguments as of `flows.segmenting.segment`."""
        return segment(self.session, _address(address), volume, text, segmentation, **options)

    def segmentAndWait(  # noqa: N802 - Slicer's way
        self, client: WordMaskClient, volume: Any, text: str, segmentation: Any | None = None, **options: Any
    ) -> Segmented:
        """Segment an open volume by words, and return when the segments are there.

        Raises:
            ClientError: a sentence, and the scene is as it was
        """
        return run_waiting(self.segment(client.address, volume, text, segmentation, **options), client)

    def undo(self) -> tuple[str, ...]:
        """Undo the last result and return its words."""
        return self.session.undo()


class WordMaskWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):  # type: ignore[misc]
    """The panel in Slicer's window.

    Set ``settings`` and ``make_transport`` before `setup` to replace Slicer's settings and Qt's transport.
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
        """Build the panel and its sections, and follow the scene."""
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
        self.logic.session.annotator = settings.annotator
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
        """Refresh when a person returns to the module, perhaps from the Segment Editor.

        There is no `exit`: work that goes on while another module is shown, such as opening the next case, is
        remembered, too.
        """
        if self.panel is not None:
            self.initializeParameterNode()
            self.panel.changed()

    def cleanup(self) -> None:
        """Stop and disconnect everything when Slicer ends or the module is reloaded."""
        self.setParameterNode(None)
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()

    def onSceneStartClose(self, *_args: Any) -> None:  # noqa: N802 - Slicer's way
        """Stop what runs, so that nothing is added to a scene that has been closed."""
        self.panel.cancel()
        self.logic.session.forget_scene()
        self.setParameterNode(None)

    def onSceneStartImport(self, *_args: Any) -> None:  # noqa: N802
        """Stop following the node: selectors choose nodes while they load, which must not replace what the
        file remembers.
        """
        self.setParameterNode(None)

    def onSceneEndChange(self, *_args: Any) -> None:  # noqa: N802
        """Refresh after a scene was closed or loaded, once the selectors have noticed it, too."""
        self.panel.soon(self.initializeParameterNode)
        self.panel.changed_soon()

    def onNodeRemoved(self, *_args: Any) -> None:  # noqa: N802
        """Refresh after a node was removed."""
        self.panel.changed_soon()

    def initializeParameterNode(self) -> None:  # noqa: N802
        """Show what the scene remembers and keep there what is chosen, except while a scene is being closed
        or loaded.
        """
        if not slicer.mrmlScene.IsClosing() and not slicer.mrmlScene.IsImporting():
            self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, node: WordMaskParameterNode | None) -> None:  # noqa: N802
        """Follow another parameter node, or none."""
        modified = vtk.vtkCommand.ModifiedEvent
        if self._parameterNode is not None:
            self.removeObserver(self._parameterNode.parameterNode, modified, self.onParametersChanged)
        self._parameterNode = node
        if node is not None:
            self.addObserver(node.parameterNode, modified, self.onParametersChanged)
        if self.scene is not None:
            self.scene.follow(node)

    def onParametersChanged(self, *_args: Any) -> None:  # noqa: N802
        """Show the parameters after a script, another module or the panel changed them."""
        self.scene.show()


class WordMaskTest(ScriptedLoadableModuleTest):  # type: ignore[misc]
    """Slicer's self-test. It uses a server only if one answers at the usual address."""

    def setUp(self) -> None:
        """Start with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:  # noqa: N802
        """Run every test of this class in an empty scene."""
        self.setUp()
        self.test_without_a_server()
        self.setUp()
        self.test_with_a_server()

    def test_without_a_server(self) -> None:
        """Check that a missing server is answered with one sentence and an unchanged scene."""
        volume = _a_volume()
        before = slicer.mrmlScene.GetNumberOfNodes()
        client = WordMaskClient("http://127.0.0.1:9", timeout=2.0)
        with self.assertRaises(ClientError):
            WordMaskLogic().segmentAndWait(client, volume, "liver")
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
        self.delayDisplay(_("Without a server: passed"))

    def test_with_a_server(self) -> None:
        """Check that a request is answered; what is found in noise does not matter."""
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
    """Add a small volume of random numbers to the scene."""
    import numpy as np

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Test")
    slicer.util.updateVolumeFromArray(
        node, np.random.default_rng(0).integers(-1000, 1000, (8, 32, 32)).astype(np.int16)
    )
    return node
