"""Work that takes time, as generators that drive the client and the scene; without Qt."""  # noqa: N999 - Slicer's names

from __future__ import annotations
