"""What a saved scene remembers of the panel.

Names and types are those of Slicer's parameter nodes; a changed one is lost in scenes that were saved before.
Knows no widget.
"""

from __future__ import annotations

from slicer import vtkMRMLMarkupsNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import parameterNodeWrapper


@parameterNodeWrapper
class WordMaskParameterNode:
    """What was chosen and typed, except the address and the token: another person's scene must not send
    images to their server.

    Attributes:
        hint: points or a box
        model: its name on the server
    """

    inputVolume: vtkMRMLScalarVolumeNode  # noqa: N815 - Slicer's way
    segmentation: vtkMRMLSegmentationNode
    hint: vtkMRMLMarkupsNode
    words: str
    model: str
