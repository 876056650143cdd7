"""The window: Qt widgets, settings, and requests in Qt's event loop."""  # noqa: N999 - Slicer's names

from __future__ import annotations
