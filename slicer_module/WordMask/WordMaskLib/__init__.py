"""What the WordMask module is made of, in five layers; each knows those above it in this list, and `server`
only the client.

    client  requests to a server, its answers, and the words that are typed; needs only the standard library
    scene   volumes, segments, overlays and files in Slicer's scene: MRML, without Qt
    flows   work that takes time, as generators that drive client and scene; without Qt
    server  a server on this computer: where it is installed, how it starts and stops, why it stopped
    panel   the window: Qt widgets, settings, and requests in Qt's event loop

Everything runs on Python 3.9 to 3.12. Import from the file that has the name: `from
WordMaskLib.scene.segments import Word`."""  # noqa: N999 - Slicer's names

from __future__ import annotations

__version__ = "0.1.0"
