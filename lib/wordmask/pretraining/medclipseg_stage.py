"""The bundled tiny weights of MedCLIPSeg: adapters and mask head on the bundled tiny CLIP, which is frozen.

    python -m wordmask.pretraining.medclipseg_stage --output runs/medclipseg_tiny

Half of the texts are bare words, because that is what people type; the others are sentences that are written
from the drawing. The same seed and steps give the same weights on one machine and number of threads.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from wordmask.encoders.clip import load_clip
from wordmask.encoders.tiny_tokenizer import token_ids_of
from wordmask.learning.losses import mask_loss, presence_loss
from wordmask.learning.prompt_styles import SENTENCE_WORDS, TRUE_STYLES, Style, describe
from wordmask.models.clip_sam import with_rows
from wordmask.models.medclipseg.model import MedCLIPSeg
from wordmask.models.medclipseg.network import FreeNoise
from wordmask.models.medclipseg.preset import MedCLIPSegPreset
from wordmask.models.registry import load_preset
from wordmask.phantoms import GENERATOR_VERSION
from wordmask.phantoms.words import WORDS
from wordmask.pretraining.decoder_stage import Score, log_scores, word_shares
from wordmask.pretraining.loop import train
from wordmask.pretraining.phantom_data import (
    SMALLEST_PRESENT,
    PhantomSlices,
    augment,
    cached_slices,
    word_masks,
)
from wordmask.weights.card import Card
from wordmask.weights.checkpoint import load_checkpoint, save_checkpoint

logger = logging.getLogger(__name__)

CLIP = "bundled/simple_vilmedsam_tiny"
SLICES_PER_STEP, WORDS_PER_SLICE = 8, 3  # the last of the words is absent from its slice
BARE = 0.5
RATE = 2e-3
PRESENCE_WEIGHT = 0.2


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are what the shipped weights were trained with."""

    slices: int = 6_000
    test_slices: int = 300
    steps: int = 1_200
    seed: int = 1


def new_model(preset: MedCLIPSegPreset) -> MedCLIPSeg:
    """The tiny CLIP as it ships, with rows for the words of the sentences, and random adapters."""
    checkpoint = load_checkpoint(CLIP)
    ids = tuple(sorted({*checkpoint.token_ids, *token_ids_of(SENTENCE_WORDS)}))
    model = MedCLIPSeg(preset, load_clip(preset.clip, token_ids=ids), trained_words=WORDS)
    tensors = with_rows(checkpoint, ids).tensors
    model.clip.load_state_dict(
        {name.removeprefix("clip."): value for name, value in tensors.items() if name.startswith("clip.")}
    )
    return model


class Steps:
    """The losses of a step, for `wordmask.pretraining.loop.train`.

    Args:
        model: learns.
        data: what it learns from.
        bare: share of bare words among the texts.
    """

    def __init__(self, model: MedCLIPSeg, data: PhantomSlices, bare: float = BARE) -> None:
        self.model, self.data, self.bare = model, data, bare
        self.present = word_shares(data.labels) > 2 * SMALLEST_PRESENT

    def __call__(self, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Masks (BCE and Dice) and presence (BCE)."""
        rows = torch.randint(len(self.data), (SLICES_PER_STEP,), generator=generator)
        images, labels = augment(self.data.images[rows], self.data.labels[rows], generator)
        pairs = self._pairs(rows, generator)
        frame = self.model.slice_frame((images.shape[-2], images.shape[-1]))
        masks = word_masks(labels[pairs[:, 0]], pairs[:, 1])
        targets = (frame.to_model(masks[:, None])[:, 0] > 0.5).float()
        texts = [
            self._text(WORDS[int(word)], mask, generator)
            for (_, word), mask in zip(pairs.tolist(), masks, strict=True)
        ]
        tokens = self.model.clip.tokenizer(texts)
        with torch.no_grad():
            pixels = self.model.normalise(frame.to_model(images))
            image = self.model.network.start_image(pixels)[pairs[:, 0]]
            text = self.model.network.start_text(tokens)
        noise = FreeNoise(self.model.network.noise_shapes(tokens.shape[1]), len(pairs), generator)
        draws = self.model.preset.adapters.probabilistic
        found = self.model.network(image, text, tokens, 1, noise if draws else noise.mean)
        logits = self.model.draw(found)[0]
        mask = mask_loss(logits, targets)
        presence = presence_loss(self.model.presence_logit(found), targets)
        return {"loss": mask + PRESENCE_WEIGHT * presence, "mask": mask, "presence": presence}

    def _pairs(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """(slice of the batch, word): present words of each slice, and an absent one."""
        pairs = []
        for place, row in enumerate(rows.tolist()):
            there, missing = self.present[row].nonzero()[:, 0], (~self.present[row]).nonzero()[:, 0]
            chosen = there[torch.randperm(len(there), generator=generator)][: WORDS_PER_SLICE - 1]
            absent = missing[
                torch.randint(len(missing), (WORDS_PER_SLICE - len(chosen),), generator=generator)
            ]
            pairs += [(place, int(word)) for word in (*chosen, *absent)]
        return torch.tensor(pairs)

    def _text(self, word: str, mask: Tensor, generator: torch.Generator) -> str:
        if float(torch.rand(1, generator=generator)) < self.bare:
            return word
        style = TRUE_STYLES[int(torch.randint(len(TRUE_STYLES), (1,), generator=generator))]
        return describe(word, mask.bool().numpy(), style)


@torch.no_grad()
def mark(
    model: MedCLIPSeg,
    data: PhantomSlices,
    row: int,
    words: Sequence[int],
    style: Style = "bare",
    *,
    drawn: bool = False,
) -> tuple[Tensor, Tensor]:
    """Masks of words in a slice, and the true ones.

    Args:
        model: marks.
        data: has the slice.
        row: of the slice.
        words: numbers of the words.
        style: what the model is told of a word that is there; a word that is not there is always bare.
        drawn: whether the mask is the mean of samples, as for a user; otherwise that of the mean values, in
            one pass.

    Returns:
        bool [words, H, W], twice.
    """
    image = data.images[row : row + 1]
    frame = model.slice_frame((image.shape[-2], image.shape[-1]))
    pixels = model.normalise(frame.to_model(image.float() / 255))
    truth = word_masks(data.labels[row : row + 1].expand(len(words), -1, -1), torch.tensor(words)).bool()
    texts = [describe(WORDS[word], mask.numpy(), style) for word, mask in zip(words, truth, strict=True)]
    tokens = model.clip.tokenizer(texts)
    generator = torch.Generator().manual_seed(row)
    noise = FreeNoise(model.network.noise_shapes(tokens.shape[1]), len(words), generator)
    found = model.network(
        model.network.start_image(pixels).expand(len(words), -1, -1),
        model.network.start_text(tokens),
        tokens,
        model.preset.samples if drawn else 1,
        noise if drawn else noise.mean,
    )
    return frame.to_original(model.draw(found).sigmoid().mean(0)) > 0.5, truth


def evaluate(model: MedCLIPSeg, data: PhantomSlices) -> Score:
    """Dice of every word in slices that show it, bare, with the mean values; and false alarms."""
    shares = word_shares(data.labels)
    dices: dict[str, list[float]] = {word: [] for word in WORDS}
    alarms = []
    for row in range(len(data)):
        clear = (shares[row] > 2 * SMALLEST_PRESENT) | (shares[row] == 0)
        words = clear.nonzero()[:, 0].tolist()
        for word, mask, truth in zip(words, *mark(model, data, row, words), strict=True):
            if truth.any():
                dices[WORDS[word]].append(float(2 * (mask & truth).sum() / (mask.sum() + truth.sum())))
            else:
                alarms.append(float(mask.float().mean()) > 0.002)
    means = {word: sum(values) / len(values) for word, values in dices.items() if values}
    return Score(sum(means.values()) / len(means), means, sum(alarms) / max(1, len(alarms)))


def fit(
    preset: MedCLIPSegPreset, data: PhantomSlices, plan: Plan, folder: Path, *, bare: float = BARE
) -> MedCLIPSeg:
    """Train adapters, mask head and scores; an interrupted training continues.

    Args:
        preset: of the model.
        data: what it learns from.
        plan: its steps and seed.
        folder: for the state of the training.
        bare: share of bare words among the texts.
    """
    torch.manual_seed(plan.seed)
    model = new_model(preset)
    model.requires_grad_(False)
    learning = [model.network.adapters, model.network.mask_head, model.network.upscale, model.scores]
    parameters = [parameter for part in learning for parameter in part.requires_grad_(True).parameters()]
    train(
        model,
        [{"params": parameters, "lr": RATE}],
        Steps(model, data, bare),
        steps=plan.steps,
        seed=plan.seed,
        checkpoint=folder / "medclipseg.pt",
        weight_decay=1e-4,
    )
    return model.eval()


def run(folder: Path, plan: Plan, output: Path) -> Score:
    """Train, measure and bundle; an interrupted run continues."""
    preset = load_preset("medclipseg", "tiny")
    assert isinstance(preset, MedCLIPSegPreset)
    folder.mkdir(parents=True, exist_ok=True)
    model = fit(preset, cached_slices(plan.slices, plan.seed + 300, folder), plan, folder)
    score = evaluate(model, cached_slices(plan.test_slices, plan.seed + 200, folder))
    log_scores("medclipseg", score)
    save_checkpoint(output, model.state_dict(), _card(preset, plan, score, model))
    return score


def _card(preset: MedCLIPSegPreset, plan: Plan, score: Score, model: MedCLIPSeg) -> Card:
    tokenizer = model.clip.tokenizer
    content = {
        "title": preset.title,
        "intended_use": "Demonstration of the workflow on synthetic phantoms. Not for patients.",
        "words": list(WORDS),
        "training_data": f"{plan.slices} phantom slices, generator version {GENERATOR_VERSION}",
        "phantom_generator": GENERATOR_VERSION,
        "plan": asdict(plan),
        "preset": preset.model_dump(mode="json"),
        "test": {"bare words": asdict(score)},
        "libraries": {"torch": torch.__version__},
        "token_ids": list(getattr(tokenizer, "token_ids", ())),
    }
    return Card.model_validate(content)


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/medclipseg_tiny"))
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--slices", type=int, default=Plan.slices)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(asked.output, Plan(slices=asked.slices, steps=asked.steps), asked.output / "weights")


if __name__ == "__main__":
    main()
