"""(slice, word) pairs of labelled cases, with the features of every slice computed once per view.

Knows cases, views and the segmenter contract; not losses, not what is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from wordmask.data.geometry import Plane
from wordmask.data.letterbox import Letterbox
from wordmask.inference.batching import StoredSlice, store_slice
from wordmask.inference.cache import CacheKey, FeatureCache
from wordmask.learning.cases import LabelledVolume
from wordmask.learning.recipes import FineTuningRecipe
from wordmask.learning.seeds import step_generator
from wordmask.learning.shown import ShownSlices, slices_worth_learning
from wordmask.learning.views import View, make_view
from wordmask.models.base import Segmenter, SliceKey
from wordmask.progress import CancelToken

REPEATED_VIEWS = 2  # of a slice that only repeats old words


@dataclass(frozen=True)
class Pair:
    """One word in one slice.

    Attributes:
        image: number of the slice among all that were kept.
        word: what is asked for.
        present: whether the slice has a voxel of it.
    """

    image: int
    word: str
    present: bool


@dataclass(eq=False)
class KeptImage:
    """One slice through one window in all its views.

    Attributes:
        targets: by view, word -> [s, s] uint8, 255 where the word is.
    """

    case: str
    size: tuple[int, int]
    keys: list[SliceKey] = field(default_factory=list)
    cache_keys: list[CacheKey] = field(default_factory=list)
    pixels: list[Tensor] = field(default_factory=list)  # [3, H, W] uint8
    targets: list[dict[str, Tensor]] = field(default_factory=list)


@dataclass
class PairRow:
    """What a training step gets of one pair.

    Attributes:
        features: computed by the encoders as they were at the start.
        pixels: [3, H, W] in 0..1.
        target: [s, s] in 0..1, over the whole square that the model's logits cover.
    """

    key: SliceKey
    features: StoredSlice
    pixels: Tensor
    word: str
    target: Tensor
    """[s, s] in 0..1, over the whole square that the model's logits cover."""


class TrainingPairs:
    """All pairs of the training cases.

    A trainee whose encoders learn computes the features that they change from the pixels.

    Args:
        cases: what to learn from.
        segmenter: the model, for the features.
        recipe: how.
        cache: where features are kept, within its bounds; dropped ones are computed again.
        frame_of: size of a slice -> the frame whose pixels are those of the model's logits.
        replayed: cases of words that were learned before, grouped by where they come from. Every epoch
            repeats some of each group, and each group as often as every other, so that a word of one's own is
            not lost among all those that the weights ship with.
        cancel: its ``cancel()`` ends the reading with CancelledError.

    Raises:
        RequestError: no slice of any case shows a word.
    """

    def __init__(
        self,
        cases: Sequence[LabelledVolume],
        segmenter: Segmenter,
        recipe: FineTuningRecipe,
        cache: FeatureCache,
        *,
        frame_of: Callable[[tuple[int, int]], Letterbox],
        replayed: Sequence[Sequence[LabelledVolume]] = (),
        cancel: CancelToken | None = None,
    ) -> None:
        self.segmenter, self.recipe, self.cache = segmenter, recipe, cache
        self._frame_of = frame_of
        self.images: list[KeptImage] = []
        self.pairs: list[Pair] = []
        self._add(cases, recipe.views_of_each, cancel)
        self.present, self.absent = self._sides(range(len(self.pairs)))
        self.replayed = [self._add_repeated(source, cancel) for source in replayed if source]

    def _add_repeated(
        self, cases: Sequence[LabelledVolume], cancel: CancelToken | None
    ) -> dict[str, tuple[list[int], list[int]]]:
        """Word -> numbers of the pairs that show it, and of those that do not."""
        first = len(self.pairs)
        self._add(cases, lambda _: min(REPEATED_VIEWS, self.recipe.views), cancel)
        added = range(first, len(self.pairs))
        words = sorted({self.pairs[number].word for number in added})
        return {
            word: self._sides(number for number in added if self.pairs[number].word == word) for word in words
        }

    def _sides(self, numbers: Iterable[int]) -> tuple[list[int], list[int]]:
        present: list[int] = []
        absent: list[int] = []
        for number in numbers:
            (present if self.pairs[number].present else absent).append(number)
        return present, absent

    @property
    def words(self) -> list[str]:
        """Every word of the cases, in alphabetical order."""
        return sorted({pair.word for pair in self.pairs})

    def views_of(self, number: int) -> int:
        """How many views the slice of pair ``number`` has."""
        return len(self.images[self.pairs[number].image].keys)

    def encode(self, progress: Callable[[int, int], None], cancel: CancelToken | None = None) -> None:
        """Compute the features of every view now instead of during the first epoch.

        Args:
            progress: called with the slices that are done and their number.
            cancel: its ``cancel()`` ends the work with CancelledError.
        """
        for done, image in enumerate(self.images):
            if cancel is not None:
                cancel.check()
            progress(done, len(self.images))
            self._features(image, range(len(image.keys)))
        progress(len(self.images), len(self.images))

    def row(self, number: int, view: int) -> PairRow:
        """Pair ``number`` in one of its slice's views.

        A word that has no place in that view is shown in the slice itself.
        """
        pair = self.pairs[number]
        image = self.images[pair.image]
        view = view if pair.word in image.targets[view] else 0
        features = self._features(image, [view])[0]
        pixels, target = image.pixels[view].float() / 255, image.targets[view][pair.word].float() / 255
        return PairRow(image.keys[view], features, pixels, pair.word, target)

    def _features(self, image: KeptImage, views: Sequence[int]) -> list[StoredSlice]:
        return self.cache.get_many(
            [image.cache_keys[v] for v in views],
            lambda missing: self._encode(image, [views[i] for i in missing]),
        )

    @torch.no_grad()
    def _encode(self, image: KeptImage, views: Sequence[int]) -> list[StoredSlice]:
        stored = []
        for view in views:  # one at a time: turned views of a rectangle have another shape
            pixels = (image.pixels[view].float() / 255)[None].to(self.segmenter.device)
            stored.append(store_slice(self.segmenter.encode_slices(pixels, [image.keys[view]]), 0))
        return stored

    def _add(
        self, cases: Sequence[LabelledVolume], views_of: Callable[[int], int], cancel: CancelToken | None
    ) -> None:
        shown = [one for case in cases for one in slices_worth_learning(case, self.segmenter.preset)]
        views = views_of(sum(len(one.indices) for one in shown))
        for one in shown:
            if cancel is not None:
                cancel.check()
            for index in one.indices:
                self._add_slice(one, index, views)

    def _add_slice(self, shown: ShownSlices, index: int, views: int) -> None:
        volume, masks = shown.case.volume, {word: mask[index] for word, mask in shown.masks.items()}
        pixels = torch.from_numpy(shown.view.unit_range([index], shown.window[1])[0])
        tensors = {word: torch.from_numpy(np.ascontiguousarray(mask)).float() for word, mask in masks.items()}
        kept = KeptImage(shown.case.case.name, (pixels.shape[-2], pixels.shape[-1]))
        mirror = self.recipe.mirror == "always" or (self.recipe.mirror == "pictures" and volume.is_picture)
        # In a sagittal slice a mirror would exchange front and back.
        mirror = mirror and (volume.is_picture or shown.view.plane is not Plane.SAGITTAL)
        for number in range(views):
            key = f"{self.recipe.seed}|{volume.digest}|{index}"
            self._add_view(
                kept, make_view(pixels, tensors, key=key, number=number, mirror=mirror), shown, index, number
            )
        self.images.append(kept)
        self.pairs += [Pair(len(self.images) - 1, word, bool(mask.any())) for word, mask in masks.items()]

    def _add_view(self, kept: KeptImage, made: View, shown: ShownSlices, index: int, number: int) -> None:
        frame = self._frame_of((made.image.shape[-2], made.image.shape[-1]))
        digest, plane = shown.case.volume.digest, str(shown.view.plane)
        called = f"{shown.window[0]} view {number} seed {self.recipe.seed}"
        kept.keys.append(SliceKey(digest, f"{plane} {called}", index))
        kept.cache_keys.append(CacheKey(digest, plane, index, called, self.segmenter.fingerprint))
        kept.pixels.append((made.image * 255).round().to(torch.uint8))
        kept.targets.append(
            {
                w: (frame.to_model(m[None, None])[0, 0] * 255).round().to(torch.uint8)
                for w, m in made.masks.items()
            }
        )


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (pair, view) of one epoch after another; the same seed gives the same epochs.

    Every pair that shows its word comes once, in a random view, with as many absent ones as make the recipe's
    share, and as many of words that were learned before as make the share of ``replay``: each source as often
    as every other, and in it each word.
    """

    def __init__(self, data: TrainingPairs, recipe: FineTuningRecipe) -> None:
        self.data, self.recipe, self.epoch = data, recipe, 0

    def __len__(self) -> int:
        return self.recipe.steps_per_epoch or math.ceil(self._pairs() / self.recipe.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = step_generator(self.recipe.seed, self.epoch)
        self.epoch += 1
        chosen: list[int] = []
        while len(chosen) < len(self) * self.recipe.batch:
            chosen += self._round(generator)
        draws = torch.rand(len(chosen), generator=generator).tolist()
        rows = [
            (number, int(draw * self.data.views_of(number)))
            for number, draw in zip(chosen, draws, strict=True)
        ]
        for step in range(len(self)):
            yield rows[step * self.recipe.batch : (step + 1) * self.recipe.batch]

    def _pairs(self) -> int:
        return len(self.data.present) + self._negatives() + self._repeats()

    def _repeats(self) -> int:
        share = self.recipe.replay if any(self.data.replayed) else 0.0
        return round((len(self.data.present) + self._negatives()) * share / (1 - share))

    def _negatives(self) -> int:
        if not self.data.absent:
            return 0
        return round(len(self.data.present) * self.recipe.negatives / (1 - self.recipe.negatives))

    def _round(self, generator: torch.Generator) -> list[int]:
        picks = torch.randint(
            max(1, len(self.data.absent)), (self._negatives(),), generator=generator
        ).tolist()
        chosen = (
            self.data.present + [self.data.absent[pick] for pick in picks] + self._choose_repeated(generator)
        )
        return [chosen[place] for place in torch.randperm(len(chosen), generator=generator).tolist()]

    def _choose_repeated(self, generator: torch.Generator) -> list[int]:
        sources = [list(words.values()) for words in self.data.replayed if words]
        chosen = []
        for source, word, absence, place in torch.rand(self._repeats(), 4, generator=generator).tolist():
            words = sources[int(source * len(sources))]
            present, absent = words[int(word * len(words))]
            side = absent if absent and (not present or absence < self.recipe.negatives) else present
            chosen.append(side[int(place * len(side))])
        return chosen
