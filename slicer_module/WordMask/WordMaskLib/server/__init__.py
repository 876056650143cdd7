"""A server on this computer: where it is installed, how it starts and stops, and why it stopped."""  # noqa: N999 - Slicer's names

from __future__ import annotations
