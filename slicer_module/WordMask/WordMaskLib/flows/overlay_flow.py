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
from ..scene.overlay import SlicePosition, load_overlay, most_uncertain_slice, strongest_in
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
        to_check: for uncertainty, the slices that are worth a look, the most uncertain first
        slices: number of slices of the volume along the plane, 0 if the server does not say so
    """

    node: Any
    plane: str
    word: str
    kind: str
    to_check: tuple[int, ...] = ()
    slices: int = 0

    def place(self, step: int = 0) -> SlicePosition:
        """Find the slice to go to.

        Args:
            step: how many slices to check were shown before; after the last one comes the first again. Where
                none is worth a look, it is always the slice with the largest sum of values

        Raises:
            SegmentsError: the overlay is 0 everywhere, or gone
        """
        if not present(self.node):
            raise SegmentsError("The overlay is no longer in the scene; request it again.")
        if not self.to_check:
            return most_uncertain_slice(self.node, self.plane)
        return strongest_in(self.node, self.plane, self.to_check[step % len(self.to_check)])


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
    said = result.statistics.get(word)
    to_check = said.slices_to_check if said is not None and kind == "uncertainty" else ()
    plane = result.plane or session.results_of(volume).plane
    return OverlayResult(node, plane, word, kind, to_check, result.slices)
