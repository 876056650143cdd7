"""Tune a model's CLIP on pairs of pictures and captions, and publish it if held-out pairs improve.

MedCLIP-SAMv2's first stage (methods.md 2.2): both towers learn with DHN-NCE. Knows models, recipes, pairs and
the version store; not where pairs come from, not the command line. The weights of the last epoch are judged,
once: no epoch is chosen by what is reported.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from wordmask.encoders.clip import ClipEncoder
from wordmask.errors import RequestError
from wordmask.inference.memory import explain_out_of_memory
from wordmask.learning.captions import (
    CaptionList,
    ImageCaption,
    captions_of_cases,
    names_cases,
    read_caption_list,
)
from wordmask.learning.cases import Study, read_cases
from wordmask.learning.clip_tuning.batches import Bytes, store_pictures
from wordmask.learning.clip_tuning.embedding import embed_pictures, embed_texts, start_clip
from wordmask.learning.clip_tuning.epochs import TuningPairs, tune
from wordmask.learning.clip_tuning.presence_fit import PresenceFit, fit_presence
from wordmask.learning.clip_tuning.recipe import TuneRecipe
from wordmask.learning.clip_tuning.retrieval import BATCH, ROUNDS, Retrieval, retrieval
from wordmask.learning.publishing import Check, fill_card, find_start, publish_if_better
from wordmask.learning.splitting import judging_groups
from wordmask.learning.training import (
    Comparison,
    Report,
    Training,
    TrainingProgress,
    TrainingReport,
    TrainingRequest,
)
from wordmask.models.loading import choose_device
from wordmask.models.medclip_samv2.preset import MedCLIPSAMv2Preset
from wordmask.models.registry import load_preset
from wordmask.models.word_scores import ClipWithScores
from wordmask.progress import CancelToken
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import checkpoint_folder, read_card, save_checkpoint
from wordmask.weights.versions import ModelStore, weights_digest

LIBRARIES = ("torch", "open_clip_torch", "timm", "transformers")
MOST_FITTED = 500  # pictures that the presence is fitted on


@dataclass(frozen=True, kw_only=True)
class TuneReport(TrainingReport):
    """The result of a tuning.

    Attributes:
        before: retrieval on the held-out pairs; None without any.
        after: the same after the tuning.
        training_pairs: how many were learned from.
        cut: captions that fill all the places of the text tower, whose ends it may not have seen.
        presence: how scores of presence were fitted again; None where the preset judges none.
    """

    before: Retrieval | None
    after: Retrieval | None
    training_pairs: int
    cut: int
    presence: PresenceFit | None = None

    def comparison(self) -> Comparison | None:
        """How often the right caption and the right picture were found."""
        if self.before is None or self.after is None:
            return None
        before, after = self.before.summary(), self.after.summary()
        rows = tuple((heading, before[name], after[name]) for name, heading in _FOUND.items())
        return Comparison(
            f"Retrieval on {self.after.pairs} held-out pairs, in batches of {BATCH}", "found", rows
        )


_FOUND = {
    "image_to_text_top1": "caption of a picture, first",
    "image_to_text_top2": "caption of a picture, among the first two",
    "text_to_image_top1": "picture of a caption, first",
    "text_to_image_top2": "picture of a caption, among the first two",
}


class ClipTuning(Training[TuneRecipe]):
    """Tuning of MedCLIP-SAMv2's CLIP on pictures with captions."""

    description = "Tune CLIP on captions written from the submitted labels"
    recipe = TuneRecipe
    resumes = True

    def read_data(
        self, path: Path, request: TrainingRequest[TuneRecipe], *, word: str | None, labels: Path | None
    ) -> CaptionList:
        """Read a list of captions, or labelled cases, whose captions are written here."""
        recipe = request.recipe
        if names_cases(path):
            cases = read_cases(path, word)
            return captions_of_cases(cases, slices=recipe.slices_per_case, words=recipe.caption_words)
        return read_caption_list(path, least_characters=recipe.least_characters)

    def choose_data(self, studies: Sequence[Study], request: TrainingRequest[TuneRecipe]) -> CaptionList:
        """Write captions of the labelled studies."""
        cases, recipe = [study.case for study in studies if study.case], request.recipe
        return captions_of_cases(cases, slices=recipe.slices_per_case, words=recipe.caption_words)

    def run(
        self,
        data: CaptionList,
        request: TrainingRequest[TuneRecipe],
        store: ModelStore,
        *,
        run_folder: Path,
        report: Report = lambda _: None,
        cancel: CancelToken | None = None,
    ) -> TuneReport:
        """Tune, and publish when retrieval (top 1, mean of both ways) on held-out pairs rose.

        The run folder keeps the state from which an interrupted run continues, in a folder of its own for
        each preset, start, recipe and list of pairs; that folder is removed when a version is published.
        """
        advice = f"use fewer pairs per step (batch is {request.recipe.batch})"
        with explain_out_of_memory(f"There is not enough memory for this tuning; {advice}."):
            return _Tuning(data, request, store, run_folder, report, cancel or CancelToken()).run()


TRAINING = ClipTuning()


class _Tuning:
    def __init__(
        self,
        pairs: CaptionList,
        request: TrainingRequest[TuneRecipe],
        store: ModelStore,
        run_folder: Path,
        report: Report,
        cancel: CancelToken,
    ) -> None:
        self.pairs, self.short, self.request, self.store = pairs.pairs, pairs.short, request, store
        self.runs, self.report, self.cancel = run_folder, report, cancel
        self.preset = cast(MedCLIPSAMv2Preset, load_preset(request.model, request.preset))
        self.device = choose_device(request.device)
        self.began = time.monotonic()
        judging = judging_groups({pair.group for pair in self.pairs}, request.recipe.held_out)
        self.held = [row for row, pair in enumerate(self.pairs) if pair.group in judging]
        self.learned = [row for row, pair in enumerate(self.pairs) if pair.group not in judging]

    def run(self) -> TuneReport:
        if len(self.learned) < 2:
            raise RequestError(
                f"{len(self.pairs)} pairs of pictures and captions are "
                "too few to learn from; add more, from several images."
            )
        if not self.held and not self.request.force:
            raise RequestError(
                "All pairs belong to one group, so none is left to check the "
                "result; add pairs of other groups, or force the publication."
            )
        parent = find_start(self.store, self.request.start, self.request.preset)
        start = None if parent is None else self.store.folder(parent)
        captions = [self.pairs[row].caption for row in self.learned]
        served, model = start_clip(self.preset, start, ()), start_clip(self.preset, start, captions)
        folder = self._make_folder(start)
        pictures = store_pictures(
            folder / "pictures.npy",
            self.pairs,
            model.clip.image_size,
            self.preset.windows,
            lambda done, total: self.report(TrainingProgress("reading pictures", done, total)),
            self.cancel,
        )
        said = self._tokenize_captions(model.clip)
        before, words_before = self._judge(served.to(self.device), pictures, said)
        model.to(self.device)
        data = TuningPairs(
            pictures,
            self.learned,
            captions,
            [said[r] for r in self.learned],
            [self._pictures[r] for r in self.learned],
        )
        epochs = self.request.recipe.epochs
        tune(
            model.clip,
            data,
            self.request.recipe,
            folder,
            lambda epoch, loss: self.report(TrainingProgress("tuning", epoch, epochs, loss)),
            self.cancel,
        )
        after, words_after = self._judge(model, pictures, said)
        fit = None
        if words_before is not None and words_after is not None and self.preset.presence is not None:
            fit = fit_presence(model.scores, words_before, words_after, self.preset.presence.slice_logit)
        number, message = self._decide(model, parent, before, after, fit)
        if number is not None:
            shutil.rmtree(folder, ignore_errors=True)
        cut = sum(bool(tokens[-1]) for tokens in said)
        seconds = round(time.monotonic() - self.began, 1)
        skipped = []
        if self.short:
            least = self.request.recipe.least_characters
            skipped.append(f"{self.short} captions of fewer than {least} characters were left out.")
        if cut:
            message += f" {cut} captions reach the limit of the text tower, which may not read their ends."
        if fit is not None:
            message += f" {_describe_fit(fit)}"
        return TuneReport(
            version=number,
            parent=parent,
            message=message,
            epochs=epochs,
            seconds=seconds,
            skipped=skipped,
            before=before,
            after=after,
            training_pairs=len(self.learned),
            cut=cut,
            presence=fit,
        )

    def _make_folder(self, start: Path | None) -> Path:
        """A folder for this preset, start, recipe and these pairs alone.

        No training can continue from the checkpoint of another one.
        """
        base = None if self.preset.weights is None else weights_digest(checkpoint_folder(self.preset.weights))
        what = [
            self.preset.model_dump(mode="json"),
            base,
            None if start is None else weights_digest(start),
            self.request.recipe.model_dump(mode="json"),
            [_identify(pair) for pair in self.pairs],
        ]
        folder = self.runs / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _tokenize_captions(self, clip: ClipEncoder) -> list[tuple[int, ...]]:
        """Each caption as the text tower reads it.

        Equal ones say the same to it, also where they differ beyond what it reads.
        """
        return [tuple(clip.tokenizer([pair.caption])[0].tolist()) for pair in self.pairs]

    @cached_property
    def _pictures(self) -> list[Hashable]:
        return [(str(pair.image), pair.slice) for pair in self.pairs]

    def _judge(
        self, model: ClipWithScores, pictures: Bytes, said: Sequence[Hashable]
    ) -> tuple[Retrieval | None, Tensor | None]:
        """Retrieval on the held-out pairs, and the cosines of their pictures and words.

        The cosines are [pictures, words]; None where presence is not judged.
        """
        if not self.held:
            return None, None
        self.report(TrainingProgress("measuring"))
        image = embed_pictures(model.clip, pictures, self.held, self.cancel)
        text = embed_texts(model.clip, [self.pairs[row].caption for row in self.held])
        found = retrieval(
            image, text, [said[row] for row in self.held], [self._pictures[row] for row in self.held]
        )
        words = self._card_of_preset().words
        if self.preset.presence is None or not words:
            return found, None
        return found, image[:MOST_FITTED] @ embed_texts(model.clip, words).T

    def _card_of_preset(self) -> Card:
        return Card() if self.preset.weights is None else read_card(checkpoint_folder(self.preset.weights))

    def _decide(
        self,
        model: ClipWithScores,
        parent: int | None,
        before: Retrieval | None,
        after: Retrieval | None,
        fit: PresenceFit | None,
    ) -> tuple[int | None, str]:
        check = None
        if before is not None and after is not None:
            figures = (
                f"retrieval, top 1, {after.top1:.3f} against "
                f"{before.top1:.3f} before, on {after.pairs} held-out pairs"
            )
            check = Check(after.top1, before.top1, figures)

        def write(folder: Path) -> None:
            save_checkpoint(
                folder, self._collect_changes(model), self._make_card(model, parent, before, after, fit)
            )

        return publish_if_better(self.store, check, write, self.cancel, force=self.request.force)

    def _collect_changes(self, model: ClipWithScores) -> dict[str, Tensor]:
        """What differs from the preset's own weights, whatever version this tuning started from."""
        own = start_clip(self.preset, None, ()).state_dict()
        now = {name: value.detach().cpu() for name, value in model.state_dict().items()}
        return {
            name: value
            for name, value in now.items()
            if value.shape != own[name].shape or not torch.equal(value, own[name])
        }

    def _make_card(
        self,
        model: ClipWithScores,
        parent: int | None,
        before: Retrieval | None,
        after: Retrieval | None,
        fit: PresenceFit | None,
    ) -> Card:
        sides = {"before": before, "after": after}
        scores = {side: None if found is None else found.summary() for side, found in sides.items()}
        return fill_card(
            model=self.request.model,
            preset=self.request.preset,
            parent=parent,
            recipe=self.request.recipe,
            forced=self.request.force,
            libraries=LIBRARIES,
            title=f"{self.preset.title}, CLIP tuned on captions",
            training_pairs=len(self.learned),
            training_groups=len({self.pairs[row].group for row in self.learned}),
            retrieval={"batch": BATCH, "rounds": ROUNDS, **scores},
            presence=None if fit is None else asdict(fit),
            words=self._card_of_preset().words,
            learned=(),
            token_ids=tuple(getattr(model.clip.tokenizer, "token_ids", ())),
        )


def _describe_fit(fit: PresenceFit) -> str:
    consequence = (
        "so presence is still judged"
        if fit.holds
        else "which is too few: this version does not judge presence, and marks every word somewhere"
    )
    return (
        f"Presence was fitted again, on {fit.pictures} held-out pictures and all trained "
        f"words: {fit.agreement:.1%} of the decisions are as before, {consequence}."
    )


def _identify(pair: ImageCaption) -> list[Any]:
    """A pair and the state of its file, so that a changed image is read again."""
    status = pair.image.stat()
    return [
        str(pair.image),
        status.st_size,
        status.st_mtime_ns,
        pair.caption,
        pair.group,
        pair.slice,
        pair.window,
    ]
