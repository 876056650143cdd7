"""Train a model on labelled cases and publish it when it got better.

Knows cases, trainees, recipes and the store of versions; not HTTP, not MONAI Label. Several processes may
call `FineTuning.run` with the same arguments, each with its own device and run folder (`finetuning.ranks`):
the first one validates and publishes, and all return its report.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from wordmask.errors import RequestError, WordMaskError
from wordmask.inference.cache import FeatureCache
from wordmask.inference.memory import explain_out_of_memory
from wordmask.learning.cases import Case, LabelledVolume, Study, read_cases
from wordmask.learning.evaluation.validation import ValidationScore, validate
from wordmask.learning.finetuning.engine import Epoch, run_epochs
from wordmask.learning.finetuning.pairs import TrainingPairs
from wordmask.learning.finetuning.ranks import Ranks
from wordmask.learning.finetuning.replay import (
    CHECK_SEED,
    REPEAT_SEED,
    earlier_cases,
    phantom_cases,
    write_cases,
)
from wordmask.learning.finetuning.trainee import Trainee
from wordmask.learning.publishing import Check, fill_card, find_start, publish_if_better
from wordmask.learning.recipes import Recipe
from wordmask.learning.splitting import split_cases
from wordmask.learning.training import CaseReport, Report, Training, TrainingProgress, TrainingRequest
from wordmask.models.loading import choose_device, load_segmenter
from wordmask.models.registry import load_preset
from wordmask.progress import CancelToken
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import checkpoint_folder, read_card, save_checkpoint
from wordmask.weights.versions import ModelStore, weights_digest

logger = logging.getLogger(__name__)

CACHE_BYTES = 4 << 30
CHECK_SHARE = 0.4  # of the phantoms that are repeated: so many check what became of the bundled words
LIBRARIES = ("torch", "monai", "open_clip_torch", "peft")


class FineTuning(Training[Recipe]):
    """Training of one model on labelled cases."""

    description = "Learn from the submitted labels"
    recipe = Recipe
    uses_devices = True

    def __init__(self, trainee: type[Trainee]) -> None:
        self.trainee = trainee

    def read_data(
        self, path: Path, request: TrainingRequest[Recipe], *, word: str | None, labels: Path | None
    ) -> list[Case]:
        """Read a JSON list of cases, or a folder in the papers' layout."""
        return read_cases(path, word)

    def choose_data(self, studies: Sequence[Study], request: TrainingRequest[Recipe]) -> list[Case]:
        """The labelled studies."""
        return [study.case for study in studies if study.case]

    def start_trainee(
        self, model: str, preset: str, weights: Path | None, recipe: Recipe, words: Sequence[str]
    ) -> Trainee:
        """Load a model that learns ``words``.

        Args:
            weights: folder of the version to start from; None: the preset's own weights.

        Raises:
            UnknownModelError: there is no such preset.
            WeightsError: weights are missing or damaged.
        """
        return self.trainee.start(load_preset(model, preset), weights, recipe, words)

    def run(
        self,
        data: Sequence[Case],
        request: TrainingRequest[Recipe],
        store: ModelStore,
        *,
        run_folder: Path,
        report: Report = lambda _: None,
        cancel: CancelToken | None = None,
    ) -> CaseReport:
        """Train, and publish when the mean Dice on the validation cases exceeds that of the version in use.

        A case that cannot be read is reported and left out.
        """
        began = time.monotonic()
        advice = f"use fewer pairs per step (batch is {request.recipe.batch}) or fewer views"
        with explain_out_of_memory(f"There is not enough memory for this training; {advice}."):
            run = _Run(self, request, store, run_folder, report, cancel or CancelToken(), began)
            return run.run(data)


@dataclass
class _Run:
    training: FineTuning
    request: TrainingRequest[Recipe]
    store: ModelStore
    run_folder: Path
    report: Report
    cancel: CancelToken
    began: float
    parent_card: Card = field(default_factory=Card)
    cases: list[Case] = field(default_factory=list)  # given ones, and those of the versions before
    words: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    kept: ValidationScore = field(default_factory=lambda: ValidationScore({}))
    kept_before: ValidationScore = field(default_factory=lambda: ValidationScore({}))
    start_sha256: str | None = None
    ranks: Ranks = field(default_factory=Ranks)

    def run(self, cases: Sequence[Case]) -> CaseReport:
        recipe = self.request.recipe
        parent = find_start(self.store, self.request.start, self.request.preset)
        start = None if parent is None else self.store.folder(parent)
        self.parent_card, self.start_sha256 = (
            Card() if start is None else read_card(start),
            self._digest_start(start),
        )
        earlier = earlier_cases(start, {case.name for case in cases})
        self.cases, again = [*cases, *earlier], {case.name for case in earlier}
        training, judging = self._split(self.cases)
        learned, self.skipped = self._read([case for case in training if case.name not in again])
        repeated, skipped = self._read([case for case in training if case.name in again])
        if not learned:  # what is new only judges
            learned, repeated = repeated, []
        judges, more = self._read(judging)
        self.skipped += [*skipped, *more]
        self._check(learned, judges)
        self.words = sorted({word for case in (*learned, *repeated) for word in case.masks})
        sources = (repeated, self._draw_phantoms(REPEAT_SEED)) if recipe.replay else ()
        device = choose_device(self.request.device)
        cache = FeatureCache(CACHE_BYTES, self.run_folder / "features")
        serving = self.store.served()
        held = self._draw_phantoms(CHECK_SEED, CHECK_SHARE)
        before, self.kept_before = self.ranks.broadcast_from_leader(
            lambda: self._measure(serving, judges, held, cache)
        )
        torch.manual_seed(recipe.seed)
        trainee = self.training.start_trainee(
            self.request.model, self.request.preset, start, recipe, self.words
        ).to(device)
        data = TrainingPairs(
            learned,
            trainee.segmenter,
            recipe,
            cache,
            frame_of=trainee.target_frame,
            replayed=sources,
            cancel=self.cancel,
        )
        data.encode(
            lambda done, total: self._tell("computing features", done, total, before=before), self.cancel
        )
        outcome = run_epochs(
            trainee,
            data,
            recipe,
            device=device,
            cancel=self.cancel,
            validate=(lambda: validate(trainee.ready(), judges, cache, self.cancel).mean) if judges else None,
            tell=lambda epoch: self._tell_epoch(epoch, before),
        )

        def conclude() -> CaseReport:
            self._tell("measuring the result", before=before)
            after = validate(trainee.ready(), judges, cache, self.cancel)
            self.kept = validate(trainee.ready(), held, cache, self.cancel)
            return self._decide(trainee, parent, serving, before, after, outcome.epochs, learned, judges)

        return self.ranks.broadcast_from_leader(conclude)

    def _digest_start(self, start: Path | None) -> str | None:
        base = load_preset(self.request.model, self.request.preset).weights
        folder = start or (None if base is None else checkpoint_folder(base))
        return None if folder is None else weights_digest(folder)

    def _split(self, cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
        card = self.parent_card
        return split_cases(
            cases, self.request.recipe.validation, learned=card.training_cases, judging=card.validation_cases
        )

    def _read(self, cases: Sequence[Case]) -> tuple[list[LabelledVolume], list[str]]:
        read, skipped = [], []
        for number, case in enumerate(cases):
            self.cancel.check()
            self._tell("reading cases", number, len(cases))
            try:
                read.append(case.read())
            except WordMaskError as error:
                logger.warning("The case %s is left out: %s", case.name, error)
                skipped.append(f"{case.name}: {error}")
        return read, skipped

    def _check(self, learned: Sequence[LabelledVolume], judges: Sequence[LabelledVolume]) -> None:
        count = len(learned) + len(judges)
        reason = (
            f" {len(self.skipped)} could not be read; the first: {self.skipped[0]}" if self.skipped else ""
        )
        if not learned:
            raise RequestError(
                f"There is no labelled case to learn from; label and submit some first.{reason}"
            )
        if not judges and not self.request.force:
            raise RequestError(
                f"There are too few labelled cases ({count}), so none is left to check the "
                f"result; label another one, or force the publication without a check.{reason}"
            )

    def _draw_phantoms(self, seed: int, share: float = 1.0) -> list[LabelledVolume]:
        """Phantoms of the words that the preset's weights know and that are not labelled yet."""
        base = load_preset(self.request.model, self.request.preset).weights
        card = Card() if base is None else read_card(checkpoint_folder(base))
        return phantom_cases(card, {*self.words, *self.parent_card.learned}, seed, share)

    def _measure(
        self,
        serving: int | None,
        judges: Sequence[LabelledVolume],
        held: Sequence[LabelledVolume],
        cache: FeatureCache,
    ) -> tuple[ValidationScore, ValidationScore]:
        """Scores of the version in use, on the same cases and on phantoms of old words.

        They are 0 when the preset does not have weights of its own yet.
        """
        if serving is None and load_preset(self.request.model, self.request.preset).weights is None:
            return ValidationScore(
                {(case.case.name, word): 0.0 for case in judges for word in case.masks}
            ), ValidationScore({})
        self._tell("measuring the version in use")
        folder = None if serving is None else self.store.folder(serving)
        segmenter = load_segmenter(
            self.request.model, preset=self.request.preset, device=self.request.device, weights=folder
        )
        return validate(segmenter, judges, cache, self.cancel), validate(segmenter, held, cache, self.cancel)

    def _decide(
        self,
        trainee: Trainee,
        parent: int | None,
        serving: int | None,
        before: ValidationScore,
        after: ValidationScore,
        epochs: int,
        learned: Sequence[LabelledVolume],
        judges: Sequence[LabelledVolume],
    ) -> CaseReport:
        names = [[case.case.name for case in side] for side in (learned, judges)]
        used = "the weights of the preset" if serving is None else f"version {serving}"
        figures = (
            f"mean Dice {after.mean:.3f} against {before.mean:.3f} "
            f"of {used} on {len(judges)} validation cases"
        )
        check = Check(after.mean, before.mean, figures) if judges else None

        def write(folder: Path) -> None:
            save_checkpoint(
                folder, trainee.state(), self._make_card(trainee, parent, before, after, names, epochs)
            )
            write_cases(folder, self.cases)

        number, message = publish_if_better(self.store, check, write, self.cancel, force=self.request.force)
        if self.kept.dice:
            message += (
                f" The words of the bundled weights: mean Dice {self.kept.mean:.3f} "
                f"on phantoms, before {self.kept_before.mean:.3f}."
            )
        return CaseReport(
            version=number,
            parent=parent,
            message=message,
            mean=after.mean if judges else None,
            mean_before=before.mean if judges else None,
            dice=after.words(),
            dice_before=before.words(),
            epochs=epochs,
            seconds=round(time.monotonic() - self.began, 1),
            training_cases=names[0],
            validation_cases=names[1],
            skipped=self.skipped,
            kept=self.kept.words(),
            kept_before=self.kept_before.words(),
            start_sha256=self.start_sha256,
        )

    def _make_card(
        self,
        trainee: Trainee,
        parent: int | None,
        before: ValidationScore,
        after: ValidationScore,
        names: list[list[str]],
        epochs: int,
    ) -> Card:
        base = load_preset(self.request.model, self.request.preset).weights
        return fill_card(
            model=self.request.model,
            preset=self.request.preset,
            parent=parent,
            recipe=self.request.recipe,
            forced=self.request.force,
            libraries=LIBRARIES,
            start_sha256=self.start_sha256,
            base=None
            if base is None
            else {"name": checkpoint_folder(base).name, "title": read_card(checkpoint_folder(base)).title},
            epochs=epochs,
            training_cases=sorted({*self.parent_card.training_cases, *names[0]}),
            validation_cases=sorted({*self.parent_card.validation_cases, *names[1]}),
            validation_dice=after.words(),
            validation_dice_before=before.words(),
            kept_dice=self.kept.words(),
            kept_dice_before=self.kept_before.words(),
            learned=sorted({*self.parent_card.learned, *self.words}),
            **trainee.card(),
        )

    def _tell(
        self, stage: str, done: int = 0, total: int = 0, *, before: ValidationScore | None = None
    ) -> None:
        mean = before.mean if before is not None and before.dice else None
        self.report(
            TrainingProgress(
                stage, done, total, dice_before=mean, seconds=round(time.monotonic() - self.began, 1)
            )
        )

    def _tell_epoch(self, epoch: Epoch, before: ValidationScore) -> None:
        seconds = round(time.monotonic() - self.began, 1)
        mean = before.mean if before.dice else None
        self.report(
            TrainingProgress(
                "training", epoch.number, self.request.recipe.epochs, epoch.loss, epoch.dice, mean, seconds
            )
        )
