"""Teach a model words with its own zero-shot masks of unlabelled images, and publish what got better.

The masks become the labels, and a committee learns what they have in common. Labelled cases judge it. Knows
images, recipes and the store of versions; not HTTP, not MONAI Label.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from wordmask.errors import OutOfMemoryError, RequestError, WordMaskError
from wordmask.inference.cache import FeatureCache
from wordmask.inference.memory import explain_out_of_memory
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.cases import Case, LabelledVolume, Study
from wordmask.learning.earlier_cases import earlier_cases
from wordmask.learning.recipes import TeachingRecipe, ZeroShotRecipe
from wordmask.learning.teaching.run import CACHE_BYTES, TeachingRun
from wordmask.learning.training import CaseReport, Report, TrainingRequest
from wordmask.learning.weak.images import (
    UNCHECKED,
    StudyTraining,
    choose_words,
    join_words,
    refuse_unknown,
    split_studies,
)
from wordmask.models.loading import choose_device
from wordmask.models.taught.segmenter import TaughtSegmenter
from wordmask.progress import CancelToken
from wordmask.weights.versions import ModelStore
from wordmask.words.prompts import Prompt

logger = logging.getLogger(__name__)


class ZeroShotTraining(StudyTraining[TeachingRecipe]):
    """Training of a committee on the masks that the model itself draws."""

    description = "Learn from zero-shot masks of all images, labelled or not, without nnU-Net"
    recipe = ZeroShotRecipe

    def run(
        self,
        data: Sequence[Study],
        request: TrainingRequest[TeachingRecipe],
        store: ModelStore,
        *,
        run_folder: Path,
        report: Report = lambda _: None,
        cancel: CancelToken | None = None,
    ) -> CaseReport:
        """Teach, and publish when the Dice on held-out labelled cases is better than before.

        It must exceed that of the zero-shot masks and of the version in use. Without labelled cases the
        result is always published, because nothing can be checked. Without words, the words of the labels are
        learned. An image that cannot be read is reported and left out.
        """
        with explain_out_of_memory(
            "There is not enough memory for this training; use fewer images, or fewer slices per step "
            f"(batch is {request.recipe.batch})."
        ):
            return _ZeroShotRun(request, store, run_folder, report, cancel or CancelToken()).learn(data)


@dataclass
class _ZeroShotRun(TeachingRun):
    def learn(self, given: Sequence[Study]) -> CaseReport:
        recipe, words = self.request.recipe, choose_words(self.request.words, given)
        start = self.open_start(taught=True)
        images, judging = split_studies(given, recipe.held_out, self.store)
        device = choose_device(self.request.device)
        base = self._load_base(start, device)
        refuse_unknown(base, words, images)
        repeated = self.read(earlier_cases(start, {image.name for image in given}))
        self._refuse_to_forget(words, repeated)
        before = self.parent_card.committee
        known = frozenset(before.held_out if before else ())
        self.held = known | {case.name for case in judging}
        held = self._with_words(self.read(judging), words)
        learned = self._label(images, words, VolumeSegmenter(base))
        if not any(case.shows_anything for case in learned):
            raise RequestError(
                f"None of these images has a mask of {join_words(words)}, "
                f"so there is nothing to learn from.{self.explain_skipped()}"
            )
        labelled = [image.case for image in images if image.case]
        self.cases = [*labelled, *judging, *(case.case for case in repeated)]
        self.images = [case.case.name for case in learned]
        judges, cache = [case for case in held if case.shows_anything], FeatureCache(CACHE_BYTES)
        rivals = {"the zero-shot masks": self._measure(base, judges, cache)}
        if (served := self.store.served()) is not None:
            rivals[f"version {served}"] = self._measure_in_use(base, judges, cache)
        rival = max(rivals, key=lambda name: rivals[name].mean if judges else 0.0)
        self.mean_before = rivals[rival].mean if judges else None
        torch.manual_seed(recipe.seed)
        # The frozen model does not vote: it made the labels, so that it would only repeat its errors.
        committee = self._start_committee(base, start, [*learned, *repeated], {}).to(device)
        self._fit(committee, base, [*learned, *repeated], {word.key for word in words}, device)
        segmenter = TaughtSegmenter(base, committee).eval().requires_grad_(False)
        self.tell("measuring the result")
        self._limit_presence(segmenter, learned, held, cache)
        after = self._measure(segmenter, judges, cache)
        self._weigh(committee, after, [*learned, *repeated], {})
        force = self.request.force or not judges
        report = self._decide(committee, start, (rival, rivals[rival]), after, held, force=force)
        return report if judges else replace(report, message=report.message + UNCHECKED)

    def _refuse_to_forget(self, words: Sequence[Prompt], repeated: Sequence[LabelledVolume]) -> None:
        """Raise RequestError when words of the version to start from are neither learned nor repeated."""
        before = self.parent_card.committee
        kept = {word.key for word in words} | {p.key for case in repeated for p in case.prompts.values()}
        lost = sorted(set(before.words) - kept) if before else []
        if lost:
            raise RequestError(
                f"Version {self.parent} would forget {', '.join(map(repr, lost))}, of which there are no "
                "labelled cases to repeat; name these words, too, or start from 0."
            )

    def _with_words(self, cases: Sequence[LabelledVolume], words: Sequence[Prompt]) -> list[LabelledVolume]:
        """The cases that name a word which is learned, with these words alone."""
        keys = {word.key for word in words}
        found = []
        for case in cases:
            masks = {word: mask for word, mask in case.masks.items() if word in keys}
            if masks:
                found.append(replace(case, masks=masks))
        return found

    def _label(
        self, images: Sequence[Study], words: Sequence[Prompt], teacher: VolumeSegmenter
    ) -> list[LabelledVolume]:
        """The images with zero-shot masks, or with a person's labels where there are any."""
        found = []
        for number, image in enumerate(images):
            self.tell("drawing zero-shot masks", number, len(images))
            try:
                known = image.case.read() if image.case else None
                volume = known.volume if known else image.read()
                drawn = known.masks if known else {}
                masks = {word.key: drawn[word.key] for word in words if word.key in drawn}
                if asked := [word for word in words if word.key not in masks]:
                    answer = teacher.segment(volume, asked, cancel=self.cancel)
                    masks |= {word.key: answer.mask(word.word) for word in asked}
            except (OutOfMemoryError, RequestError):
                raise
            except WordMaskError as error:
                self.cancel.check()
                logger.warning("The image %s is left out: %s", image.name, error)
                self.skipped.append(f"{image.name}: {error}")
                continue
            # There is not a file of these masks, and none is read again.
            case = Case(image.name, image.path, image.path, dict.fromkeys(masks, ()), image.patient)
            found.append(LabelledVolume(case, volume, masks))
        return found


TRAINING = ZeroShotTraining()
