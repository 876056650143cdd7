"""The bundled tiny weights, from nothing: ``wordmask pretrain --output runs/tiny``.

Stages, each resumable and each with its own seed: phantom slices, CLIP, SAM, decoder variants (prior, word
token), joint phase, bundle.
Same seed and step counts: same weights on the same machine and number of threads.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from wordmask.encoders.clip import build_tiny_clip
from wordmask.encoders.sam import build_tiny_sam, warm_start_from_clip
from wordmask.encoders.tiny_tokenizer import TinyTokenizer
from wordmask.models.registry import load_preset
from wordmask.models.simple_vilmedsam.decoder import PositionPromptDecoder
from wordmask.models.simple_vilmedsam.model import SimpleViLMedSAM
from wordmask.models.simple_vilmedsam.preset import DecoderPreset, SimpleViLMedSAMPreset
from wordmask.models.word_scores import ClipWithScores
from wordmask.phantoms import GENERATOR_VERSION
from wordmask.phantoms.words import WORDS
from wordmask.pretraining.baselines import fit_baselines, save_baselines
from wordmask.pretraining.clip_stage import train_clip
from wordmask.pretraining.decoder_stage import (
    PairData,
    Score,
    evaluate,
    log_scores,
    new_decoder,
    prepare_pairs,
    sam_embeddings,
    train_decoder,
    train_jointly,
)
from wordmask.pretraining.phantom_data import PhantomSlices, cached_slices
from wordmask.pretraining.sam_stage import SamWithHead, train_sam
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import save_checkpoint
from wordmask.words.vocabulary import load_vocabulary

logger = logging.getLogger(__name__)

BOTTLENECK_LAYERS = (2, 3)  # of the tiny CLIP's five blocks: where the bottleneck may sit
VARIANTS: tuple[tuple[str, bool], ...] = (
    ("m2ib", False),
    ("m2ib", True),
    ("similarity", False),
    ("similarity", True),
    ("both", True),
)
"""(prior, word token), each trained and measured for itself."""


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are what the shipped weights were trained with."""

    slices: int = 12_000
    pair_slices: int = 6_000
    test_slices: int = 400
    clip_steps: int = 4_000
    sam_steps: int = 2_150
    decoder_steps: int = 500
    joint_steps: int = 1_400
    seed: int = 1


class Pretraining:
    """One run in one folder; each part is trained when it is asked for, or taken from an earlier run."""

    def __init__(self, folder: Path, plan: Plan, preset: SimpleViLMedSAMPreset | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.plan = folder, plan
        self.preset = preset or cast(SimpleViLMedSAMPreset, load_preset("simple_vilmedsam", "tiny"))

    def token_ids(self) -> list[int]:
        """The rows of the text table: what the vocabulary needs when the run starts, kept with the run."""
        path = self.folder / "token_ids.json"
        architecture = self.preset.clip.architecture
        if not path.exists() and architecture is not None:
            tokenizer = TinyTokenizer.for_texts(load_vocabulary().texts(), architecture.context_length)
            path.write_text(json.dumps(tokenizer.token_ids), encoding="utf-8")
        stored: list[int] = json.loads(path.read_text(encoding="utf-8"))
        return stored

    def slices(self) -> PhantomSlices:
        """What CLIP and SAM are trained on."""
        return cached_slices(self.plan.slices, self.plan.seed + 100, self.folder)

    def clip(self) -> ClipWithScores:
        """Stage 1: CLIP."""
        torch.manual_seed(self.plan.seed)
        architecture = self.preset.clip.architecture
        if architecture is None:
            raise ValueError(f"Preset {self.preset.name!r} has no tiny CLIP to train.")
        model = ClipWithScores(build_tiny_clip(architecture, self.token_ids()))
        train_clip(
            model,
            self.slices(),
            steps=self.plan.clip_steps,
            seed=self.plan.seed + 1,
            layers=BOTTLENECK_LAYERS,
            checkpoint=self.folder / "clip.pt",
        )
        return model.eval().requires_grad_(False)

    def sam(self, clip: ClipWithScores) -> Sam:
        """Stage 2: SAM, started from the blocks of stage 1."""
        torch.manual_seed(self.plan.seed)
        data = self.slices()
        sam = build_tiny_sam(self.preset.sam.architecture)
        warm_start_from_clip(sam.image_encoder, clip.clip)
        model = SamWithHead(sam, self.preset.sam.architecture.out_channels, data)
        train_sam(
            model, data, steps=self.plan.sam_steps, seed=self.plan.seed + 2, checkpoint=self.folder / "sam.pt"
        )
        return model.sam.eval()

    def pairs(self, clip: ClipWithScores, *, test: bool) -> PairData:
        """Frozen inputs of the decoder: for training, or every word of slices of another seed."""
        count = self.plan.test_slices if test else self.plan.pair_slices
        seed = self.plan.seed + (200 if test else 300)
        path = self.folder / f"pairs_{seed}_{count}.safetensors"
        if not path.exists():
            logger.info("preparing %s pairs", "test" if test else "training")
            architecture = self.preset.sam.architecture
            made = prepare_pairs(
                clip,
                architecture.image_size,
                architecture.grid,
                cached_slices(count, seed, self.folder),
                bottleneck=self.preset.bottleneck,
                seed=seed,
                every_word=test,
            )
            made.save(path)
        return PairData.load(path)

    def decoder(
        self, embeddings: Tensor, data: PairData, preset: DecoderPreset, steps: int
    ) -> PositionPromptDecoder:
        """Stage 3: one variant on the frozen SAM embeddings of the pairs' slices."""
        torch.manual_seed(self.plan.seed)
        decoder = new_decoder(preset, data.text.shape[1] + 1)
        name = f"decoder_{preset.prior}{'_token' if preset.word_token else ''}_{steps}.pt"
        train_decoder(
            decoder, embeddings, data, steps=steps, seed=self.plan.seed + 3, checkpoint=self.folder / name
        )
        return decoder

    def compare_variants(
        self, embeddings: Tensor, data: PairData, test_embeddings: Tensor, test: PairData
    ) -> dict[str, Score]:
        """Every variant for the same steps, measured on the test pairs; the table goes to variants.json."""
        scores = {}
        for prior, token in VARIANTS:
            preset = self.preset.decoder.model_copy(update={"prior": prior, "word_token": token})
            decoder = self.decoder(embeddings, data, preset, self.plan.decoder_steps)
            name = f"{prior}, {'word token' if token else 'no token'}"
            scores[name] = evaluate(decoder, test_embeddings, test)
            log_scores(name, scores[name])
        (self.folder / "variants.json").write_text(
            json.dumps({n: asdict(s) for n, s in scores.items()}, indent=1), encoding="utf-8"
        )
        return scores

    def joint(self, sam: Sam, decoder: PositionPromptDecoder, data: PairData) -> None:
        """Stage 4: SAM's encoder and the decoder together, in place."""
        train_jointly(
            sam,
            decoder,
            data,
            steps=self.plan.joint_steps,
            seed=self.plan.seed + 4,
            checkpoint=self.folder / "joint.pt",
        )

    def bundle(
        self,
        clip: ClipWithScores,
        sam: Sam,
        decoder: PositionPromptDecoder,
        scores: dict[str, Score],
        output: Path,
    ) -> None:
        """Weights, card and baselines, as they ship."""
        model = SimpleViLMedSAM(self.preset, clip.clip, sam, trained_words=WORDS)
        model.decoder.load_state_dict(decoder.state_dict())
        model.scores.load_state_dict(clip.scores.state_dict())
        save_checkpoint(output, model.state_dict(), self.card(scores))
        save_baselines(output, fit_baselines(self.slices()))

    def card(self, scores: dict[str, Score]) -> Card:
        """What these weights are, for people and for the loader."""
        content = {
            "title": self.preset.title,
            "intended_use": "Demonstration of the workflow on synthetic phantoms. Not for patients.",
            "words": list(WORDS),
            "training_data": f"{self.plan.slices} phantom slices, generator version {GENERATOR_VERSION}",
            "phantom_generator": GENERATOR_VERSION,
            "plan": asdict(self.plan),
            "preset": self.preset.model_dump(mode="json"),
            "test": {name: asdict(score) for name, score in scores.items()},
            "libraries": {"torch": torch.__version__},
            "token_ids": self.token_ids(),
        }
        return Card.model_validate(content)

    def run(self, output: Path) -> None:
        """Everything, in order; a run that was interrupted continues where it was."""
        clip = self.clip()
        sam = self.sam(clip)
        data, test = self.pairs(clip, test=False), self.pairs(clip, test=True)
        embeddings, test_embeddings = sam_embeddings(sam, data.images), sam_embeddings(sam, test.images)
        scores = self.compare_variants(embeddings, data, test_embeddings, test)
        decoder = self.decoder(embeddings, data, self.preset.decoder, self.plan.decoder_steps)
        scores["shipped, before the joint phase"] = evaluate(decoder, test_embeddings, test)
        self.joint(sam, decoder, data)
        scores["shipped"] = evaluate(decoder, sam_embeddings(sam, test.images), test)
        log_scores("shipped", scores["shipped"])
        self.bundle(clip, sam, decoder, scores, output)
