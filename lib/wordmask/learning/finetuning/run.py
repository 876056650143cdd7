"""Train a model on labelled cases and publish it when it got better.

Knows cases, trainees, recipes and the store of versions; not HTTP, not MONAI Label. Several processes may
call `FineTuning.run` with the same arguments, each with its own device and run folder (`finetuning.ranks`):
the first one validates and publishes, and all return its report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.special import logit

from wordmask.inference.cache import FeatureCache
from wordmask.inference.memory import explain_out_of_memory
from wordmask.inference.pipeline import VolumeSegmenter
from wordmask.learning.cases import Case, LabelledVolume
from wordmask.learning.earlier_cases import earlier_cases, write_cases
from wordmask.learning.evaluation.validation import ValidationScore, validate
from wordmask.learning.finetuning.engine import run_epochs
from wordmask.learning.finetuning.pairs import TrainingPairs
from wordmask.learning.finetuning.ranks import Ranks
from wordmask.learning.finetuning.replay import CHECK_SEED, REPEAT_SEED, phantom_cases
from wordmask.learning.finetuning.trainee import Trainee
from wordmask.learning.labelled_run import LabelledRun, LabelledTraining, refuse_empty
from wordmask.learning.presence_limits import are_enough, describe_limits, find_limit
from wordmask.learning.publishing import Check, fill_card, publish_if_better
from wordmask.learning.recipes import FineTuningRecipe, Recipe
from wordmask.learning.splitting import choose_share, split_cases
from wordmask.learning.training import CaseReport, Report, TrainingRequest
from wordmask.models.loading import choose_device, load_segmenter
from wordmask.models.registry import load_preset
from wordmask.progress import CancelToken
from wordmask.weights.card import Card, PresenceLimit
from wordmask.weights.checkpoint import read_card, save_checkpoint
from wordmask.weights.versions import ModelStore

CACHE_BYTES = 4 << 30
CHECK_SHARE = 0.4  # of the phantoms that are repeated: so many check what became of the bundled words
LOWEST = -1e9  # a presence logit that no case is below
LEAST = 1e-9  # probability
LIBRARIES = ("torch", "monai", "open_clip_torch", "peft")


class FineTuning(LabelledTraining[FineTuningRecipe]):
    """Training of one model on labelled cases."""

    description = "Learn from the submitted labels"
    uses_devices = True

    def __init__(self, trainee: type[Trainee], recipe: type[FineTuningRecipe] = Recipe) -> None:
        self.trainee, self.recipe = trainee, recipe

    def start_trainee(
        self, model: str, preset: str, weights: Path | None, recipe: FineTuningRecipe, words: Sequence[str]
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
        request: TrainingRequest[FineTuningRecipe],
        store: ModelStore,
        *,
        run_folder: Path,
        report: Report = lambda _: None,
        cancel: CancelToken | None = None,
    ) -> CaseReport:
        """Train, and publish when the mean Dice on the validation cases exceeds that of the version in use.

        A case that cannot be read is reported and left out.
        """
        advice = f"use fewer pairs per step (batch is {request.recipe.batch}) or fewer views"
        with explain_out_of_memory(f"There is not enough memory for this training; {advice}."):
            run = _Run(request, store, run_folder, report, cancel or CancelToken(), training=self)
            return run.run(data)


@dataclass
class _Run(LabelledRun[FineTuningRecipe]):
    training: FineTuning = field(kw_only=True)
    cases: list[Case] = field(default_factory=list)  # given ones, and those of the versions before
    words: list[str] = field(default_factory=list)
    kept: ValidationScore = field(default_factory=lambda: ValidationScore({}))
    kept_before: ValidationScore = field(default_factory=lambda: ValidationScore({}))
    limits: dict[str, PresenceLimit] | None = None  # None: the model cannot judge learned words
    start_sha256: str | None = None
    ranks: Ranks = field(default_factory=Ranks)

    def run(self, cases: Sequence[Case]) -> CaseReport:
        recipe = self.request.recipe
        start = self.open_start()
        self.start_sha256 = self.digest_start(start)
        earlier = earlier_cases(start, {case.name for case in cases})
        self.cases, again = [*cases, *earlier], {case.name for case in earlier}
        training, judging = self._split(self.cases)
        new = [case for case in training if case.name not in again]
        learned = self.read(choose_share(new, recipe.share, recipe.seed))
        repeated = self.read([case for case in training if case.name in again])
        if not learned:  # what is new only judges
            learned, repeated = repeated, []
        judges = self.read(judging)
        self.refuse_too_few(len(learned), len(judges))
        refuse_empty(learned)
        self.words = sorted({word for case in (*learned, *repeated) for word in case.masks})
        sources = (repeated, self._draw_phantoms(REPEAT_SEED)) if recipe.replay else ()
        device = choose_device(self.request.device)
        cache = FeatureCache(CACHE_BYTES, self.run_folder / "features")
        serving = self.store.served()
        held = self._draw_phantoms(CHECK_SEED, CHECK_SHARE)
        before, self.kept_before = self.ranks.broadcast_from_leader(
            lambda: self._measure(serving, judges, held, cache)
        )
        self.mean_before = before.mean if before.dice else None
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
        data.encode(lambda done, total: self.tell("computing features", done, total), self.cancel)
        outcome = run_epochs(
            trainee,
            data,
            recipe,
            device=device,
            cancel=self.cancel,
            validate=(lambda: validate(trainee.ready(), judges, cache, self.cancel).mean) if judges else None,
            tell=lambda epoch: self.tell(
                "training", epoch.number, recipe.epochs, loss=epoch.loss, dice=epoch.dice
            ),
        )

        def conclude() -> CaseReport:
            self.tell("measuring the result")
            self.limits = self._find_limits(trainee, judges, cache)
            after = validate(trainee.ready(), judges, cache, self.cancel)
            self.kept = validate(trainee.ready(), held, cache, self.cancel)
            return self._decide(trainee, serving, before, after, outcome.epochs, learned, judges)

        return self.ranks.broadcast_from_leader(conclude)

    def _split(self, cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
        card = self.parent_card
        return split_cases(
            cases, self.request.recipe.validation, learned=card.training_cases, judging=card.validation_cases
        )

    def _draw_phantoms(self, seed: int, share: float = 1.0) -> list[LabelledVolume]:
        """Phantoms of the words that the preset's weights know and that are not labelled yet."""
        base = self.base_folder()
        card = Card() if base is None else read_card(base)
        return phantom_cases(card, {*self.words, *self.parent_card.learned}, seed, share)

    def _find_limits(
        self, trainee: Trainee, judges: Sequence[LabelledVolume], cache: FeatureCache
    ) -> dict[str, PresenceLimit] | None:
        """When each learned word counts as present, of those where the validation cases can tell.

        None for a model that cannot judge learned words.
        """
        if not trainee.limit_presence(dict.fromkeys(self.words, LOWEST)):  # so that all words are judged
            return None
        pipeline, found = VolumeSegmenter(trainee.ready(), cache=cache), {}
        for word in self.words:
            scores: tuple[list[float], list[float]] = [], []
            asked = [case for case in judges if word in case.masks]
            there = [bool(case.masks[word].any()) for case in asked]
            if not are_enough(there.count(False), there.count(True)):
                continue
            for case, shown in zip(asked, there, strict=True):
                prompt = case.prompts[word]
                result = pipeline.segment(case.volume, [prompt], cancel=self.cancel)
                presence = np.clip(result.statistics[prompt.word].presence, LEAST, 1 - LEAST)
                scores[shown].append(float(logit(presence)))
            if (limit := find_limit(*scores)) is not None:
                found[word] = limit
        trainee.limit_presence({word: limit.limit for word, limit in found.items()})
        return found

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
        self.tell("measuring the version in use")
        folder = None if serving is None else self.store.folder(serving)
        segmenter = load_segmenter(
            self.request.model, preset=self.request.preset, device=self.request.device, weights=folder
        )
        return validate(segmenter, judges, cache, self.cancel), validate(segmenter, held, cache, self.cancel)

    def _decide(
        self,
        trainee: Trainee,
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
            save_checkpoint(folder, trainee.state(), self._make_card(trainee, before, after, names, epochs))
            write_cases(folder, self.cases)

        number, message = publish_if_better(self.store, check, write, self.cancel, force=self.request.force)
        if self.kept.dice:
            message += (
                f" The words of the bundled weights: mean Dice {self.kept.mean:.3f} "
                f"on phantoms, before {self.kept_before.mean:.3f}."
            )
        if judges and self.limits is not None:
            message += describe_limits({word: self.limits.get(word) for word in self.words})
        return CaseReport(
            version=number,
            parent=self.parent,
            message=message,
            mean=after.mean if judges else None,
            mean_before=before.mean if judges else None,
            dice=after.words(),
            dice_before=before.words(),
            epochs=epochs,
            seconds=self.elapsed(),
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
        before: ValidationScore,
        after: ValidationScore,
        names: list[list[str]],
        epochs: int,
    ) -> Card:
        return fill_card(
            model=self.request.model,
            preset=self.request.preset,
            parent=self.parent,
            recipe=self.request.recipe,
            forced=self.request.force,
            libraries=LIBRARIES,
            start_sha256=self.start_sha256,
            base=self.base_title(),
            epochs=epochs,
            training_cases=sorted({*self.parent_card.training_cases, *names[0]}),
            validation_cases=sorted({*self.parent_card.validation_cases, *names[1]}),
            validation_dice=after.words(),
            validation_dice_before=before.words(),
            kept_dice=self.kept.words(),
            kept_dice_before=self.kept_before.words(),
            learned=sorted({*self.parent_card.learned, *self.words}),
            limits=self.limits or {},
            **trainee.card(),
        )
