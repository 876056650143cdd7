"""Volumes, segments and files in Slicer's scene: MRML, without Qt and without a server."""  # noqa: N999 - Slicer's names

from __future__ import annotations
