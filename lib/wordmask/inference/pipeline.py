"""VolumeSegmenter: words and a volume in, a label map in the volume's own geometry out, for any model of the
contract.

The only place that maps model pixels back to original pixels. Knows volumes, words, the cache and the
segmenter contract; not files, not the server, not any particular model. Chunk size, cache and which other
words or slices are asked for change the speed, never a probability (see batching.py for how).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from wordmask.data.volumes import Volume
from wordmask.data.windows import Window
from wordmask.inference import presence
from wordmask.inference.batching import (
    StoredSlice,
    fixed_batches,
    join_prompts,
    join_slices,
    pair_row,
    store_slice,
)
from wordmask.inference.cache import CacheKey, FeatureCache
from wordmask.inference.hints import VoxelHints, check_kinds, place_hints
from wordmask.inference.memory import with_smaller_batches
from wordmask.inference.overlaps import Labels, Marks, Tally, WordMarks, binary_entropy, mask_of, resolve
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
from wordmask.inference.result import Segmentation, WordStatistics, write_labels
from wordmask.inference.specks import drop_specks
from wordmask.models.base import Hints, PromptFeatures, Segmenter, SegmenterOutput, SliceFeatures, SliceKey
from wordmask.progress import CancelToken, Progress, ProgressMeter
from wordmask.words.labels import LabelTable
from wordmask.words.prompts import Prompt

__all__ = ["CancelToken", "Progress", "Segmentation", "VolumeSegmenter", "WordStatistics", "write_labels"]

CACHE_BYTES = 1 << 30  # without a cache of the caller's: about 400 slices at ViT-H size, 10,000 of tiny
SMALLEST_CHUNK = 16  # slices

Floats = NDArray[np.float32]


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
            threshold: 0..1, probability from which a pixel belongs to a word; by default the preset's.
            slices: (first, last) along the slicing plane, both included. Only they are computed and judged,
                the rest is 0. Specks are kept, because a part of the volume does not tell a speck from the
                end of an organ.
            hints: where a person saw the structure; for one word, and for models that take them. The hints
                decide their slices, whatever the model thinks, and what they marked is never dropped.
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
        made = as_prompts(prompts)
        check_prompt_sets(made, capabilities, self.segmenter.name)
        limit = check_threshold(threshold, preset)
        maps = check_outputs(keep, capabilities, self.segmenter.name)
        windows = {prompt: choose_window(prompt, volume, window, preset) for prompt in made}
        view = cut_volume(volume, plane=plane, slices=slices, skip_air=skip_air)
        check_kinds(hints or VoxelHints(), len(made), capabilities, self.segmenter.name)
        given = place_hints(hints or VoxelHints(), view.slicing, view.looked_at)

        def attempt(share: int) -> Segmentation:
            words = [
                _Word(prompt, *windows[prompt], self.segmenter.encode_prompts([prompt]), view.shape[0])
                for prompt in made
            ]
            warnings = request_warnings(volume, window, preset, view)
            for word in words:
                warnings += word_warnings(
                    word.prompt, volume, preset, known=word.known, trained=self.segmenter.trained_words
                )
                word.refused = not word.known and preset.unknown_words == "refuse"
            run = _Run(self.segmenter, self.cache, self.chunk, view, limit, given, maps, share)
            run.compute([word for word in words if not word.refused], progress, cancel)
            return run.answer(
                words,
                warnings,
                clean=self.clean and slices is None and not given.kinds(),
                version=self.version,
            )

        return with_smaller_batches(attempt, largest=max(preset.slice_batch, preset.pair_batch, self.chunk))

    @torch.no_grad()
    def slice_features(
        self, volume: Volume, prompt: Prompt, *, cancel: CancelToken | None = None
    ) -> Iterator[SliceFeatures]:
        """What the model keeps of every slice that a request for this word would look at, chunk by chunk.

        Known words or not.
        """
        preset, view = self.segmenter.preset, cut_volume(volume, plane="auto", slices=None, skip_air=True)
        window = choose_window(prompt, volume, None, preset)
        word = _Word(prompt, *window, self.segmenter.encode_prompts([prompt]), view.shape[0])
        run = _Run(self.segmenter, self.cache, self.chunk, view, preset.threshold, Hints(), frozenset(), 1)
        yield from run.features(word, cancel)


@dataclass(eq=False)
class _Word:
    """One word of one request, and what has been found out about it so far."""

    prompt: Prompt
    window_name: str
    window: Window | None
    features: PromptFeatures
    slices: int
    logits: Floats = field(init=False)  # [n], presence per slice, NaN where it was not looked at
    marks: WordMarks = field(default_factory=dict)
    highest: float = 0.0  # probability of the most probable pixel
    maps: dict[str, Floats] = field(default_factory=dict)  # name -> [n, h, w]
    refused: bool = False
    reason: str = ""  # why nothing may be marked, for people

    def __post_init__(self) -> None:
        self.logits = np.full(self.slices, np.nan, dtype=np.float32)

    @property
    def known(self) -> bool:
        return bool(self.features.known.all())

    @property
    def presence(self) -> float:
        """0..1; see WordStatistics."""
        if np.isnan(self.logits).all():
            return self.highest
        return presence.probability(presence.volume_logit(self.logits))

    def missing_because(self, tally: Tally, threshold: float) -> str:
        """The sentence about a word without a voxel.

        Empty when it has some, or when the refusal has told already.
        """
        if tally.voxels or self.refused:
            return ""
        if self.reason:
            return f"Nothing was marked for {self.prompt.word!r}: {self.reason}."
        if self.marks:
            return (
                f"Nothing was marked for {self.prompt.word!r}: wherever it was found, another word was more "
                "probable."
            )
        return (
            f"Nothing was marked for {self.prompt.word!r}: no pixel was above the threshold of {threshold:g}."
        )


@dataclass(eq=False)
class _Run:
    """The computation of one request."""

    segmenter: Segmenter
    cache: FeatureCache
    chunk: int
    view: CutVolume
    threshold: float
    hints: Hints
    maps: frozenset[str]
    share: int  # batches and chunks are divided by it

    def compute(
        self, words: Sequence[_Word], report: Callable[[Progress], None] | None, cancel: CancelToken | None
    ) -> None:
        """Fill in presence, marks and maps of the words, window by window."""
        windows = list(dict.fromkeys(word.window_name for word in words))
        passes = 2 if self.segmenter.capabilities.presence else 1
        self.meter = ProgressMeter(
            len(windows) * passes * len(self.view.looked_at), len(words), report, cancel
        )
        for window in windows:
            mine = [word for word in words if word.window_name == window]
            if self.segmenter.capabilities.presence:
                self._look([word for word in mine if self.segmenter.judges_presence(word.prompt)])
            self._mark(mine)

    def features(self, word: _Word, cancel: CancelToken | None) -> Iterator[SliceFeatures]:
        """Of the slices that are looked at, under the word's window."""
        self.meter = ProgressMeter(len(self.view.looked_at), 1, None, cancel)
        for indices in self._chunks(self.view.looked_at):
            stored = self._features(indices, word)
            yield join_slices(
                [stored[index] for index in indices], self._keys(indices), self.segmenter.device
            )

    def _look(self, words: Sequence[_Word]) -> None:
        """Presence logit of every word in every slice, before anything is segmented.

        One word and a full batch of slices at a time, so that the shape does not depend on the number of
        words.
        """
        if not words:
            self.meter.skip(len(self.view.looked_at))
            return
        self.meter.stage = "looking at slices"
        size = self._rows(self.segmenter.preset.slice_batch)
        pairs = torch.stack([torch.arange(size), torch.zeros(size, dtype=torch.long)], dim=1).to(
            self.segmenter.device
        )
        for indices in self._chunks(self.view.looked_at):
            stored = self._features(indices, words[0])
            for batch in fixed_batches(indices, size=size, row=int):
                features = join_slices(
                    [stored[i] for i in batch.items], self._keys(batch.items), self.segmenter.device
                )
                for word in words:
                    logits = self.segmenter.presence(features, word.features, pairs)
                    if logits is None:
                        raise RuntimeError(
                            f"Model {self.segmenter.name!r} promises presence among its capabilities and "
                            "gives none."
                        )
                    values = logits.float().cpu()
                    for row in batch.wanted:
                        word.logits[batch.items[row]] = float(values[row])
            self.meter.advance(1.0)

    def _mark(self, words: Sequence[_Word]) -> None:
        """Segment the (slice, word) pairs that are worth it."""
        self.meter.stage = "marking"
        wanted = {word: self._wanted(word) for word in words}
        indices = [index for index in self.view.looked_at if any(index in wanted[word] for word in words)]
        self.meter.skip(len(self.view.looked_at) - len(indices))
        size = self._rows(self.segmenter.preset.pair_batch)
        for chunk in self._chunks(indices):
            stored = self._features(chunk, words[0])
            pairs = [(index, word) for index in chunk for word in words if index in wanted[word]]
            done = 0
            for batch in fixed_batches(
                pairs, size=size, row=lambda pair: pair_row(pair[0], pair[1].prompt.word)
            ):
                output = self._forward(batch.items, stored)
                for row in batch.wanted:
                    self._take(output, row, *batch.items[row])
                done += len(batch.wanted)
                self.meter.advance(done / len(pairs))

    def _wanted(self, word: _Word) -> frozenset[int]:
        """The slices in which to segment a word."""
        looked_at = frozenset(self.view.looked_at)
        if not self.segmenter.judges_presence(word.prompt):
            return looked_at
        seen = looked_at & self.hints.slices()  # by a person
        if not self._judge_presence(word):
            return seen
        worth = presence.worth_segmenting(word.logits, self.segmenter.preset.presence)
        return seen | looked_at & frozenset(np.flatnonzero(worth).tolist())

    def _judge_presence(self, word: _Word) -> bool:
        if presence.is_present(word.logits, word.prompt, self.segmenter.preset.presence):
            return True
        word.reason = f"it does not seem to be in this image (presence {word.presence:.2f})"
        return False

    def _chunks(self, indices: Sequence[int]) -> Iterator[Sequence[int]]:
        size = max(1, self.chunk // self.share)
        for start in range(0, len(indices), size):
            chunk = indices[start : start + size]
            self.meter.start_chunk(len(chunk))
            yield chunk

    def _rows(self, batch: int) -> int:
        """Rows of a batch: the preset's, but not more than the *volume* has slices, so that a picture is not
        computed many times over.

        It does not depend on the words or slices that were asked for, and so changes no number from request
        to request.
        """
        return min(max(1, batch // self.share), self.view.shape[0])

    def _keys(self, indices: Sequence[int]) -> list[SliceKey]:
        return [SliceKey(self.view.volume.digest, str(self.view.plane), index) for index in indices]

    def _features(self, indices: Sequence[int], like: _Word) -> dict[int, StoredSlice]:
        """Slice index -> features under the window of ``like``, from the cache or computed."""
        window = (
            like.window_name
            if like.window is None
            else f"{like.window_name} {like.window.level:g} {like.window.width:g}"
        )
        keys = [
            CacheKey(
                digest=key.digest,
                plane=key.plane,
                index=key.index,
                window=window,
                encoder=self.segmenter.fingerprint,
            )
            for key in self._keys(indices)
        ]
        found = self.cache.get_many(
            keys, lambda missing: self._encode([indices[i] for i in missing], like.window)
        )
        return dict(zip(indices, found, strict=True))

    def _encode(self, indices: Sequence[int], window: Window | None) -> list[StoredSlice]:
        pixels = torch.from_numpy(self.view.unit_range(indices, window))
        position = {index: i for i, index in enumerate(indices)}
        computed: dict[int, StoredSlice] = {}
        for batch in fixed_batches(indices, size=self._rows(self.segmenter.preset.slice_batch), row=int):
            self.meter.advance(0.9 * len(computed) / len(indices))
            rows = pixels[[position[index] for index in batch.items]].to(self.segmenter.device)
            features = self.segmenter.encode_slices(rows, self._keys(batch.items))
            computed |= {batch.items[row]: store_slice(features, row) for row in batch.wanted}
        return [computed[index] for index in indices]

    def _forward(self, pairs: Sequence[tuple[int, _Word]], stored: dict[int, StoredSlice]) -> SegmenterOutput:
        """One batch, row p is pair p: slices and words are repeated, so that all shapes are those of every
        other batch.
        """
        indices = [index for index, _ in pairs]
        features = join_slices(
            [stored[index] for index in indices], self._keys(indices), self.segmenter.device
        )
        rows = torch.arange(len(pairs), device=self.segmenter.device)
        words = join_prompts([word.features for _, word in pairs])
        output: SegmenterOutput = self.segmenter(
            features, words, torch.stack([rows, rows], dim=1), self.hints
        )
        return output

    def _take(self, output: SegmenterOutput, row: int, index: int, word: _Word) -> None:
        """Take one pair's maps to original pixels and keep what is marked there.

        One row at a time, so the shape is always the same.
        """
        logits = output.frame.to_original(output.logits[row : row + 1])[0]
        probability: Floats = logits.sigmoid().cpu().numpy()
        uncertainty = None
        if output.uncertainty is not None:
            uncertainty = output.frame.to_original(output.uncertainty[row : row + 1])[0].cpu().numpy()
        if output.presence is not None and not self.segmenter.capabilities.presence:
            word.logits[index] = float(output.presence[row])
        word.highest = max(word.highest, float(probability.max()))
        if (marks := Marks.above(probability, self.threshold, uncertainty)) is not None:
            word.marks[index] = marks
        for name in self.maps:
            self._map_of(word, name)[index] = self._one_map(name, output, row, probability, uncertainty)

    def _one_map(
        self, name: str, output: SegmenterOutput, row: int, probability: Floats, uncertainty: Floats | None
    ) -> Floats:
        if name == "probability":
            return probability
        if name == "uncertainty":
            return binary_entropy(probability) if uncertainty is None else uncertainty
        if output.attribution is None:
            raise RuntimeError(
                f"Model {self.segmenter.name!r} promises attribution among its capabilities and gives none."
            )
        return np.asarray(output.frame.to_original(output.attribution[row : row + 1])[0].cpu().numpy())

    def _map_of(self, word: _Word, name: str) -> Floats:
        if name not in word.maps:
            word.maps[name] = np.zeros(self.view.shape, dtype=np.float32)
        return word.maps[name]

    def answer(
        self, words: Sequence[_Word], warnings: Sequence[str], *, clean: bool, version: str
    ) -> Segmentation:
        """Everything that was found out, in the volume's own axes. warnings: sentences so far."""
        labels, tallies = self._settle(words, clean=clean)
        both = list(zip(words, tallies, strict=True))
        missing = [
            sentence for word, tally in both if (sentence := word.missing_because(tally, self.threshold))
        ]
        prompts = tuple(word.prompt for word in words)
        restack = self.view.slicing.restack
        return Segmentation(
            labels=restack(labels),
            names=LabelTable.from_prompts(prompts).names(),
            statistics={word.prompt.word: _statistics(word, tally, self.view.volume) for word, tally in both},
            not_found=[word.prompt.word for word, tally in both if not tally.voxels],
            warnings=[*warnings, *missing],
            model=self.segmenter.name,
            preset=self.segmenter.preset.name,
            version=version,
            window={word.prompt.word: word.window_name for word in words},
            plane=str(self.view.plane),
            geometry=self.view.volume.geometry,
            prompts=prompts,
            maps={
                name: {word.prompt.word: restack(word.maps[name]) for word in words}
                for name in sorted(self.maps)
            },
        )

    def _settle(self, words: Sequence[_Word], *, clean: bool) -> tuple[Labels, list[Tally]]:
        """Decide about each word by itself, then who gets which voxel.

        Labels [n, h, w] and a tally per word.
        """
        for word in words:
            told_late = not self.segmenter.capabilities.presence and not np.isnan(word.logits).all()
            if told_late and not self.hints.kinds() and not self._judge_presence(word):
                word.marks, word.maps = {}, {}
            for name in self.maps:
                self._map_of(word, name)
            if word.marks:
                self._tidy(word, clean=clean)
        return resolve([word.marks for word in words], self.view.shape)

    def _tidy(self, word: _Word, *, clean: bool) -> None:
        """Drop specks, then the whole word when what is left is too small to be trusted."""
        own = mask_of(word.marks, self.view.shape)
        if clean:
            own = drop_specks(own)
            word.marks = {
                index: left
                for index, marks in word.marks.items()
                if (left := marks.within(own[index])) is not None
            }
        areas = np.count_nonzero(own, axis=(1, 2))
        area = own.shape[1] * own.shape[2]
        if not self.hints.kinds() and not presence.is_large_enough(
            areas, area, self.segmenter.preset.presence
        ):
            word.marks = {}
            word.reason = (
                f"the largest spot covers {areas.max() / area:.2%} of a slice, too little to be trusted"
            )


def _statistics(word: _Word, tally: Tally, volume: Volume) -> WordStatistics:
    found = tally.voxels > 0
    return WordStatistics(
        presence=word.presence,
        voxels=tally.voxels,
        millilitres=None
        if volume.is_picture
        else tally.voxels * float(np.prod(volume.geometry.spacing)) / 1000,
        mean_probability=tally.probability / tally.voxels if found else None,
        mean_uncertainty=tally.uncertainty / tally.voxels if found else None,
        largest_slice=tally.largest_slice,
    )
