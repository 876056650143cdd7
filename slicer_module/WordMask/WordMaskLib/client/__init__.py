"""Requests to a server, its answers and the words that are typed; standard library only."""  # noqa: N999 - Slicer's names

from __future__ import annotations
