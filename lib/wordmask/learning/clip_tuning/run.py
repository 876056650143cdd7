"""Tune a model's CLIP on pairs of pictures and captions, judge it on pairs that it did not see, and publish
what got better.

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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.encoders.clip import ClipEncoder, load_clip
from wordmask.encoders.tiny_tokenizer import token_ids_of
from wordmask.errors import RequestError
from wordmask.inference.memory import explain_out_of_memory
from wordmask.learning.captions import CaptionList, ImageCaption
from wordmask.learning.clip_tuning.batches import Bytes, stored_pictures
from wordmask.learning.clip_tuning.epochs import TuningPairs, image_embeddings, tune, unit_pixels
from wordmask.learning.clip_tuning.presence_fit import PresenceFit, fit_presence
from wordmask.learning.clip_tuning.recipe import TuneRecipe
from wordmask.learning.clip_tuning.retrieval import BATCH, ROUNDS, Retrieval, retrieval
from wordmask.learning.splitting import judging_groups
from wordmask.learning.training import (
    Check,
    Report,
    TrainingProgress,
    fill_card,
    find_start,
    publish_if_better,
)
from wordmask.models.base import choose_device
from wordmask.models.clip_sam import with_rows
from wordmask.models.presets import Preset, load_preset
from wordmask.models.word_scores import ClipWithScores
from wordmask.progress import CancelToken
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import bundle_folder, load_bundle, read_card, save_bundle
from wordmask.weights.versions import ModelStore, weights_digest

MODEL = "medclip_samv2"
TUNED = ("clip.", "scores.")  # of a bundle: what this training starts from and may change
LIBRARIES = ("torch", "open_clip_torch", "timm", "transformers")
ENCODED = 32  # pictures at a time, where nothing is learned
MOST_FITTED = 500  # pictures that the presence is fitted on


@dataclass(frozen=True)
class TuneRequest:
    """preset: what to tune; start: number of the version to go on from, None.

    The one that serves, 0: the preset's own weights.

    force: publish also when retrieval did not rise, or without a check.
    """

    preset: str
    recipe: TuneRecipe
    device: str = "auto"
    start: int | None = None
    force: bool = False


@dataclass(frozen=True)
class TuneReport:
    """What came of a tuning.

    version: its number when it was published; before, after: on the held-out pairs, None without any.

    cut: captions that fill all the places of the text tower, whose ends it may not have seen; short: captions
    that were left out.
    presence: how scores of presence were fitted anew, None where the preset judges none.
    """

    version: int | None
    parent: int | None
    message: str
    before: Retrieval | None
    after: Retrieval | None
    training_pairs: int
    short: int
    cut: int
    seconds: float
    presence: PresenceFit | None = None

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def tune_clip(
    pairs: CaptionList,
    asked: TuneRequest,
    store: ModelStore,
    *,
    run_folder: Path,
    report: Report = lambda _: None,
    cancel: CancelToken | None = None,
) -> TuneReport:
    """Learn from the pairs, and publish in ``store`` when retrieval (top 1, mean of both ways) on held-out
    pairs rose.

    run_folder: keeps what an interrupted run goes on from, in a folder of its own for each preset, start,
    recipe and list of pairs; that is removed when a version is published. Raises RequestError, VolumeError,
    WeightsError, DiskFullError, OutOfMemoryError with what to do, CancelledError.
    """
    advice = f"use fewer pairs per step (batch is {asked.recipe.batch})"
    with explain_out_of_memory(f"There is not enough memory for this tuning; {advice}."):
        return _Tuning(pairs, asked, store, run_folder, report, cancel or CancelToken()).run()


class _Tuning:
    def __init__(
        self,
        pairs: CaptionList,
        asked: TuneRequest,
        store: ModelStore,
        run_folder: Path,
        report: Report,
        cancel: CancelToken,
    ) -> None:
        self.pairs, self.short, self.asked, self.store = pairs.pairs, pairs.short, asked, store
        self.runs, self.report, self.cancel = run_folder, report, cancel
        self.preset, self.device = load_preset(MODEL, asked.preset), choose_device(asked.device)
        self.began = time.monotonic()
        judging = judging_groups({pair.group for pair in self.pairs}, asked.recipe.held_out)
        self.held = [row for row, pair in enumerate(self.pairs) if pair.group in judging]
        self.learned = [row for row, pair in enumerate(self.pairs) if pair.group not in judging]

    def run(self) -> TuneReport:
        if len(self.learned) < 2:
            raise RequestError(
                f"{len(self.pairs)} pairs of pictures and captions are too few to learn from; give more, of "
                "several images."
            )
        if not self.held and not self.asked.force:
            raise RequestError(
                "All pairs are of one group, so none is left to check the result; add others, or force the "
                "publication."
            )
        parent = self._parent()
        start = None if parent is None else self.store.folder(parent)
        captions = [self.pairs[row].caption for row in self.learned]
        served, model = start_clip(self.preset, start, ()), start_clip(self.preset, start, captions)
        folder = self._folder(start)
        pictures = stored_pictures(
            folder / "pictures.npy", self.pairs, model.clip.image_size, self.preset.windows,
            lambda done, total: self.report(TrainingProgress("reading pictures", done, total)), self.cancel,
        )  # fmt: skip
        said = self._said(model.clip)
        before, words_before = self._judge(served.to(self.device), pictures, said)
        model.to(self.device)
        data = TuningPairs(
            pictures,
            self.learned,
            captions,
            [said[r] for r in self.learned],
            [self._shown[r] for r in self.learned],
        )
        epochs = self.asked.recipe.epochs
        tune(
            model.clip, data, self.asked.recipe, folder,
            lambda epoch, loss: self.report(TrainingProgress("tuning", epoch, epochs, loss)), self.cancel,
        )  # fmt: skip
        after, words_after = self._judge(model, pictures, said)
        fit = None
        if words_before is not None and words_after is not None and self.preset.presence is not None:
            fit = fit_presence(model.scores, words_before, words_after, self.preset.presence.slice_logit)
        number, message = self._decide(model, parent, before, after, fit)
        if number is not None:
            shutil.rmtree(folder, ignore_errors=True)
        cut = sum(bool(tokens[-1]) for tokens in said)
        seconds = round(time.monotonic() - self.began, 1)
        return TuneReport(
            version=number,
            parent=parent,
            message=message,
            before=before,
            after=after,
            training_pairs=len(self.learned),
            short=self.short,
            cut=cut,
            seconds=seconds,
            presence=fit,
        )

    def _parent(self) -> int | None:
        number = find_start(self.store, self.asked.start)
        if number is None:
            return None
        trained = read_card(self.store.folder(number)).preset
        if trained != self.asked.preset:
            raise RequestError(
                f"Version {number} was trained from the preset {trained!r}; tune that preset, or start from "
                "0."
            )
        return number

    def _folder(self, start: Path | None) -> Path:
        """Of this preset, start, recipe and these pairs alone.

        Nothing can go on from the checkpoint of another training.
        """
        base = None if self.preset.weights is None else weights_digest(bundle_folder(self.preset.weights))
        what = [
            self.preset.model_dump(mode="json"), base, None if start is None else weights_digest(start),
            self.asked.recipe.model_dump(mode="json"), [_identity(pair) for pair in self.pairs],
        ]  # fmt: skip
        folder = self.runs / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _said(self, clip: ClipEncoder) -> list[tuple[int, ...]]:
        """Each caption as the text tower reads it.

        Equal ones say the same to it, also where they differ beyond what it reads.
        """
        return [tuple(clip.tokenizer([pair.caption])[0].tolist()) for pair in self.pairs]

    @cached_property
    def _shown(self) -> list[Hashable]:
        return [(str(pair.image), pair.slice) for pair in self.pairs]

    def _judge(
        self, model: ClipWithScores, pictures: Bytes, said: Sequence[Hashable]
    ) -> tuple[Retrieval | None, Tensor | None]:
        """Retrieval on the held-out pairs, and the cosines of their pictures and words [pictures, words],
        where presence is judged.
        """
        if not self.held:
            return None, None
        self.report(TrainingProgress("measuring"))
        image = embedded(model.clip, pictures, self.held, self.cancel)
        text = _texts(model.clip, [self.pairs[row].caption for row in self.held])
        found = retrieval(
            image, text, [said[row] for row in self.held], [self._shown[row] for row in self.held]
        )
        words = self._card_of_preset().words
        if self.preset.presence is None or not words:
            return found, None
        return found, image[:MOST_FITTED] @ _texts(model.clip, words).T

    def _card_of_preset(self) -> Card:
        return Card() if self.preset.weights is None else read_card(bundle_folder(self.preset.weights))

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
                f"retrieval, top 1, {after.top1:.3f} against {before.top1:.3f} before, on {after.pairs} "
                "held-out pairs"
            )
            check = Check(after.top1, before.top1, figures)

        def write(folder: Path) -> None:
            save_bundle(folder, self._changed(model), self._card(model, parent, before, after, fit))

        return publish_if_better(self.store, check, write, self.cancel, force=self.asked.force)

    def _changed(self, model: ClipWithScores) -> dict[str, Tensor]:
        """What differs from the preset's own weights, whatever version this tuning started from."""
        own = start_clip(self.preset, None, ()).state_dict()
        now = {name: value.detach().cpu() for name, value in model.state_dict().items()}
        return {
            name: value
            for name, value in now.items()
            if value.shape != own[name].shape or not torch.equal(value, own[name])
        }

    def _card(
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
            model=MODEL,
            preset=self.asked.preset,
            parent=parent,
            recipe=self.asked.recipe,
            forced=self.asked.force,
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


def start_clip(preset: Preset, start: Path | None, captions: Sequence[str]) -> ClipWithScores:
    """The preset's CLIP with the weights of version ``start`` laid over it, frozen.

    captions: tiny's text table gets rows for what is new in them, random at first.

    WeightsError: weights are missing, damaged or of another architecture.
    """
    bundles = [
        load_bundle(location).only(TUNED) for location in (preset.weights, start) if location is not None
    ]
    known = bundles[-1].token_ids if bundles else ()
    wanted = sorted({*known, *token_ids_of(captions)}) if known else []
    model = ClipWithScores(load_clip(preset.clip, token_ids=wanted))
    for bundle in bundles:
        with_rows(bundle, wanted).overlay(model)
    return model.eval().requires_grad_(False)


def embedded(clip: ClipEncoder, pictures: Bytes, rows: Sequence[int], cancel: CancelToken) -> Tensor:
    """[N, E], unit length, float32 on the CPU, of pictures [all, 3, S, S] uint8 at ``rows``."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), ENCODED):
            cancel.check()
            pixels = unit_pixels(pictures, rows[start : start + ENCODED], clip.logit_scale.device)
            parts.append(F.normalize(image_embeddings(clip, pixels).float(), dim=1).cpu())
    return torch.cat(parts)


def _texts(clip: ClipEncoder, texts: Sequence[str]) -> Tensor:
    """[N, E], unit length, on the CPU; equal texts have equal rows, to the last bit."""
    distinct = list(dict.fromkeys(texts))
    with torch.inference_mode():
        embedding = clip.encode_text(distinct).float().cpu()
    place = {text: row for row, text in enumerate(distinct)}
    return embedding[[place[text] for text in texts]]


def _identity(pair: ImageCaption) -> list[Any]:
    """Of a pair and its file, so that a changed image is read again."""
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
