"""From words to segments: find the server, send the volume, wait, fetch the result, and show it in one step
at the end.

Until that step the scene is not touched, whatever goes wrong and whenever a person cancels. For flows see
`flows`. Knows MRML and requests as data; not how they travel, not Qt.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..client import calls
from ..client.addresses import ServerAddress
from ..client.answers import Health, ServerInfo, Suggestion
from ..client.errors import (
    ClientError,
    NotAWordMaskServerError,
    SegmentsError,
    ServerAnswerError,
    TransferCancelledError,
)
from ..client.handshake import Handshake, judge_server, may_be_another
from ..client.job_answers import JobResult, JobStatus
from ..client.prompts import find_suggestion
from ..scene.export import check_volume, export_volume
from ..scene.geometry import grid_of, is_picture, to_voxels
from ..scene.hints import hint_options
from ..scene.segments import (
    MADE_HERE,
    Imported,
    SliceRange,
    check_segmentation,
    edited_segments,
    import_in_steps,
    show_3d,
)
from ..scene.terminology import words_from
from .flows import Flow, Pause, Question, Report, cancelled_error, in_turns, temporary_folder
from .session import ServerState, Session, model_named, present, target_segmentation

POLL_SECONDS = (0.2, 0.3, 0.5, 1.0)  # the last one again and again
MOST_WORDS_OF_VOCABULARY = 500

T = TypeVar("T")


@dataclass(frozen=True)
class Segmented:
    """The outcome of a request.

    Attributes:
        volume: that was segmented
        imported: what changed in the scene
        result: the server's answer
        warnings: sentences
    """

    volume: Any
    imported: Imported
    result: JobResult
    warnings: tuple[str, ...]


def connect(session: Session, address: ServerAddress, model: str = "") -> Flow[ServerState]:
    """Ask a server what it is, what it can do and which words it knows."""
    yield Report("connecting")
    session.forget_server()
    handshake = yield from shake_hands(address)
    session.server = yield from load_models_and_words(handshake, model)
    return session.server


def shake_hands(address: ServerAddress) -> Flow[Handshake]:
    """Check whether the server can be used; ClientError says why not."""
    health: Health | ClientError
    info: ServerInfo | ClientError | None = None
    try:
        health = yield calls.health()
    except TransferCancelledError:
        raise
    except ClientError as error:
        health = error
    if may_be_another(health):
        try:
            info = yield calls.info()
        except TransferCancelledError:
            raise
        except ClientError as error:
            info = error
    return judge_server(address, health, info)


def load_models_and_words(handshake: Handshake, model: str) -> Flow[ServerState]:
    """Load the server's models, and the words of the model of that name, or of the first one if there is
    none.
    """
    models = yield calls.models()
    chosen = model_named(models, model)
    if chosen is None:
        raise NotAWordMaskServerError(
            f"The server at {handshake.address} does not offer a model; start it with one, for example "
            "--conf preset=tiny."
        )
    words = yield calls.vocabulary("", chosen.name, MOST_WORDS_OF_VOCABULARY)
    return ServerState(handshake, models, chosen, words)


def segment(
    session: Session,
    address: ServerAddress,
    volume: Any,
    text: str,
    segmentation: Any | None = None,
    *,
    model: str = "",
    redo: int | None = None,
    hint: Any | None = None,
) -> Flow[Segmented]:
    """Segment a volume that is open in Slicer by words.

    Args:
        session: what the module knows
        address: of the server
        volume: to segment
        text: the words as typed; the server reads them
        segmentation: where the segments go; None: the volume's earlier result, or a new segmentation
        model: its name, for a server that was not asked yet
        redo: compute this slice only, counted as the server counts along the plane of the earlier result;
            other slices stay
        hint: a Markups node for models that take one: points on the structure or a region of interest around
            it
    """
    check_volume(volume)
    target = target_segmentation(volume, segmentation)
    if target is not None:
        check_segmentation(target, volume)
    if session.server is None or session.server.handshake.address != address:
        yield from connect(session, address, model)
    else:
        yield Report("connecting")
        yield from shake_hands(address)
    server: ServerState = session.server  # type: ignore[assignment]  # `connect` sets it or raises
    only = None if redo is None else SliceRange(session.results_of(volume).plane, redo, redo)
    with temporary_folder() as folder:
        options = {
            **_options(only),
            **({} if hint is None else hint_options(hint, volume, server.model.hints)),
        }
        job = yield from start_on(server.model.name, text, volume, folder, options)
        agreed = yield from _or_cancel(job, _confirm_replacing(session, job.words, target, volume, {}))
        result = yield from finish_job(job, folder)
        entries = yield from _vocabulary_entries(server, list(result.label_names))
        yield from _confirm_replacing(session, list(result.label_names), target, volume, agreed)
        done = yield from show_result(session, result, entries, volume, target, only)
    yield from _show_surfaces(done.imported)
    return done


def finish_job(job: JobStatus, folder: Path) -> Flow[JobResult]:
    """Wait for a job and download its result into a folder. If a person cancels meanwhile, the job is
    cancelled, too.
    """
    status = yield from _or_cancel(job, _watch(job))
    if status.state != "done":
        raise ServerAnswerError(
            status.status_code or 500, status.message or "The server stopped the job; try again."
        )
    yield Report("downloading")
    return (yield calls.job_result(job.id, folder, "result"))


def _watch(job: JobStatus) -> Flow[JobStatus]:
    """Report how far a job is until it ends; return its final status."""
    turn = 0
    while not job.final:
        stage = "queued" if job.state == "queued" else "computing"
        yield Report(stage, job.done, job.total, job.waiting, job.seconds_left)
        yield Pause(POLL_SECONDS[min(turn, len(POLL_SECONDS) - 1)])
        job, turn = (yield calls.job(job.id)), turn + 1
    return job


def _or_cancel(job: JobStatus, flow: Flow[T]) -> Flow[T]:
    """Run a flow; if a person cancels it, cancel the job, too."""
    try:
        return (yield from flow)
    except TransferCancelledError:
        with contextlib.suppress(ClientError):
            yield calls.cancel_job(job.id)
        raise


def slice_in_view(volume: Any, plane: str, slice_nodes: Sequence[Any]) -> int:
    """Return the slice of a volume that is in view, as the server counts.

    Among several slice views, the one whose direction is nearest to the plane counts.

    Raises:
        SegmentsError: no view shows a slice of the volume
    """
    if is_picture(volume):
        return 0
    grid = grid_of(volume)
    slicing = grid.slicing(plane)
    axis = 2 - slicing.axis  # of (i, j, k)
    direction = grid.matrix[:3, axis] / grid.spacing[axis]
    best, index = -1.0, -1
    for node in slice_nodes:
        matrix = node.GetSliceToRAS()
        along = abs(sum(matrix.GetElement(row, 2) * direction[row] for row in range(3)))
        voxel = to_voxels(volume, [[matrix.GetElement(row, 3) for row in range(3)]])[0]
        if along > best:
            best, index = along, round(float(voxel[axis]))
    if not 0 <= index < slicing.count:
        raise SegmentsError(
            f"No {plane} slice of {volume.GetName()!r} is in view; scroll a slice view to the slice that "
            "you want."
        )
    return slicing.entry(index)


def _options(only: SliceRange | None) -> dict[str, Any]:
    return {} if only is None else {"plane": only.plane, "slices": [only.first, only.last]}


def start_on(model: str, words: str, volume: Any, folder: Path, options: dict[str, Any]) -> Flow[JobStatus]:
    """Write a volume into a folder, upload it, and queue a job.

    Args:
        model: its name
        words: as typed; the server reads them, and the job has the words that it understood
        volume: to segment
        folder: for the file
        options: of `calls.start_job`
    """
    check_volume(volume)
    yield Report("exporting")
    yield Pause()
    exported = export_volume(volume, folder)
    yield Report("uploading")
    return (yield calls.start_job(model, words, file=exported.path, options=options))


def _confirm_replacing(
    session: Session, words: Sequence[str], target: Any | None, volume: Any, agreed: dict[str, str]
) -> Flow[dict[str, str]]:
    """Ask before segments are replaced that a person corrected.

    ``agreed`` is what was allowed before; corrections made since then are asked about again.
    """
    if target is None or not present(target) or not present(volume):
        return agreed
    asked = {session.earlier_word(word, target) for word in words}
    edited = {word: mark for word, mark in _corrections(target, volume).items() if word in asked}
    if any(agreed.get(word) != mark for word, mark in edited.items()):
        yes = yield Question("replace_edited", tuple(edited))
        if not yes:
            raise cancelled_error()
    return edited


def _corrections(target: Any, volume: Any) -> dict[str, str]:
    """Return word -> a mark that changes when the segment is edited again."""
    marks = {}
    for word, segment_id in edited_segments(target, volume).items():
        image = target.GetSegmentation().GetSegment(segment_id).GetRepresentation("Binary labelmap")
        marks[word] = f"{segment_id} {0 if image is None else image.GetMTime()}"
    return marks


def _vocabulary_entries(server: ServerState, words: Sequence[str]) -> Flow[dict[str, Suggestion]]:
    """Find the vocabulary's entry for each word, for colours and codes. Words that only the server
    understands (plurals) are looked up there.
    """
    found = {}
    for word in words:
        entry = server.look_up(word)
        if entry is None:
            try:
                entry = find_suggestion(word, (yield calls.vocabulary(word, server.model.name)))
            except TransferCancelledError:
                raise
            except ClientError:  # a segment without a code is as good as one with it
                entry = None
        if entry is not None:
            found[word] = entry
    return found


def show_result(
    session: Session,
    result: JobResult,
    entries: dict[str, Suggestion],
    volume: Any,
    target: Any | None,
    only: SliceRange | None,
) -> Flow[Segmented]:
    """Read and check a result in steps; the scene changes in the last one, or not at all."""
    yield Report("showing")
    if not present(volume):
        raise SegmentsError("The volume was removed from the scene meanwhile, so nothing was changed.")
    path = result.path
    if path is None:
        raise SegmentsError("The server's answer has no file, so nothing was changed; try again.")
    words = [
        dataclasses.replace(word, text=session.earlier_word(word.text, target))
        for word in words_from(result.label_names, entries)
    ]
    renamed = {old: session.earlier_word(old, target) for old in result.statistics}
    result = dataclasses.replace(
        result, statistics={renamed[word]: row for word, row in result.statistics.items()}
    )
    steps = import_in_steps(
        path, words, volume, target, model=result.model, version=result.version, only=only
    )
    imported = yield from in_turns(steps)
    session.record(volume, imported, result, part=only is not None)
    return Segmented(volume, imported, result, result.warnings)


def _show_surfaces(imported: Imported) -> Flow[None]:
    """Show a segmentation that was made here in 3-D.

    In a person's own segmentation, all segments would get surfaces that were not requested.
    """
    segmentation = imported.segmentation
    if segmentation is None or not imported.ids:
        return
    yield Report("surfaces", can_cancel=False)
    yield Pause()
    if present(segmentation) and segmentation.GetAttribute(MADE_HERE):
        with contextlib.suppress(SegmentsError):  # without surfaces the result is as good
            show_3d(segmentation)
