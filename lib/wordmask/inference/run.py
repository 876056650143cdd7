"""The computation of one request: presence, masks and maps of each word, then one label map.

The only place that maps model pixels back to original pixels. Knows slices, words, the cache and the
segmenter contract; not files, not the server, not any particular model. Chunk size, cache and which other
words or slices are asked for change the speed, never a probability (batching.py explains how).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

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
from wordmask.inference.doubt import doubtful_pixels
from wordmask.inference.overlaps import Labels, Marks, Tally, binary_entropy, mask_of, resolve
from wordmask.inference.request import CutVolume
from wordmask.inference.result import Segmentation
from wordmask.inference.specks import drop_specks
from wordmask.inference.word import Floats, Word
from wordmask.models.base import Hints, Segmenter, SegmenterOutput, SliceKey
from wordmask.progress import CancelToken, Progress, ProgressMeter
from wordmask.words.labels import LabelTable


@dataclass(frozen=True)
class RunSettings:
    """What a request asks of its run.

    Attributes:
        threshold: 0..1, probability above which a pixel belongs to a word.
        hints: what a person marked, along the slicing plane.
        maps: names of the maps to keep besides the labels.
        chunk: slices whose features are held in memory at a time.
        share: batches and chunks are divided by it, when the memory ran out.
        one_by_one: whether pairs are computed alone, because a person waits for one of them. Then the last
            bits may differ from those of a batch.
    """

    threshold: float
    hints: Hints = field(default_factory=Hints)
    maps: frozenset[str] = frozenset()
    chunk: int = 1
    share: int = 1
    one_by_one: bool = False


class Run:
    """The computation of one request.

    Args:
        segmenter: the model.
        cache: of the features of slices.
        view: the volume, cut into slices.
        words: all words of the request; refused ones cost no computation.
        settings: of the request.
        report: called after every batch.
        cancel: its ``cancel()`` ends the work with CancelledError.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        cache: FeatureCache,
        view: CutVolume,
        words: Sequence[Word],
        settings: RunSettings,
        *,
        report: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self.segmenter, self.cache, self.view, self.words = segmenter, cache, view, words
        self.threshold, self.hints, self.maps = settings.threshold, settings.hints, settings.maps
        self.chunk, self.share, self.one_by_one = settings.chunk, settings.share, settings.one_by_one
        self._computed = [word for word in words if not word.refused]
        self._groups: dict[tuple[str, Segmenter], list[Word]] = {}
        for word in self._computed:
            self._groups.setdefault((word.window_name, word.segmenter), []).append(word)
        passes = sum(2 if one.capabilities.presence else 1 for _, one in self._groups)
        self._meter = ProgressMeter(passes * len(view.looked_at), len(self._computed), report, cancel)

    def compute(self) -> None:
        """Fill in presence, marks and maps of the words, by window and by the segmenter that answers."""
        for (_, segmenter), mine in self._groups.items():
            if segmenter.capabilities.presence:
                self._score_presence(
                    segmenter, [word for word in mine if segmenter.judges_presence(word.prompt)]
                )
            self._mark(segmenter, mine)

    def encode(self) -> None:
        """Compute the features of all slices that are looked at, and no more, so that the cache has them."""
        for mine in self._groups.values():
            for indices in self._chunks(self.view.looked_at):
                self._features(indices, mine[0])

    def _score_presence(self, segmenter: Segmenter, words: Sequence[Word]) -> None:
        """Compute the presence logit of every word in every slice, before anything is segmented.

        One word and a full batch of slices at a time, so that shapes do not depend on the number of words.
        """
        if not words:
            self._meter.skip(len(self.view.looked_at))
            return
        self._meter.stage = "looking at slices"
        size = self._rows(segmenter.preset.slice_batch)
        pairs = torch.stack([torch.arange(size), torch.zeros(size, dtype=torch.long)], dim=1).to(
            segmenter.device
        )
        for indices in self._chunks(self.view.looked_at):
            stored = self._features(indices, words[0])
            for batch in fixed_batches(indices, size=size, row=int):
                features = join_slices(
                    [stored[i] for i in batch.items], self._keys(batch.items), segmenter.device
                )
                for word in words:
                    logits = segmenter.presence(features, word.features, pairs)
                    if logits is None:
                        raise RuntimeError(
                            f"Model {segmenter.name!r} declares presence among its capabilities, "
                            "but returns none."
                        )
                    values = logits.float().cpu()
                    for row in batch.wanted:
                        word.logits[batch.items[row]] = float(values[row])
            self._meter.advance(1.0)

    def _mark(self, segmenter: Segmenter, words: Sequence[Word]) -> None:
        """Segment the (slice, word) pairs that are worth it."""
        self._meter.stage = "marking"
        wanted = {word: self._choose_slices(word) for word in words}
        indices = [index for index in self.view.looked_at if any(index in wanted[word] for word in words)]
        self._meter.skip(len(self.view.looked_at) - len(indices))
        size = 1 if self.one_by_one else self._rows(segmenter.preset.pair_batch)
        for chunk in self._chunks(indices):
            stored = self._features(chunk, words[0])
            pairs = [(index, word) for index in chunk for word in words if index in wanted[word]]
            done = 0
            for batch in fixed_batches(
                pairs, size=size, row=lambda pair: pair_row(pair[0], pair[1].prompt.word)
            ):
                output = self._forward(segmenter, batch.items, stored)
                for row in batch.wanted:
                    self._take(output, row, *batch.items[row])
                done += len(batch.wanted)
                self._meter.advance(done / len(pairs))

    def _choose_slices(self, word: Word) -> frozenset[int]:
        """The slices in which to segment a word."""
        looked_at = frozenset(self.view.looked_at)
        if not word.segmenter.judges_presence(word.prompt):
            return looked_at
        hinted = looked_at & self.hints.slices()
        if not self._judge_presence(word):
            return hinted
        worth = presence.worth_segmenting(word.logits, word.segmenter.preset.presence)
        return hinted | looked_at & frozenset(np.flatnonzero(worth).tolist())

    def _judge_presence(self, word: Word) -> bool:
        if presence.is_present(word.logits, word.prompt, word.segmenter.preset.presence):
            return True
        word.reason = f"it does not seem to be in this image (presence {word.presence:.2f})"
        return False

    def _chunks(self, indices: Sequence[int]) -> Iterator[Sequence[int]]:
        size = max(1, self.chunk // self.share)
        for start in range(0, len(indices), size):
            chunk = indices[start : start + size]
            self._meter.start_chunk(len(chunk))
            yield chunk

    def _rows(self, batch: int) -> int:
        """Rows of a batch: the preset's, but at most as many as the *volume* has slices.

        So a picture is not computed many times over. The number does not depend on the words or slices that
        were asked for, so it never changes a result from request to request.
        """
        return min(max(1, batch // self.share), self.view.shape[0])

    def _keys(self, indices: Sequence[int]) -> list[SliceKey]:
        return [SliceKey(self.view.volume.digest, str(self.view.plane), index) for index in indices]

    def _features(self, indices: Sequence[int], like: Word) -> dict[int, StoredSlice]:
        """Slice index -> features under the window of the word ``like``, from the cache or computed."""
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
                encoder=like.segmenter.fingerprint,
            )
            for key in self._keys(indices)
        ]
        found = self.cache.get_many(keys, lambda missing: self._encode([indices[i] for i in missing], like))
        return dict(zip(indices, found, strict=True))

    def _encode(self, indices: Sequence[int], like: Word) -> list[StoredSlice]:
        segmenter = like.segmenter
        cut = self.view.with_neighbours if segmenter.sees_neighbours else self.view.unit_range
        pixels = torch.from_numpy(cut(indices, like.window))
        position = {index: i for i, index in enumerate(indices)}
        computed: dict[int, StoredSlice] = {}
        for batch in fixed_batches(indices, size=self._rows(segmenter.preset.slice_batch), row=int):
            self._meter.advance(0.9 * len(computed) / len(indices))
            rows = pixels[[position[index] for index in batch.items]].to(segmenter.device)
            features = segmenter.encode_slices(rows, self._keys(batch.items))
            computed |= {batch.items[row]: store_slice(features, row) for row in batch.wanted}
        return [computed[index] for index in indices]

    def _forward(
        self, segmenter: Segmenter, pairs: Sequence[tuple[int, Word]], stored: dict[int, StoredSlice]
    ) -> SegmenterOutput:
        """Run the model on one batch, row p for pair p.

        Slices and words are repeated, so that every batch has the same shapes.
        """
        indices = [index for index, _ in pairs]
        features = join_slices([stored[index] for index in indices], self._keys(indices), segmenter.device)
        rows = torch.arange(len(pairs), device=segmenter.device)
        words = join_prompts([word.features for _, word in pairs])
        output: SegmenterOutput = segmenter(features, words, torch.stack([rows, rows], dim=1), self.hints)
        return output

    def _take(self, output: SegmenterOutput, row: int, index: int, word: Word) -> None:
        """Map one pair's output back to original pixels and keep what is marked there.

        One row at a time, so that the shape is always the same.
        """
        logits = output.frame.to_original(output.logits[row : row + 1])[0]
        probability = self._inside(logits.sigmoid().cpu().numpy())
        uncertainty = None
        if output.uncertainty is not None:
            uncertainty = self._inside(
                output.frame.to_original(output.uncertainty[row : row + 1])[0].cpu().numpy()
            )
        if output.presence is not None and not word.segmenter.capabilities.presence:
            word.logits[index] = float(output.presence[row])
        word.doubt[index] = doubtful_pixels(probability, uncertainty)
        word.highest = max(word.highest, float(probability.max()))
        if (marks := Marks.above(probability, self.threshold, uncertainty)) is not None:
            word.marks[index] = marks
        for name in self.maps:
            self._map_of(word, name)[index] = self._one_map(name, output, row, probability, uncertainty)

    def _inside(self, values: Floats) -> Floats:
        """Values [h, w] of a slice, 0 outside of the region of interest."""
        region = self.view.region
        return values if region is None else np.where(region.inside, values, np.float32(0))

    def _one_map(
        self, name: str, output: SegmenterOutput, row: int, probability: Floats, uncertainty: Floats | None
    ) -> Floats:
        if name == "probability":
            return probability
        if name == "uncertainty":
            return binary_entropy(probability) if uncertainty is None else uncertainty
        if output.attribution is None:
            raise RuntimeError(
                f"Model {self.segmenter.name!r} declares attribution among its capabilities, but returns "
                "none."
            )
        attribution: Floats = output.frame.to_original(output.attribution[row : row + 1])[0].cpu().numpy()
        return self._inside(attribution)

    def _map_of(self, word: Word, name: str) -> Floats:
        if name not in word.maps:
            word.maps[name] = np.zeros(self.view.shape, dtype=np.float32)
        return word.maps[name]

    def result(self, warnings: Sequence[str], *, clean: bool, version: str) -> Segmentation:
        """Put together what was computed, in the volume's own axes.

        Args:
            warnings: sentences about the request so far.
            clean: whether specks are removed in three dimensions.
            version: of the weights.
        """
        words = self.words
        prompts = tuple(word.prompt for word in words)
        table = LabelTable.from_prompts(prompts)
        labels, tallies = self._settle(table, clean=clean)
        both = list(zip(words, tallies, strict=True))
        missing = [
            sentence for word, tally in both if (sentence := word.explain_absence(tally, self.threshold))
        ]
        restack = self.view.slicing.restack
        return Segmentation(
            labels=restack(labels),
            names=table.names(),
            statistics={word.prompt.word: word.statistics(tally, self.view.volume) for word, tally in both},
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

    def _settle(self, table: LabelTable, *, clean: bool) -> tuple[Labels, list[Tally]]:
        """Decide about each word by itself, then which word gets which voxel.

        Returns:
            Labels [n, h, w] with the values of ``table``, and a tally per word.
        """
        for word in self.words:
            judged_late = not word.segmenter.capabilities.presence and not np.isnan(word.logits).all()
            if judged_late and not self.hints.kinds() and not self._judge_presence(word):
                word.marks, word.maps, word.doubt = {}, {}, {}
            for name in self.maps:
                self._map_of(word, name)
            if word.marks:
                self._tidy(word, clean=clean)
        claims = [(label.value, word.marks) for label, word in zip(table, self.words, strict=True)]
        return resolve(claims, self.view.shape)

    def _tidy(self, word: Word, *, clean: bool) -> None:
        """Remove specks, then the whole word when the rest is too small to be trusted."""
        own = mask_of(word.marks, self.view.shape)
        if clean:
            own = drop_specks(own)
            word.marks = {
                index: left
                for index, marks in word.marks.items()
                if (left := marks.within(own[index])) is not None
            }
        areas = np.count_nonzero(own, axis=(1, 2))
        region = self.view.region
        area = own.shape[1] * own.shape[2] if region is None else int(np.count_nonzero(region.inside))
        if not self.hints.kinds() and not presence.is_large_enough(
            areas, area, word.segmenter.preset.presence
        ):
            word.marks = {}
            word.reason = (
                f"the largest spot covers {areas.max() / area:.2%} of a slice, too little to be trusted"
            )
