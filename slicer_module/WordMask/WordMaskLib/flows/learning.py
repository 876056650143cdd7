"""Correct and learn: submit label maps, train, get the next case, choose among versions.

Flows: see `flows`. As in `segmenting`, the scene changes in one step at the end or not at all. Knows MRML and
requests as data; not Qt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..client import calls
from ..client.addresses import ServerAddress
from ..client.answers import DatastoreImage
from ..client.errors import ClientError, SegmentsError, TransferCancelledError
from ..client.job_answers import JobResult, NextCase, TrainingState
from ..scene.export import ExportedLabels, OverlapError, check_volume, export_labels, export_volume
from ..scene.geometry import is_picture
from ..scene.masks import cropped_mask
from ..scene.segments import edited_segments, own_segment, segmentation_of
from .cases import case_of, content_id, mark_case, open_case, open_volume_of, show_volume
from .flows import Flow, Pause, Question, Report, cancelled_error, temporary_folder
from .segmenting import finish_job, load_models_and_words, shake_hands, show_result
from .session import ServerState, Session, present

FINAL = "final"  # the tag of the label map that models learn from
STRATEGIES = ("hybrid", "uncertainty", "diversity", "random", "first")
SPECIAL_RECIPES = frozenset({"decoder", "zero_shot", "smoke"})  # for experiments and tests
WATCH_SECONDS = 1.0
MOST_SILENCES = 5  # failed requests after which a training is no longer watched


@dataclass(frozen=True)
class Submitted:
    """What was stored on the server.

    Attributes:
        case: its id
        words: words in the label map
        absent: words that were said to be absent from the image
        beside: whether another person's label map stays the final one, and this one is stored beside it
    """

    case: str
    words: tuple[str, ...]
    absent: tuple[str, ...]
    beside: bool = False


@dataclass(frozen=True)
class Opened:
    """The next case.

    Attributes:
        next: the server's answer
        volume: None if no case is left
        previewed: whether the model's segments are shown with it
        message: why they are not
    """

    next: NextCase
    volume: Any | None
    previewed: bool
    message: str


def submit(
    session: Session, address: ServerAddress, volume: Any, segmentation: Any, *, absent: Sequence[str] = ()
) -> Flow[Submitted]:
    """Store the visible segments of a volume as its final label map; upload the volume first if the server
    does not have it.

    ``absent`` are words that are certainly not in the image, from which training learns, too.
    """
    check_volume(volume)
    chosen = visible_segments(segmentation, volume)
    absent = tuple(word for word in absent if own_segment(segmentation, word) is None)
    yield Report("checking")
    yield from shake_hands(address)
    with temporary_folder() as folder:
        labels = folder / "labels.nii.gz"
        case, replace = yield from _case_on_server(session, address, volume, folder)
        like = yield from _file_of(case, volume, address, folder)
        marks = session.marks(segmentation)
        exported = yield from _label_map(segmentation, chosen, volume, labels, absent, like)
        yield Report("submitting")
        names = {str(row["name"]): int(row["idx"]) for row in exported.label_info}
        codes = {
            str(row["name"]): {key: row[key] for key in row if key not in ("name", "idx")}
            for row in exported.label_info
        }
        tag = yield calls.submit_label(
            case, exported.path, names, codes=codes, annotator=session.annotator, replace=replace
        )
    session.remember_submission(str(address), case, segmentation, marks)
    return Submitted(case, tuple(name for name in names if name not in absent), absent, tag != FINAL)


def visible_segments(segmentation: Any, volume: Any) -> list[str]:
    """Return the segments that are visible and have a voxel on the volume; SegmentsError if there is none."""
    if segmentation is None or not present(segmentation):
        raise SegmentsError(
            "There is nothing to submit yet: segment the volume, or draw in a segmentation and choose it."
        )
    display = segmentation.GetDisplayNode()
    ids = [str(segment_id) for segment_id in segmentation.GetSegmentation().GetSegmentIDs()]
    shown = [segment_id for segment_id in ids if display is None or display.GetSegmentVisibility(segment_id)]
    chosen = [
        segment_id for segment_id in shown if cropped_mask(segmentation, segment_id, volume) is not None
    ]
    if not chosen:
        raise SegmentsError("There is nothing to submit: no visible segment has a voxel on this volume.")
    return chosen


def train(
    session: Session, model: str, segmentations: Sequence[tuple[Any, Any]], recipe: str, words: str = ""
) -> Flow[None]:
    """Start a training.

    Args:
        session: what the module knows
        model: its name
        segmentations: pairs (segmentation, volume); a person is asked before corrections in them are left out
        recipe: its name
        words: what to learn, for models that learn without labels; otherwise the words of the labels
    """
    unsubmitted: list[str] = []
    for segmentation, volume in segmentations:
        marks, known = session.marks(segmentation), session.submitted_marks(segmentation)
        edited = edited_segments(segmentation, volume)
        unsubmitted += [
            word for word, segment_id in edited.items() if marks.get(segment_id) != known.get(segment_id)
        ]
    if unsubmitted:
        yes = yield Question("unsubmitted", tuple(unsubmitted))
        if not yes:
            raise cancelled_error()
    yield Report("starting")
    yield calls.start_training(model, {"recipe": recipe, **({"words": words} if words else {})})


def watch_training(model: str, tell: Callable[[TrainingState], None]) -> Flow[TrainingState]:
    """Report how far a training is until it ends, and return how it ended; ClientError after several failed
    requests.
    """
    silences = 0
    while True:
        try:
            state = yield calls.training(model)
            silences = 0
        except TransferCancelledError:
            raise
        except ClientError:
            silences += 1
            if silences >= MOST_SILENCES:
                raise
            yield Pause(WATCH_SECONDS)
            continue
        tell(state)
        if state.state != "running":
            return state
        yield Pause(WATCH_SECONDS)


def stop_training() -> Flow[None]:
    """Ask the server to stop a training; `watch_training` reports how it ended."""
    yield calls.stop_training()


def next_case(
    session: Session, address: ServerAddress, strategy: str, *, words: str = "", skip: Sequence[str] = ()
) -> Flow[Opened]:
    """Open the case that should be labelled next, with the model's segmentation.

    A case that is already open is not opened twice, and the work on it stays as it is.
    """
    yield Report("choosing")
    server: ServerState = yield from _connect_if_needed(session, address)
    found = yield calls.next_case(
        strategy, model=server.model.name, words=words, skip=skip, annotator=session.annotator
    )
    if found.case is None:
        return Opened(found, None, False, "")
    open_already = open_volume_of(found.case, address)
    if open_already is not None:
        show_volume(open_already)
        return Opened(found, open_already, False, "")
    with temporary_folder() as folder:
        yield Report("opening")
        path = yield calls.image_file(found.case, folder, "case")
        result, message = yield from _preview(found, folder)
        entries = (
            {}
            if result is None
            else {word: entry for word in result.label_names if (entry := server.look_up(word)) is not None}
        )
        volume = open_case(path, found.case, address)
        previewed = False
        if result is not None:
            try:
                shown = yield from show_result(session, result, entries, volume, None, None)
                previewed = bool(shown.imported.ids)
            except SegmentsError as error:
                message = str(error)
    show_volume(volume)
    return Opened(found, volume, previewed, message)


def use_version(session: Session, address: ServerAddress, version: int) -> Flow[ServerState]:
    """Use another version of the model; 0 means the weights that came with it."""
    server: ServerState = yield from _connect_if_needed(session, address)
    yield Report("connecting")
    yield calls.rollback(server.model.name, version)
    return (yield from reload_models(session))


def reload_models(session: Session) -> Flow[ServerState]:
    """Ask again which versions there are, as after a training."""
    server = session.server
    if server is None:
        raise SegmentsError("No server is connected; click Connect.")
    state = yield from load_models_and_words(server.handshake, server.model.name)
    session.server = state
    return state


def _connect_if_needed(session: Session, address: ServerAddress) -> Flow[ServerState]:
    handshake = yield from shake_hands(address)
    if session.server is None or session.server.handshake.address != address:
        session.server = yield from load_models_and_words(handshake, "")
    return session.server


def _case_on_server(
    session: Session, address: ServerAddress, volume: Any, folder: Path
) -> Flow[tuple[str, bool]]:
    """Return the id of the volume's case, after uploading the volume if the server does not have it, and
    whether to replace a final label map.

    A person is asked before an earlier final label map or another person's is replaced.
    """
    images: dict[str, DatastoreImage] = {image.id: image for image in (yield calls.images())}
    case = case_of(volume, address)
    if case not in images:
        yield Report("exporting")
        yield Pause()
        exported = export_volume(volume, folder)
        for found in content_id(exported.path):
            case = found
            yield Pause()
        if case not in images:
            yield Report("uploading")
            case = yield calls.upload_image(case, exported.path)
        mark_case(volume, case, address)
    image = images.get(case)
    if image is None or not image.is_labelled or session.has_submitted(str(address), case):
        return case, False
    owner = image.labels[FINAL].get("annotator", "")
    if owner and owner != session.annotator:
        return case, bool((yield Question("second_label", (str(owner),))))
    yes = yield Question("replace_label", (case,))
    if not yes:
        raise cancelled_error()
    return case, True


def _file_of(case: str, volume: Any, address: ServerAddress, folder: Path) -> Flow[Path | None]:
    """Download the server's own file, on whose grid the label map has to lie; None for pictures, which have
    only rows and columns.
    """
    if is_picture(volume):
        return None
    yield Report("checking")
    return (yield calls.image_file(case, folder, "image"))


def _label_map(
    segmentation: Any,
    chosen: Sequence[str],
    volume: Any,
    path: Path,
    absent: Sequence[str],
    like: Path | None,
) -> Flow[ExportedLabels]:
    if not present(segmentation) or not present(volume):
        raise SegmentsError(
            "The volume or the segmentation was removed from the scene meanwhile, so nothing was submitted."
        )
    try:
        return export_labels(segmentation, chosen, volume, path, absent=absent, like=like)
    except OverlapError as error:
        names = tuple(dict.fromkeys(name for pair in error.shared for name in pair[:2]))
    yes = yield Question("overlap", names)
    if not yes:
        raise cancelled_error()
    return export_labels(segmentation, chosen, volume, path, absent=absent, overlaps="smaller", like=like)


def _preview(found: NextCase, folder: Path) -> Flow[tuple[JobResult | None, str]]:
    """Fetch the model's segmentation of the case; if that fails, the case is opened without it."""
    if found.preview is None:
        return None, found.preview_message
    try:
        result = yield from finish_job(found.preview, folder)
    except TransferCancelledError:
        raise
    except ClientError as error:
        return None, str(error)
    return result, ""


def results_in_scene(volumes: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return (segmentation, volume) for all results in the scene."""
    pairs = [(segmentation_of(volume), volume) for volume in volumes if volume.GetImageData() is not None]
    return [(segmentation, volume) for segmentation, volume in pairs if segmentation is not None]
