"""Segmentation of a volume by words: a label map in the volume's own geometry, for any model of the contract.

Knows volumes, words, the cache and the segmenter contract; not files, not the server, not any particular
model. `wordmask.inference.run` computes one request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch

from wordmask.data.geometry import Triple
from wordmask.data.volumes import Volume
from wordmask.data.windows import Window
from wordmask.inference.cache import FeatureCache
from wordmask.inference.hints import VoxelHints, check_kinds, place_hints
from wordmask.inference.memory import with_smaller_batches
from wordmask.inference.request import (
    CutVolume,
    as_prompts,
    check_outputs,
    check_prompt_sets,
    check_threshold,
    choose_window,
    cut_volume,
    request_warnings,
    word_warnings,
)
from wordmask.inference.result import Segmentation
from wordmask.inference.run import Run, RunSettings
from wordmask.inference.word import Word
from wordmask.models.base import Segmenter
from wordmask.progress import CancelToken, Progress
from wordmask.words.prompts import Prompt

# Of a segmenter's own cache: about 400 slices at ViT-H size, 10,000 of tiny.
CACHE_BYTES = 1 << 30
SMALLEST_CHUNK = 16  # slices


class VolumeSegmenter:
    """Segments volumes with one model; several threads may use it at a time.

    Args:
        segmenter: the model, as `load_segmenter` gives it.
        cache: of image features, shared between segmenters; by default this segmenter has its own.
        chunk: slices whose features are held in memory at a time; it never changes a mask. By default as many
            as fill the preset's batches with one word.
        clean: whether specks are removed in three dimensions (`wordmask.inference.specks`).
        version: of the weights, for the result.

    Example:
        >>> segmenter = VolumeSegmenter(load_segmenter("simple_vilmedsam"))
        >>> result = segmenter.segment(read_volume("ct.nii.gz"), "liver, spleen")
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        cache: FeatureCache | None = None,
        chunk: int | None = None,
        clean: bool = True,
        version: str = "bundled",
    ) -> None:
        if chunk is not None and chunk < 1:
            raise ValueError(f"A chunk needs at least 1 slice, got {chunk}.")
        self.segmenter = segmenter
        self.cache = FeatureCache(CACHE_BYTES) if cache is None else cache
        self.chunk = chunk or max(SMALLEST_CHUNK, segmenter.preset.slice_batch, segmenter.preset.pair_batch)
        self.clean, self.version = clean, version

    @torch.no_grad()
    def segment(
        self,
        volume: Volume,
        prompts: str | Sequence[str] | Sequence[Prompt],
        *,
        plane: str = "auto",
        window: str | None = None,
        threshold: float | None = None,
        slices: tuple[int, int] | None = None,
        hints: VoxelHints | None = None,
        roi: tuple[Triple, Triple] | None = None,
        skip_air: bool = True,
        progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
        keep: Collection[str] = ("labels",),
    ) -> Segmentation:
        """Segment every word in the volume.

        Args:
            volume: a volume or a picture, as `read_volume` gives it.
            prompts: words as typed ("liver, spleen"), a list of words, or parsed prompts.
            plane: auto, axial, coronal or sagittal; which way slices are cut.
            window: name of a CT window for all words; by default each word has its own.
            threshold: 0..1, probability above which a pixel belongs to a word; by default the preset's.
            slices: (first, last) along the slicing plane, both included. Only they are computed and judged,
                the rest is 0. Specks are kept, because a part of the volume does not tell a speck from the
                end of an organ.
            hints: where a person saw the structure; for one word, and for models that take them. The hints
                decide their slices, whatever the model thinks, and what they marked is never dropped.
            roi: first and last voxel (i, j, k) of a region of interest, both included. Only its slices are
                computed, and nothing is marked outside of it. Slices are seen whole, because what surrounds
                a structure tells what it is. Specks are kept, as with ``slices``.
            skip_air: whether slices that show nothing but air are left out.
            progress: called after every batch.
            cancel: its ``cancel()`` ends the work with CancelledError.
            keep: which maps to return besides "labels": "probability", "uncertainty", "attribution".

        Raises:
            PromptError, RequestError: a wrong word or setting.
            CancelledError: after ``cancel.cancel()``.
            OutOfMemoryError: even single slices do not fit. When the memory runs out, everything is computed
                again in batches of half the size first.
        """
        preset, capabilities = self.segmenter.preset, self.segmenter.capabilities
        parsed = as_prompts(prompts)
        check_prompt_sets(parsed, capabilities, self.segmenter.name)
        limit = check_threshold(threshold, preset)
        maps = check_outputs(keep, capabilities, self.segmenter.name)
        windows = {prompt: choose_window(prompt, volume, window, preset) for prompt in parsed}
        view = cut_volume(volume, plane=plane, slices=slices, skip_air=skip_air, roi=roi)
        check_kinds(hints or VoxelHints(), len(parsed), capabilities, self.segmenter.name)
        placed = place_hints(hints or VoxelHints(), view.slicing, view.looked_at)
        if view.region is not None:
            view.region.check_hints(placed)

        def attempt(share: int) -> Segmentation:
            hinted = bool(placed.kinds())
            words = [self.word_of(prompt, *windows[prompt], view, hinted=hinted) for prompt in parsed]
            warnings = request_warnings(volume, window, preset, view)
            for word in words:
                warnings += word_warnings(
                    word.prompt, volume, preset, known=word.known, trained=self.segmenter.trained_words
                )
                word.refused = not word.known and preset.unknown_words == "refuse"
            settings = RunSettings(limit, placed, maps, self.chunk, share)
            run = Run(self.segmenter, self.cache, view, words, settings, report=progress, cancel=cancel)
            run.compute()
            clean = self.clean and slices is None and roi is None and not placed.kinds()
            return run.result(warnings, clean=clean, version=self.version)

        return with_smaller_batches(attempt, largest=max(preset.slice_batch, preset.pair_batch, self.chunk))

    def word_of(
        self,
        prompt: Prompt,
        window_name: str,
        window: Window | None,
        view: CutVolume,
        *,
        hinted: bool = False,
    ) -> Word:
        """A word of a request, with the segmenter that answers for it.

        Args:
            prompt: the word.
            window_name: how its grey values become 0..1, for the result.
            window: the CT window of that name; None for images without windows.
            view: the volume, cut into slices.
            hinted: whether a person gave points or a box with it.
        """
        segmenter = self.segmenter.answering(prompt, picture=view.volume.is_picture, hinted=hinted)
        features = segmenter.encode_prompts([prompt])
        return Word(prompt, window_name, window, segmenter, features, view.shape[0])
