"""Slicer's slice and 3-D views off-screen, of slicer-core classes alone: what is drawn is what Slicer draws.

The image of a slice is drawn by one plain actor, for which Slicer has a ctk widget; everything over it
(segments, markups, rulers) comes from Slicer's displayable managers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from tests.slicer import harness, libraries
from vtk.util.numpy_support import vtk_to_numpy

if sys.platform.startswith("linux"):
    # Else VTK looks for an X server first, and complains.
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

SLICE_MANAGERS = (
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
)
THREED_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLOrientationMarkerDisplayableManager",
)

Picture = np.ndarray  # [h, w, 3] uint8, row 0 at the top

_open: list[Any] = []


def close_views() -> None:
    """Close all views that are open; each test ends with it, so that none follows the scene of the next."""
    for view in list(_open):
        view.close()


class SliceView:
    """One slice view.

    name: Slicer's (Red, Yellow, Green); orientation: Axial, Sagittal, Coronal; size: (width, height) in
    pixels.

    `node` and `composite` are the real slice and slice composite nodes.
    """

    def __init__(
        self, name: str = "Red", orientation: str = "Axial", size: tuple[int, int] = (480, 480)
    ) -> None:
        scene, application = harness.start(), slicer.app.applicationLogic()
        self._size = size
        self._window, self._renderer, self._interactor = _window(size)
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._mapper, self._actor = _image_actor()
        # Before Slicer's own: what is added first is drawn first, and fills are mixed with it.
        self._renderer.AddViewProp(self._actor)
        self._managers = _managers(
            slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), self._renderer, SLICE_MANAGERS
        )
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application)
        application.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(scene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetMappedInLayout(1)
        self.node.SetOrientation(orientation)
        self._managers.SetMRMLDisplayableNode(self.node)
        self.composite = self.logic.GetSliceCompositeNode()
        _open.append(self)

    def show(self, volume: Any) -> None:
        """Put a volume in the background and fit it to the view."""
        self.composite.SetBackgroundVolumeID(volume.GetID())
        self.logic.ResizeSliceNode(*self._size)
        self.logic.RotateSliceToLowestVolumeAxes(False)
        self.logic.FitSliceToBackground()
        self.logic.SnapSliceOffsetToIJK()

    def picture(self, path: str | Path | None = None) -> Picture:
        """What the view shows now; also as PNG when a path is given."""
        connection = self.logic.GetImageDataConnection()
        self._actor.SetVisibility(connection is not None)
        if connection is not None:
            self._mapper.SetInputConnection(connection)
        return _grab(self._window, path)

    def close(self) -> None:
        """Let go of the scene and take the view's nodes out of it: as singletons they would stay when it is
        closed.
        """
        _open.remove(self)
        slicer.app.applicationLogic().GetSliceLogics().RemoveItem(self.logic)
        self._managers.SetMRMLDisplayableNode(None)
        self.logic.SetMRMLScene(None)
        _remove(self.composite, self.node)
        self._window.Finalize()


class ThreeDView:
    """One 3-D view, seen from the front; segments need surfaces to be seen (`segments.show_3d`)."""

    def __init__(self, name: str = "1", size: tuple[int, int] = (480, 480)) -> None:
        scene, application = harness.start(), slicer.app.applicationLogic()
        self._window, self._renderer, self._interactor = _window(size)
        self._managers = _managers(
            slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), self._renderer, THREED_MANAGERS
        )
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(application)
        application.GetViewLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(scene)
        self.node = self.logic.AddViewNode(name)
        self.node.SetMappedInLayout(1)
        self.node.SetBoxVisible(0)
        self.node.SetAxisLabelsVisible(0)
        self._managers.SetMRMLDisplayableNode(self.node)
        _open.append(self)

    def picture(self, path: str | Path | None = None, direction: int | None = None) -> Picture:
        """What the view shows, all of it, from a direction of `vtkMRMLCameraNode` (Anterior when none is
        given).
        """
        self._window.Render()
        self._camera().RotateTo(slicer.vtkMRMLCameraNode.Anterior if direction is None else direction)
        self._renderer.ResetCamera()
        self._renderer.ResetCameraClippingRange()
        return _grab(self._window, path)

    def close(self) -> None:
        """Let go of the scene and take the view's nodes out of it."""
        _open.remove(self)
        slicer.app.applicationLogic().GetViewLogics().RemoveItem(self.logic)
        camera = self._camera()
        self._managers.SetMRMLDisplayableNode(None)
        self.logic.SetMRMLScene(None)
        _remove(camera, self.node)
        self._window.Finalize()

    def _camera(self) -> Any:
        return self._managers.GetDisplayableManagerByClassName(
            "vtkMRMLCameraDisplayableManager"
        ).GetCameraNode()


def four_up(pictures: Sequence[Picture]) -> Picture:
    """Four pictures of one size as Slicer's four-up layout: two rows of two."""
    return np.vstack([np.hstack(pictures[:2]), np.hstack(pictures[2:4])])


def save_png(picture: Picture, path: str | Path) -> None:
    """Write a picture."""
    from PIL import Image

    Image.fromarray(picture).save(path)


def _remove(*nodes: Any) -> None:
    for node in nodes:
        if node is not None and slicer.mrmlScene.IsNodePresent(node):
            slicer.mrmlScene.RemoveNode(node)


def _window(size: tuple[int, int]) -> tuple[Any, Any, Any]:
    if problem := libraries.say_missing("rendering"):
        raise ImportError(problem)  # VTK would end the process
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.ShowWindowOff()
    window.SetMultiSamples(0)
    window.SetSize(*size)
    renderer = vtk.vtkRenderer()
    window.AddRenderer(renderer)
    interactor = vtk.vtkRenderWindowInteractor()  # managers ask for one; Initialize() would open a display
    interactor.SetRenderWindow(window)
    return window, renderer, interactor


def _image_actor() -> tuple[Any, Any]:
    """The blended image of a slice view, behind everything else; without an input it is not visible."""
    mapper = vtk.vtkImageMapper()
    mapper.SetColorWindow(255)
    mapper.SetColorLevel(127.5)
    actor = vtk.vtkActor2D()
    actor.SetMapper(mapper)
    actor.GetProperty().SetDisplayLocationToBackground()
    actor.SetVisibility(False)
    return mapper, actor


def _managers(factory: Any, renderer: Any, names: Sequence[str]) -> Any:
    for name in names:
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
    group = slicer.vtkMRMLDisplayableManagerGroup()
    group.SetRenderer(renderer)
    group.Initialize(factory, renderer)
    return group


def _grab(window: Any, path: str | Path | None) -> Picture:
    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.SetInputBufferTypeToRGB()
    grabber.ReadFrontBufferOff()
    grabber.Update()
    image = grabber.GetOutput()
    width, height, _ = image.GetDimensions()
    picture = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1].copy()
    if path is not None:
        save_png(picture, path)
    return picture
