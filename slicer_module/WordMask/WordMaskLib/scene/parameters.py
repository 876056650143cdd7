"""What a saved scene remembers of the panel.

Names and types as Slicer's parameter nodes keep them; changing one loses it in scenes that were saved before.
Knows no widget.
"""

from __future__ import annotations

from slicer import vtkMRMLMarkupsNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import parameterNodeWrapper


@parameterNodeWrapper
class WordMaskParameterNode:
    """What was chosen and typed.

    Neither the address nor the token: who opens somebody else's scene shall not send images to somebody
    else's server.

    Attributes:
        hint: points or a box
        model: its name on the server
    """

    inputVolume: vtkMRMLScalarVolumeNode  # noqa: N815 - Slicer's way
    segmentation: vtkMRMLSegmentationNode
    hint: vtkMRMLMarkupsNode
    words: str
    model: str
