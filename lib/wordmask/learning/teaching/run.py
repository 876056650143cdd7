"""Teach a model words with labelled cases, and publish it when it got better.

A committee of networks on pixels learns the words (wordmask.models.taught); the model stays as it is. The
first network does not learn from some cases, which judge it; the others learn from all, because a few cases
less cost more than anything else can win back. Knows cases, recipes and the store of versions; not HTTP, not
MONAI Label.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from wordmask.errors import RequestError
from wordmask.inference.cache import FeatureCache
from wordmask.inference.memory import explain_out_of_memory
from wordmask.learning.cases import Case, LabelledVolume
from wordmask.learning.earlier_cases import earlier_cases, write_cases
from wordmask.learning.evaluation.validation import ValidationScore, validate
from wordmask.learning.labelled_run import LabelledRun, LabelledTraining, refuse_empty
from wordmask.learning.presence_limits import FEWEST_ABSENT, describe_limits
from wordmask.learning.publishing import Check, fill_card, publish_if_better
from wordmask.learning.recipes import TeachingRecipe
from wordmask.learning.splitting import hold_out, refuse_equal_names
from wordmask.learning.teaching.fit import Fit, Seconds
from wordmask.learning.teaching.judging import (
    calibrate_presence,
    is_single,
    weigh,
)
from wordmask.learning.teaching.linear import solve_linear
from wordmask.learning.teaching.samples import collect
from wordmask.learning.training import CaseReport, Report, TrainingRequest
from wordmask.models.base import Segmenter
from wordmask.models.loading import choose_device, load_segmenter, segmenter_class
from wordmask.models.registry import load_preset
from wordmask.models.taught.committee import JUDGE, Committee, word_vectors
from wordmask.models.taught.segmenter import TaughtSegmenter
from wordmask.models.taught.versions import BASE_FOLDER, base_of, committee_tensors, load_committee
from wordmask.progress import CancelToken
from wordmask.weights.card import Card, CommitteeCard, PresenceLimit, TaughtWord
from wordmask.weights.checkpoint import save_checkpoint
from wordmask.weights.versions import ModelStore
from wordmask.words.prompts import parse_prompts

CACHE_BYTES = 2 << 30
LIBRARIES = ("torch", "monai", "timm", "open_clip_torch")


class Teaching(LabelledTraining[TeachingRecipe]):
    """Training of a committee beside any model."""

    description = "Learn words from the submitted labels"
    recipe = TeachingRecipe

    def run(
        self,
        data: Sequence[Case],
        request: TrainingRequest[TeachingRecipe],
        store: ModelStore,
        *,
        run_folder: Path,
        report: Report = lambda _: None,
        cancel: CancelToken | None = None,
    ) -> CaseReport:
        """Teach, and publish when held-out cases are segmented better than by the version in use.

        A case that cannot be read is reported and left out.
        """
        with explain_out_of_memory(
            "There is not enough memory for this training; use fewer slices per step "
            f"(batch is {request.recipe.batch}) or smaller sides."
        ):
            return TeachingRun(request, store, run_folder, report, cancel or CancelToken()).run(data)


@dataclass
class TeachingRun(LabelledRun[TeachingRecipe]):
    """One training of a committee; trainings with labels of another origin share its steps."""

    cases: list[Case] = field(default_factory=list)  # given ones, and those of the versions before
    images: list[str] = field(default_factory=list)  # names of those that no person has labelled
    held: frozenset[str] = frozenset()  # cases that the first member does not learn from
    seconds: Seconds = field(default_factory=Seconds)

    def run(self, given: Sequence[Case]) -> CaseReport:
        recipe = self.request.recipe
        start = self.open_start(taught=True)
        earlier = earlier_cases(start, {case.name for case in given})
        before = self.parent_card.committee
        refuse_equal_names(given)
        new, repeated = self.read(given), self.read(earlier)
        self.cases = [case.case for case in (*new, *repeated)]
        absent = {case.case.name for case in (*new, *repeated) if not case.shows_anything}
        self.held = hold_out(
            self.cases,
            recipe.held_out,
            before.held_out if before else (),
            absent=absent,
            fewest_absent=FEWEST_ABSENT,
        )
        held = [case for case in (*new, *repeated) if case.case.name in self.held]
        judges = [case for case in held if case.shows_anything]
        self.refuse_too_few(len(new), len(judges))
        refuse_empty([*new, *repeated])
        device = choose_device(self.request.device)
        cache = FeatureCache(CACHE_BYTES)
        base = self._load_base(start, device)
        score_before = self._measure_in_use(base, judges, cache)
        self.mean_before = score_before.mean if judges else None
        frozen = self._measure_frozen(base, [*new, *repeated], cache)
        torch.manual_seed(recipe.seed)
        committee = self._start_committee(base, start, [*new, *repeated], frozen).to(device)
        self._fit(committee, base, [*new, *repeated], {word for case in new for word in case.masks}, device)
        segmenter = TaughtSegmenter(base, committee).eval().requires_grad_(False)
        self.tell("measuring the result")
        learned = [case for case in (*new, *repeated) if case.case.name not in self.held]
        self._limit_presence(segmenter, learned, held, cache)
        after = self._measure(segmenter, judges, cache)
        self._weigh(committee, after, [*new, *repeated], frozen)
        if frozen:  # which has a vote of its own now
            after = self._measure(segmenter, judges, cache)
        served = self.store.served()
        rival = "the weights of the preset" if served is None else f"version {served}"
        return self._decide(committee, start, (rival, score_before), after, held, force=self.request.force)

    def _load_base(self, start: Path | None, device: torch.device) -> Segmenter:
        """The model itself, without what it was taught before."""
        preset = load_preset(self.request.model, self.request.preset)
        base = segmenter_class(self.request.model).to_teach(preset, base_of(start))
        return base.to(device).eval().requires_grad_(False)

    def _measure_in_use(
        self, base: Segmenter, judges: Sequence[LabelledVolume], cache: FeatureCache
    ) -> ValidationScore:
        """Score the version in use on the same cases, each by what has not learned from it."""
        self.tell("measuring the version in use")
        served = self.store.served()
        if served is None:
            return self._measure(base, judges, cache)
        in_use = load_segmenter(
            self.request.model,
            preset=self.request.preset,
            device=self.request.device,
            weights=self.store.folder(served),
        )
        return self._measure(in_use, judges, cache)

    def _measure(
        self, segmenter: Segmenter, judges: Sequence[LabelledVolume], cache: FeatureCache
    ) -> ValidationScore:
        """Dice of the cases that judge; a taught model is judged by the network that never learned them."""
        alone = segmenter.only(JUDGE) if isinstance(segmenter, TaughtSegmenter) else segmenter
        return validate(alone, judges, cache, self.cancel)

    def _measure_frozen(
        self, base: Segmenter, cases: Sequence[LabelledVolume], cache: FeatureCache
    ) -> dict[str, float]:
        """Word that the model knew before -> its Dice on the cases, where that is worth using."""
        found = {}
        for word in sorted({word for case in cases for word in case.masks}):
            (prompt,) = parse_prompts([word])
            if not bool(base.encode_prompts([prompt]).known.all()):
                continue
            self.tell("measuring the model before it is taught")
            showing = [case for case in cases if word in case.masks and case.masks[word].any()]
            if showing:
                dice = validate(base, showing, cache, self.cancel).words()[word]
                if dice >= self.request.recipe.frozen_dice:
                    found[word] = dice
        return found

    def _start_committee(
        self,
        base: Segmenter,
        start: Path | None,
        cases: Sequence[LabelledVolume],
        frozen: Mapping[str, float],
    ) -> Committee:
        """The committee of the version to start from with the new words added, or a fresh one."""
        recipe, before = self.request.recipe, self.parent_card.committee
        given = {word for case in cases for word in case.masks}
        words = list(dict.fromkeys([*(before.words if before else ()), *sorted(given)]))
        even = 1 / len(recipe.members)
        untried = TaughtWord(weights=(*(even for _ in recipe.members), 0.0, 0.0))
        taught = {word: (before.words.get(word) if before else None) or untried for word in words}
        for word in given:
            facts = {"frozen": word in frozen, "single": is_single(cases, word)}
            taught[word] = untried.model_copy(update=facts)
        form = CommitteeCard(
            encoder=recipe.encoder,
            members=recipe.members,
            sides=recipe.sides,
            mirror=recipe.mirror,
            words=taught,
            held_out=tuple(sorted(self.held)),
        )
        vectors = word_vectors(base, words)
        goes_on = before is not None and (before.encoder, before.members) == (form.encoder, form.members)
        lost = sorted(before.words.keys() - given) if before and not goes_on else []
        if lost:
            raise RequestError(
                f"Version {self.parent} knows {', '.join(lost)}, of which there is no case to repeat; "
                "keep its members and encoder, give such cases, or start from 0."
            )
        committee = Committee(form, vectors, fresh=not goes_on)
        if goes_on and start is not None:
            old = load_committee(start)
            committee.members.load_state_dict(old.members.state_dict())
            for name in ("vectors", "linear.weights", "linear.bias"):
                kept = old.get_buffer(name)
                committee.get_buffer(name)[: len(kept)] = kept
        return committee

    def _fit(
        self,
        committee: Committee,
        base: Segmenter,
        cases: Sequence[LabelledVolume],
        new: set[str],
        device: torch.device,
    ) -> None:
        recipe = self.request.recipe
        self.tell("cutting slices")
        frozen = frozenset(word for word, taught in committee.card.words.items() if taught.frozen)
        samples = collect(cases, base, committee, frozen, cancel=self.cancel)
        words = {word for kind in samples for word in kind.words}
        vectors = {word: committee.vectors[committee.rows[word]].clone() for word in words}
        for number, member in enumerate(committee.networks):
            left_out = self.held if number == JUDGE else frozenset()
            own = {kind: one.without(left_out) for kind, one in samples.items()}
            stage = f"training network {number + 1} of {len(committee.networks)}"

            steps = recipe.steps_of(member.kind)

            def tell(step: int, loss: float, stage: str = stage, steps: int = steps) -> None:
                self.tell(stage, step, steps, loss=loss)

            fit = Fit(member, number, vectors, recipe, steps, device, self.seconds)
            fit.run(own, new, tell=tell, cancel=self.cancel)
        self.tell("solving the linear member")
        solve_linear(committee.linear, samples, committee.rows)
        with torch.no_grad():  # the file keeps half the precision, and what is measured is what is kept
            for tensor in committee.state_dict().values():
                tensor.copy_(tensor.half())

    def _limit_presence(
        self,
        segmenter: TaughtSegmenter,
        learned: Sequence[LabelledVolume],
        held: Sequence[LabelledVolume],
        cache: FeatureCache,
    ) -> None:
        """Write into the card when the words of the cases count as present, where that can be judged."""
        committee, words = segmenter.committee, sorted({word for case in held for word in case.masks})
        committee.card = committee.card.with_words(words, presence=PresenceLimit(limit=0.0))
        judge = segmenter.only(JUDGE)
        found = {word: calibrate_presence(judge, learned, held, word, cache, self.cancel) for word in words}
        for word, limit in found.items():
            committee.card = committee.card.with_words([word], presence=limit)

    def _weigh(
        self,
        committee: Committee,
        after: ValidationScore,
        cases: Sequence[LabelledVolume],
        frozen: Mapping[str, float],
    ) -> None:
        """Write into the card how much each member counts."""
        for word in {word for case in cases for word in case.masks}:
            scores = [score for (_, one), score in after.dice.items() if one == word]
            pictures = sum(
                case.volume.is_picture and word in case.masks and bool(case.masks[word].any())
                for case in cases
            )
            weights = weigh(scores, len(committee.networks), pictures, frozen.get(word))
            committee.card = committee.card.with_words([word], weights=weights)

    def _decide(
        self,
        committee: Committee,
        start: Path | None,
        rival: tuple[str, ValidationScore],
        after: ValidationScore,
        held: Sequence[LabelledVolume],
        *,
        force: bool,
    ) -> CaseReport:
        """Publish what is better than its rival, which has a name for people, or what is forced."""
        judges, (used, before) = [case for case in held if case.shows_anything], rival
        figures = (
            f"mean Dice {after.mean:.3f} against {before.mean:.3f} of {used} on {len(judges)} validation "
            "cases, segmented by the network that did not learn from them"
        )
        names = sorted(case.case.name for case in held)
        taught = sorted({*self.images, *(case.name for case in self.cases)})
        card = self._make_card(committee, before, after, taught, names, start)

        def write(folder: Path) -> None:
            base = base_of(start)
            if base is not None:
                shutil.copytree(base, folder / BASE_FOLDER)
            save_checkpoint(folder, committee_tensors(committee), card)
            write_cases(folder, self.cases)

        check = Check(after.mean, before.mean, figures) if judges else None
        number, message = publish_if_better(self.store, check, write, self.cancel, force=force)
        message += describe_limits({word: committee.card.words[word].presence for word in after.words()})
        return CaseReport(
            version=number,
            parent=self.parent,
            message=message,
            mean=after.mean if judges else None,
            mean_before=self.mean_before,
            dice=after.words(),
            dice_before=before.words(),
            epochs=1,
            seconds=self.elapsed(),
            training_cases=taught,
            validation_cases=names,
            skipped=self.skipped,
            start_sha256=self.digest_start(start),
        )

    def _make_card(
        self,
        committee: Committee,
        before: ValidationScore,
        after: ValidationScore,
        taught: Sequence[str],
        judging: Sequence[str],
        start: Path | None,
    ) -> Card:
        words = sorted(committee.card.words)
        return fill_card(
            model=self.request.model,
            preset=self.request.preset,
            parent=self.parent,
            recipe=self.request.recipe,
            forced=self.request.force,
            libraries=LIBRARIES,
            start_sha256=self.digest_start(start),
            base=self.base_title(),
            committee=committee.card,
            words=words,
            learned=words,
            training_cases=sorted({*self.parent_card.training_cases, *taught}),
            validation_cases=sorted({*self.parent_card.validation_cases, *judging}),
            validation_dice=after.words(),
            validation_dice_before=before.words(),
            seconds={"all": self.elapsed(), **self.seconds.as_dict()},
        )


TRAINING = Teaching()
