"""What the model thought: probability, uncertainty or attribution of one word as a coloured volume over the
image.

This is a flow: see `flows`. Knows MRML and requests as data; not Qt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..client.addresses import ServerAddress
from ..client.errors import BadAnswerError, SegmentsError
from ..client.job_answers import JobResult
from ..scene.overlay import SlicePosition, load_overlay, most_uncertain_slice
from .flows import Flow, temporary_folder
from .segmenting import finish_job, load_models_and_words, shake_hands, start_on
from .session import Session, present


@dataclass(frozen=True)
class OverlayResult:
    """An overlay that is shown.

    Attributes:
        node: its volume node
        plane: along which the server cut the volume
        word, kind: what it shows
    """

    node: Any
    plane: str
    word: str
    kind: str

    def place(self) -> SlicePosition:
        """Find the slice with the largest sum of values; SegmentsError if it is 0 everywhere, or gone."""
        if not present(self.node):
            raise SegmentsError("The overlay is no longer in the scene; request it again.")
        return most_uncertain_slice(self.node, self.plane)


def request_overlay(
    session: Session, address: ServerAddress, volume: Any, word: str, kind: str
) -> Flow[OverlayResult]:
    """Request "probability", "uncertainty" or "attribution" of one word, and show it."""
    handshake = yield from shake_hands(address)
    if session.server is None or session.server.handshake.address != address:
        session.server = yield from load_models_and_words(handshake, "")
    model = session.server.model
    if kind not in model.output_volumes:
        raise SegmentsError(
            f"The model {model.title} cannot show {kind}; choose another kind or another model."
        )
    options = (
        {"output_volume": kind, "plane": session.results_of(volume).plane}
        if session.results_of(volume).statistics
        else {"output_volume": kind}
    )
    with temporary_folder() as folder:
        job = yield from start_on(model.name, word, volume, folder, options)
        result: JobResult = yield from finish_job(job, folder)
        if result.path is None:
            raise BadAnswerError("The server's answer has no file, so nothing was changed; try again.")
        if not present(volume):
            raise SegmentsError("The volume was removed from the scene meanwhile, so nothing was changed.")
        node = load_overlay(result.path, volume, kind, word)
    return OverlayResult(node, result.plane or session.results_of(volume).plane, word, kind)
