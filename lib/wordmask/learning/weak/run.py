"""Train nnU-Net on zero-shot masks and publish it.

Knows images, words, the teacher, the run folder and the store of versions; not HTTP, not MONAI Label. Nothing
is published before the very end. All slices train (nnU-Net's fold "all", as the paper): masks of a model are
no truth to be held out. Labelled cases are held out instead, whole patients at a time, and judge as users
would.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from torch import Tensor

from wordmask.errors import OutOfMemoryError, RequestError, WordMaskError
from wordmask.inference.memory import explain_out_of_memory
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.cases import Case, LabelledVolume, Study
from wordmask.learning.evaluation.validation import ValidationScore, validate
from wordmask.learning.publishing import Check, fill_card, publish_if_better
from wordmask.learning.training import CaseReport, Report, TrainingProgress, TrainingRequest
from wordmask.learning.weak.images import (
    UNCHECKED,
    StudyTraining,
    choose_words,
    join_words,
    refuse_unknown,
    split_studies,
)
from wordmask.learning.weak.nnunet_run import DATASET, RAW, Order, run_nnunet
from wordmask.learning.weak.pseudo_labels import SliceLabels, choose_slices, label_image
from wordmask.learning.weak.raw_dataset import write_raw_dataset
from wordmask.learning.weak.recipe import WeakRecipe
from wordmask.models.base import Segmenter
from wordmask.models.loading import choose_device, load_segmenter
from wordmask.models.medclip_samv2_weak.network import NetworkPlan, require_nnunet
from wordmask.models.medclip_samv2_weak.preset import MedCLIPSAMv2WeakPreset
from wordmask.models.registry import load_preset
from wordmask.progress import CancelToken
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import read_card, save_checkpoint
from wordmask.weights.versions import ModelStore
from wordmask.words.prompts import Prompt
from wordmask.words.vocabulary import opposite_word

logger = logging.getLogger(__name__)

MOST_WORDS = 254  # label values are bytes
LIBRARIES = ("torch", "nnunetv2", "dynamic_network_architectures")


class WeakTraining(StudyTraining[WeakRecipe]):
    """Training of nnU-Net on the masks that another model draws."""

    description = "Learn from zero-shot masks of all images, labelled or not"
    recipe = WeakRecipe
    takes_start = False

    def run(
        self,
        data: Sequence[Study],
        request: TrainingRequest[WeakRecipe],
        store: ModelStore,
        *,
        run_folder: Path,
        report: Report = lambda _: None,
        cancel: CancelToken | None = None,
    ) -> CaseReport:
        """Train, and publish when the mean Dice on held-out labelled cases is better than before.

        It must exceed that of the zero-shot masks and of the version in use. Without labelled cases the
        result is always published, because nothing can be checked. Without words, the words of the labels are
        learned. An image that cannot be read is reported and left out.

        Raises:
            BrokenEnvironmentError: nnU-Net is not installed.
            TrainingError: nnU-Net failed.
        """
        require_nnunet()
        began = time.monotonic()
        with explain_out_of_memory(
            "There is not enough memory for this training; use smaller images or a smaller preset."
        ):
            run = _WeakTraining(request, store, run_folder, report, cancel or CancelToken(), began)
            return run.run(data)


TRAINING = WeakTraining()


@dataclass
class _WeakTraining:
    request: TrainingRequest[WeakRecipe]
    store: ModelStore
    run_folder: Path
    report: Report
    cancel: CancelToken
    began: float
    skipped: list[str] = field(default_factory=list)

    def run(self, images: Sequence[Study]) -> CaseReport:
        recipe, words = self.request.recipe, choose_words(self.request.words, images)
        if len(words) > MOST_WORDS:
            raise RequestError(f"{len(words)} words were given; at most {MOST_WORDS} are learned together.")
        preset = cast(MedCLIPSAMv2WeakPreset, load_preset(self.request.model, self.request.preset))
        learned, judging = split_studies(images, recipe.validation, self.store)
        self.device = choose_device(self.request.device)
        self.teacher_version, weights = self._find_teacher_weights(preset)
        teacher = load_segmenter(preset.teacher, preset=preset.name, device=str(self.device), weights=weights)
        refuse_unknown(teacher, words, learned)
        labelled = self._label(learned, words, teacher)
        values = sorted({value for one in labelled for shown in one.slices.values() for value in shown})
        if not values:
            raise RequestError(
                f"None of these images has a mask of {join_words(words)}, "
                f"so there is nothing to learn from.{self._explain_skipped()}"
            )
        self.words = [words[value - 1].key for value in values]
        self._write(labelled, words, values, preset)
        order = Order(recipe=recipe, device=str(self.device), mirror=self._may_mirror(labelled))
        network, tensors = run_nnunet(self.run_folder, order, self._tell, self.cancel)
        card = self._make_card(network, tensors, labelled, words)
        save_checkpoint(self.run_folder / "candidate", tensors, card)
        return self._decide(teacher, tensors, card, self._read_judges(judging))

    def _find_teacher_weights(self, preset: MedCLIPSAMv2WeakPreset) -> tuple[int | None, Path | None]:
        """The teacher's version in use in the same app, if it is of this preset.

        A tuned CLIP then draws the masks, too.
        """
        store = ModelStore(self.store.path.parent / preset.teacher)
        number = store.served()
        if number is None or read_card(store.folder(number)).preset != preset.name:
            return None, None
        return number, store.folder(number)

    def _label(
        self, images: Sequence[Study], words: Sequence[Prompt], teacher: Segmenter
    ) -> list[SliceLabels]:
        pipeline = VolumeSegmenter(teacher)
        folder = self.run_folder / "labels"
        folder.mkdir(parents=True)
        labelled = []
        for number, image in enumerate(images):
            self._tell("drawing zero-shot masks", number, len(images))
            try:
                labelled.append(label_image(image, words, pipeline, folder / f"{number}.npz", self.cancel))
            except (OutOfMemoryError, RequestError):
                raise
            except WordMaskError as error:
                self.cancel.check()
                logger.warning("The image %s is left out: %s", image.name, error)
                self.skipped.append(f"{image.name}: {error}")
        return labelled

    def _write(
        self,
        labelled: Sequence[SliceLabels],
        words: Sequence[Prompt],
        values: Sequence[int],
        preset: MedCLIPSAMv2WeakPreset,
    ) -> None:
        recipe = self.request.recipe
        chosen = choose_slices(labelled, recipe.negatives, recipe.seed)
        write_raw_dataset(
            self.run_folder / RAW / DATASET,
            labelled,
            chosen,
            words,
            values,
            side=recipe.side,
            preset=preset,
            report=lambda done, total: self._tell("writing slices", done, total),
        )

    def _may_mirror(self, labelled: Sequence[SliceLabels]) -> bool:
        """Where up and down, left and right mean nothing."""
        sided = any(opposite_word(word) for word in self.words)
        return (
            self.request.recipe.mirror == "pictures" and not sided and all(one.is_picture for one in labelled)
        )

    def _read_judges(self, cases: Sequence[Case]) -> list[LabelledVolume]:
        """The held-out cases that name a word which was learned, with these words alone."""
        found = []
        for case in cases:
            try:
                read = case.read()
            except WordMaskError as error:
                self.skipped.append(f"{case.name}: {error}")
                continue
            masks = {word: mask for word, mask in read.masks.items() if word in self.words}
            if masks:
                found.append(replace(read, masks=masks))
        return found

    def _decide(
        self, teacher: Segmenter, tensors: dict[str, Tensor], card: Card, judges: list[LabelledVolume]
    ) -> CaseReport:
        """Publish a result that is better than all rivals, or one that cannot be judged."""
        rivals = self._measure_rivals(teacher, judges)
        rival = max(rivals, key=lambda name: rivals[name].mean)
        after, before = self._measure(self._load(self.run_folder / "candidate"), judges), rivals[rival]
        names = [case.case.name for case in judges]
        figures = (
            f"mean Dice {after.mean:.3f} against {before.mean:.3f} of {rival} on {len(judges)} labelled cases"
        )
        check = Check(after.mean, before.mean, figures) if judges else None
        measured = {
            "validation_cases": tuple(sorted(names)),
            "validation_dice": after.words(),
            "validation_dice_before": before.words(),
        }

        def write(folder: Path) -> None:
            save_checkpoint(folder, tensors, card.model_copy(update=measured))

        number, message = publish_if_better(
            self.store, check, write, self.cancel, force=self.request.force or not judges
        )
        if not judges:
            message += UNCHECKED
        return CaseReport(
            version=number,
            parent=None,
            message=message,
            mean=after.mean if judges else None,
            mean_before=before.mean if judges else None,
            dice=after.words(),
            dice_before=before.words(),
            epochs=self.request.recipe.epochs,
            seconds=round(time.monotonic() - self.began, 1),
            training_cases=list(card.training_cases),
            validation_cases=names,
            skipped=self.skipped,
        )

    def _measure_rivals(
        self, teacher: Segmenter, judges: Sequence[LabelledVolume]
    ) -> dict[str, ValidationScore]:
        """Scores of what has to be beaten, by its name for people."""
        found = {"the zero-shot masks": self._measure(teacher, judges)}
        serving = self.store.served()
        if serving is not None and judges:
            found[f"version {serving}"] = self._measure(self._load(self.store.folder(serving)), judges)
        return found

    def _measure(self, segmenter: Segmenter, judges: Sequence[LabelledVolume]) -> ValidationScore:
        self._tell("measuring the result")
        return validate(segmenter, judges, cancel=self.cancel)

    def _load(self, folder: Path) -> Segmenter:
        return load_segmenter(
            self.request.model, preset=self.request.preset, device=str(self.device), weights=folder
        )

    def _make_card(
        self,
        network: NetworkPlan,
        tensors: dict[str, Tensor],
        labelled: Sequence[SliceLabels],
        words: Sequence[Prompt],
    ) -> Card:
        recipe = self.request.recipe
        return fill_card(
            model=self.request.model,
            preset=self.request.preset,
            parent=None,
            recipe=recipe,
            forced=self.request.force,
            libraries=LIBRARIES,
            title="nnU-Net on zero-shot masks",
            teacher_version=self.teacher_version,
            words=self.words,
            never_found=sorted({prompt.key for prompt in words} - {*self.words}),
            network=network.model_dump(mode="json"),
            side=recipe.side,
            members=1 + max(int(name.split(".")[1]) for name in tensors),
            threshold=recipe.threshold,
            training_cases=sorted(one.image.name for one in labelled),
            validation_cases=(),
            labelled_by_a_person=sorted(one.image.name for one in labelled if one.image.case),
        )

    def _explain_skipped(self) -> str:
        return f" {len(self.skipped)} could not be read; the first: {self.skipped[0]}" if self.skipped else ""

    def _tell(self, stage: str, done: int = 0, total: int = 0, loss: float | None = None) -> None:
        self.report(
            TrainingProgress(stage, done, total, loss, seconds=round(time.monotonic() - self.began, 1))
        )
