"""A person's corrections of a mask: slices that were clicked are drawn again, and their neighbours follow.

Slices are drawn by the engine of every request, so that their features come from the cache after the first
click. Knows volumes, words, hints and the segmenter contract; not segments, files or the server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from wordmask.data.geometry import Slicing
from wordmask.data.volumes import Volume
from wordmask.errors import RequestError
from wordmask.inference.hints import VoxelHints, check_kinds, place_hints
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.inference.request import as_prompts, check_threshold, choose_window, cut_volume, word_warnings
from wordmask.inference.run import Run, RunSettings
from wordmask.inference.word import Word
from wordmask.models.base import Hints
from wordmask.progress import CancelToken, Progress

Mask = NDArray[np.bool_]

LEAST_OVERLAP = 0.5  # of a slice's mask and the one before (intersection over union), or spreading stops
MARGIN = 0.1  # of a structure's width and height, by which a box for the next slice is larger


@dataclass(frozen=True, eq=False)
class Refinement:
    """The slices that a correction changed.

    Attributes:
        plane: along which slices are counted.
        masks: slice -> its new mask [h, w], in display orientation.
        corrected: the slices in which a person marked something.
        slicing: how slices lie in the image.
        ends: why spreading ended on each side of the corrected slices, as sentences; empty without spreading.
    """

    plane: str
    masks: Mapping[int, Mask]
    corrected: frozenset[int]
    slicing: Slicing
    ends: tuple[str, ...] = ()

    @property
    def slab(self) -> tuple[int, int]:
        """First and last slice that changed."""
        return min(self.masks), max(self.masks)

    def cut_out(self) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
        """The part of the image between the first and the last slice that changed.

        Returns:
            Array [k, j, i], 1 where the structure is in a changed slice, else 0, and its first voxel
                (i, j, k) in the image.
        """
        (first, last), slicing = self.slab, self.slicing
        stack = np.zeros((last - first + 1, *slicing.cut_shape[1:]), dtype=np.uint8)
        for index, mask in self.masks.items():
            stack[index - first] = mask
        shape, axis = list(slicing.shape), slicing.permutation[0]
        start = [0, 0, 0]
        start[axis] = slicing.shape[axis] - 1 - last if slicing.flips[0] else first
        shape[axis] = len(stack)
        part = replace(slicing, shape=(shape[0], shape[1], shape[2]))
        return part.restack(stack), (start[2], start[1], start[0])


class Refiner:
    """Draws slices of one word in one volume again.

    Args:
        pipeline: with the model and the cache.
        volume: that is corrected.
        word: the structure, as typed.
        plane: auto, axial, coronal or sagittal.
        window: name of a CT window; by default the word's own.
        threshold: 0..1; by default the preset's.
        progress: called after every slice.
        cancel: its ``cancel()`` ends the work with CancelledError.

    Raises:
        PromptError, RequestError: a wrong word or setting, or a word that the model refuses.

    Example:
        >>> refiner = Refiner(VolumeSegmenter(load_segmenter("medclip_samv2")), volume, "liver")
        >>> refiner.refine(VoxelHints(points=((120, 98, 41, True),)), spread=10).slab
    """

    def __init__(
        self,
        pipeline: VolumeSegmenter,
        volume: Volume,
        word: str,
        *,
        plane: str = "auto",
        window: str | None = None,
        threshold: float | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        prompts = as_prompts(word)
        if len(prompts) > 1:
            raise RequestError(f"A correction is of one word, and {len(prompts)} were given; name one.")
        (self.prompt,) = prompts
        self.pipeline, preset = pipeline, pipeline.segmenter.preset
        self.view = cut_volume(volume, plane=plane, slices=None, skip_air=False)
        name, chosen = choose_window(self.prompt, volume, window, preset)
        self.word = pipeline.word_of(self.prompt, name, chosen, self.view, hinted=True)
        if not self.word.known and preset.unknown_words == "refuse":
            raise RequestError(*word_warnings(self.prompt, volume, preset, known=False))
        self.threshold = check_threshold(threshold, preset)
        self._progress, self._cancel = progress, cancel
        self._logits = self.word.logits  # of presence, in the slices that were drawn last
        self._done = self._total = 0  # slices

    def refine(
        self,
        hints: VoxelHints,
        *,
        previous: Mask | None = None,
        spread: int = 0,
        locked: Collection[int] = (),
        least_overlap: float = LEAST_OVERLAP,
    ) -> Refinement:
        """Draw the slices with hints again, and let their neighbours follow.

        Spreading goes from each corrected slice to both sides. The mask of a slice, and a point in its
        middle, are the hints for the next one. It ends before a slice in which the structure does not seem
        to be, whose mask differs too much, or that a person corrected.

        Args:
            hints: points and a box, in voxels of the image.
            previous: bool [k, j, i], the mask so far; for models that take masks it is one more hint.
            spread: slices to each side, at most.
            locked: slices that were corrected by hand before, which never change.
            least_overlap: 0..1, intersection over union of the masks of two neighbours, below which spreading
                ends.

        Raises:
            RequestError: there are no hints, the model cannot use them, they are outside of the image, or
                in a locked slice.
        """
        segmenter = self.pipeline.segmenter
        if not hints.kinds():
            raise RequestError("A correction needs points or a box; give at least one.")
        check_kinds(hints, 1, segmenter.capabilities, segmenter.name)
        placed = place_hints(hints, self.view.slicing, range(self.view.shape[0]))
        corrected = frozenset(placed.slices())
        if held := corrected & frozenset(locked):
            raise RequestError(
                f"Slice {min(held)} was corrected by hand and is locked; unlock it to correct it again."
            )
        if previous is not None and segmenter.capabilities.masks:
            cut = self.view.slicing.cut(previous)
            placed = replace(placed, masks={index: cut[index] for index in corrected if cut[index].any()})
        self._done, self._total = 0, len(corrected) * (1 + 2 * spread)
        masks = self._draw(placed)
        ends = self._spread(masks, corrected, spread, frozenset(locked), least_overlap) if spread else ()
        return Refinement(str(self.view.plane), masks, corrected, self.view.slicing, ends)

    @torch.no_grad()
    def _draw(self, hints: Hints) -> dict[int, Mask]:
        """The masks of all slices with a hint."""
        indices = tuple(sorted(hints.slices()))
        run = self._run(indices, hints)
        run.compute()
        (word,) = run.words
        self._logits = word.logits
        self._done += len(indices)
        if self._progress is not None:
            self._progress(Progress(self._done, self._total, "drawing slices", 1))
        empty = np.zeros(self.view.shape[1:], dtype=bool)
        return {index: word.marks[index].mask if index in word.marks else empty for index in indices}

    def _run(self, indices: tuple[int, ...], hints: Hints) -> Run:
        known = self.word
        word = Word(
            known.prompt, known.window_name, known.window, known.segmenter, known.features, known.slices
        )
        return Run(
            self.pipeline.segmenter,
            self.pipeline.cache,
            replace(self.view, looked_at=indices),
            [word],
            RunSettings(self.threshold, hints, chunk=self.pipeline.chunk, one_by_one=True),
            cancel=self._cancel,
        )

    def _spread(
        self,
        masks: dict[int, Mask],
        corrected: frozenset[int],
        reach: int,
        locked: frozenset[int],
        least_overlap: float,
    ) -> tuple[str, ...]:
        """Add the neighbours' masks, the nearest first, and say why each side ended."""
        fronts = {(start, step): start for start in sorted(corrected) for step in (-1, 1)}
        ends = {}
        ahead = self.pipeline.segmenter.preset.slice_batch  # slices cost less together
        for distance in range(1, reach + 1):
            if distance % ahead == 1 % ahead:
                steps = range(distance, min(distance + ahead, reach + 1))
                near = {start + step * far for start, step in fronts for far in steps}
                self._encode(near & set(range(self.view.shape[0])) - masks.keys() - locked)
            for (start, step), last in list(fronts.items()):
                index = start + step * distance
                found, reason = self._follow(index, masks[last], masks.keys() | locked, least_overlap)
                if found is None:
                    del fronts[start, step]
                    if index not in masks:
                        ends[start, step] = f"It ended before slice {index}, {reason}."
                else:
                    masks[index] = found
                    fronts[start, step] = index
        return tuple(ends.values())

    @torch.no_grad()
    def _encode(self, indices: Collection[int]) -> None:
        """Compute the features of slices that are about to be drawn."""
        self._run(tuple(sorted(indices)), Hints()).encode()

    def _follow(
        self, index: int, last: Mask, taken: Collection[int], least_overlap: float
    ) -> tuple[Mask | None, str]:
        """The mask of a slice after that of its neighbour, or None and why there is none."""
        if not 0 <= index < self.view.shape[0]:
            return None, "where the image ends"
        if index in taken:
            return None, "which was corrected by hand"
        if not last.any():
            return None, "because nothing is marked beside it"
        found = self._draw(self._hints_from(last, index))[index]
        preset, logit = self.word.segmenter.preset.presence, self._logits[index]
        if preset is not None and logit < preset.slice_logit:
            return None, "where the structure does not seem to be"
        if overlap(found, last) < least_overlap:
            return None, "where the mask would differ too much from its neighbour's"
        return found, ""

    def _hints_from(self, mask: Mask, index: int) -> Hints:
        """What the mask of a slice says about its neighbour ``index``."""
        capabilities = self.pipeline.segmenter.capabilities
        y, x = middle_of(mask)
        points = ((index, float(x), float(y), True),) if "points" in capabilities.hints else ()
        if capabilities.masks:
            return Hints(points, masks={index: mask})
        return Hints(points, (index, index, *_box_around(mask)) if "box" in capabilities.hints else None)


def overlap(one: Mask, other: Mask) -> float:
    """Intersection over union of two masks of one shape, 0..1; 0 for two empty ones."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 0.0


def middle_of(mask: Mask) -> tuple[int, int]:
    """The pixel (row, column) of a mask [h, w] that is farthest from its outline, the first among equals."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(row), int(column)


def _box_around(mask: Mask) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) around a mask with a margin, within the slice, pixel i centred at i."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    sides = []
    for found, length in ((columns, mask.shape[1]), (rows, mask.shape[0])):
        margin = MARGIN * (found[-1] - found[0] + 1) + 0.5
        sides.append((max(-0.5, found[0] - margin), min(length - 0.5, found[-1] + margin)))
    (x0, x1), (y0, y1) = sides
    return float(x0), float(y0), float(x1), float(y1)
