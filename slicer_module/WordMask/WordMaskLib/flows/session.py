"""What the module knows while Slicer runs: one server with its models and words, the results per volume, and
the undo steps.

Knows segments and the server's answers. Does not know: requests on their way, Qt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import slicer

from ..client.answers import ModelInfo, Suggestion
from ..client.errors import SegmentsError
from ..client.handshake import Handshake
from ..client.job_answers import JobResult, WordStatistics
from ..client.prompts import find_suggestion, same_text
from ..scene.masks import BINARY
from ..scene.segments import Imported, UndoHistory, segmentation_of, word_of
from .results_table import ResultRow, result_rows

USUAL_PLANE = "axial"


@dataclass(frozen=True)
class ServerState:
    """A server that can be used; ``words`` is the whole vocabulary of the chosen model."""

    handshake: Handshake
    models: tuple[ModelInfo, ...]
    model: ModelInfo
    words: tuple[Suggestion, ...]

    def look_up(self, word: str) -> Suggestion | None:
        """Find the vocabulary's entry for a word or synonym; None if there is none."""
        return find_suggestion(word, self.words)


@dataclass(frozen=True)
class VolumeResults:
    """Results of one volume.

    Attributes:
        statistics: word -> what the server measured
        plane: along which the server cut the volume
        not_found: words of the last request without a voxel
    """

    statistics: Mapping[str, WordStatistics] = field(default_factory=dict)
    plane: str = USUAL_PLANE
    not_found: tuple[str, ...] = ()


class Session:
    """The state of the module: the server, None until one was asked, and the history of imports."""

    def __init__(self) -> None:
        self.server: ServerState | None = None
        self.annotator = ""  # the name under which label maps are submitted and cases are requested
        self.history = UndoHistory()
        self._results: dict[str, VolumeResults] = {}
        # Of the step with this id: the volume, and what was shown of it.
        self._before: dict[int, tuple[str, VolumeResults | None]] = {}
        self._submitted: set[tuple[str, str]] = set()  # (address, case)
        # Segmentation -> segment -> its image's time when it was remember_submission.
        self._marks: dict[str, dict[str, int]] = {}

    @property
    def model(self) -> ModelInfo | None:
        """The chosen model."""
        return None if self.server is None else self.server.model

    def forget_server(self) -> None:
        """Forget the server, because another address was typed."""
        self.server = None

    def forget_scene(self) -> None:
        """Forget all results, because the scene was closed."""
        self.history.clear()
        self._results.clear()
        self._before.clear()
        self._marks.clear()

    def results_of(self, volume: Any | None) -> VolumeResults:
        """Return the results of a volume; empty ones before the first request."""
        return VolumeResults() if volume is None else self._results.get(str(volume.GetID()), VolumeResults())

    def record(self, volume: Any, imported: Imported, result: JobResult, *, part: bool = False) -> None:
        """Remember the result of a request.

        ``part`` means of some slices only, so that the server's statistics are not those of the segment.
        """
        key, before = str(volume.GetID()), self._results.get(str(volume.GetID()))
        if imported.step is not None:
            self.history.add(imported.step)
            self._before[id(imported.step)] = (key, before)
        earlier = before or VolumeResults()
        if part and before is not None:
            self._results[key] = VolumeResults(earlier.statistics, earlier.plane, imported.not_found)
            return
        statistics = {} if part else dict(result.statistics)
        self._results[key] = VolumeResults(
            {**earlier.statistics, **statistics}, result.plane or earlier.plane, imported.not_found
        )

    def can_undo(self) -> bool:
        """Whether there is a step to undo."""
        return self.history.next() is not None

    def undo(self) -> tuple[str, ...]:
        """Undo the last import and return its words; SegmentsError: there is none."""
        step = self.history.undo()
        key, shown = self._before.pop(id(step), ("", None))
        if shown is not None:
            self._results[key] = shown
        else:
            self._results.pop(key, None)
        return step.words

    def table(self, volume: Any | None, segmentation: Any | None) -> list[ResultRow]:
        """Return one row per result in the segmentation, then the words that were not found last; empty if a
        node is gone.
        """
        if volume is None or volume.GetImageData() is None:
            return []
        shown, words = self.results_of(volume), []
        if segmentation is not None:
            words = [
                word
                for segment_id in segmentation.GetSegmentation().GetSegmentIDs()
                if (word := word_of(segmentation, segment_id))
            ]
        words += [word for word in shown.not_found if word not in words]
        try:
            return result_rows(words, segmentation, volume, shown.statistics, shown.plane)
        except SegmentsError:  # the volume has no usable grid: there is nothing to say of it here
            return []

    def marks(self, segmentation: Any) -> dict[str, int]:
        """Return segment id -> a number that changes when the segment's voxels do."""
        contents = segmentation.GetSegmentation()
        images = {
            segment_id: contents.GetSegment(segment_id).GetRepresentation(BINARY)
            for segment_id in contents.GetSegmentIDs()
        }
        return {
            segment_id: int(image.GetMTime()) for segment_id, image in images.items() if image is not None
        }

    def remember_submission(
        self, address: str, case: str, segmentation: Any, marks: Mapping[str, int]
    ) -> None:
        """Remember that a case was submitted, and the `marks` of its segments at that time."""
        self._submitted.add((address, case))
        self._marks[str(segmentation.GetID())] = dict(marks)

    def has_submitted(self, address: str, case: str) -> bool:
        """Whether the final label map of a case was submitted from here."""
        return (address, case) in self._submitted

    def submitted_marks(self, segmentation: Any) -> dict[str, int]:
        """Return the `marks` of a segmentation's segments at its last submission; empty without one."""
        return self._marks.get(str(segmentation.GetID()), {})

    def earlier_word(self, word: str, segmentation: Any | None) -> str:
        """Return the word of an earlier result that means the same ("liver" for "hepar"), so that a synonym
        replaces it; otherwise the word itself.
        """
        if segmentation is None:
            return word
        wanted = self._key(word)
        for segment_id in segmentation.GetSegmentation().GetSegmentIDs():
            earlier = word_of(segmentation, segment_id)
            if earlier and self._key(earlier) == wanted:
                return earlier
        return word

    def _key(self, word: str) -> str:
        """Return a key that is equal for the words of one entry of the vocabulary, and for the spellings of
        any other word.
        """
        entry = None if self.server is None else self.server.look_up(word)
        return same_text(word if entry is None else entry.word)


def present(node: Any | None) -> bool:
    """Whether a node is in the scene."""
    return node is not None and slicer.mrmlScene is not None and bool(slicer.mrmlScene.IsNodePresent(node))


def target_segmentation(volume: Any, chosen: Any | None) -> Any | None:
    """Return where results go: the chosen segmentation or the volume's earlier result; None: a new one."""
    return chosen if chosen is not None else segmentation_of(volume)


def model_named(models: Sequence[ModelInfo], name: str) -> ModelInfo | None:
    """Return the model of that name, or the first one; None if there is none."""
    return next((model for model in models if model.name == name), models[0] if models else None)
