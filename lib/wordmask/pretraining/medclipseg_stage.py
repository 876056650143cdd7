"""The bundled tiny weights of MedCLIPSeg: adapters and mask head on the bundled tiny CLIP, which is frozen.

    python -m wordmask.pretraining.medclipseg_stage --output runs/medclipseg_tiny

Half of the texts are bare words, because that is what people type; the others are sentences that are written
from the drawing. The same seed and steps give the same weights on one machine and number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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
from wordmask.phantoms.words import WORDS
from wordmask.pretraining.adapter_stages import (
    ENCODERS,
    SLICES_PER_STEP,
    Plan,
    choose_pairs,
    clearly_present,
    make_card,
    measure,
    run_from_command_line,
)
from wordmask.pretraining.decoder_stage import Score, log_scores
from wordmask.pretraining.loop import train
from wordmask.pretraining.phantom_data import (
    PhantomSlices,
    augment,
    cached_slices,
    word_masks,
)
from wordmask.weights.checkpoint import load_checkpoint, save_checkpoint

BARE = 0.5
RATE = 2e-3
PRESENCE_WEIGHT = 0.2


def new_model(preset: MedCLIPSegPreset) -> MedCLIPSeg:
    """The tiny CLIP as it ships, with rows for the words of the sentences, and random adapters."""
    checkpoint = load_checkpoint(ENCODERS)
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
        self.present = clearly_present(data)

    def __call__(self, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Masks (BCE and Dice) and presence (BCE)."""
        rows = torch.randint(len(self.data), (SLICES_PER_STEP,), generator=generator)
        images, labels = augment(self.data.images[rows], self.data.labels[rows], generator)
        pairs = choose_pairs(self.present[rows], generator)
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
    tests = cached_slices(plan.test_slices, plan.seed + 200, folder)
    score = measure(partial(mark, model, tests), tests)
    log_scores("medclipseg", score)
    token_ids = getattr(model.clip.tokenizer, "token_ids", ())
    save_checkpoint(output, model.state_dict(), make_card(preset, plan, {"bare words": score}, token_ids))
    return score


if __name__ == "__main__":
    run_from_command_line(__doc__, "runs/medclipseg_tiny", Plan(), run)
