"""The bundled tiny weights of CLIP-Guided SAM: adapters, prompt encoder and mask decoder.

    python -m wordmask.pretraining.clip_guided_sam_stage --output runs/clip_guided_sam_tiny

They are trained on the bundled tiny CLIP and SAM. CLIP, SAM's image encoder without its adapters, and the
scores of presence stay as they are. Beyond the paper: clicks are simulated as corrections, and now and then
they contradict the word, which has not made them overrule it. The same seed and steps give the same
weights on one machine and number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from wordmask.learning.clicks import corrective_clicks
from wordmask.learning.guided_prompts import KnownTexts, PromptShares, draw_clicked, draw_prompted
from wordmask.learning.losses import mask_and_iou_loss
from wordmask.models.base import SliceKey
from wordmask.models.clip_guided_sam.model import CLIPGuidedSAM
from wordmask.models.clip_guided_sam.preset import CLIPGuidedSAMPreset
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
from wordmask.pretraining.clip_stage import sample_spellings
from wordmask.pretraining.decoder_stage import Score, log_scores
from wordmask.pretraining.loop import train
from wordmask.pretraining.phantom_data import PhantomSlices, augment, cached_slices, word_masks
from wordmask.weights.checkpoint import load_checkpoint, save_checkpoint

RATE = 2e-3
PLAN = Plan(steps=1_000, test_slices=100)
OVERRULED = 0.15  # of the words that are there: another one is asked for, and clicks say what is meant
TAKEN = ("clip.", "sam.")  # parts of the network that the bundled encoders bring along
SHARES = PromptShares()
TESTED = {"bare words": 0, "words and one click": 1, "words and three clicks": 3}


def new_model(preset: CLIPGuidedSAMPreset, kind: type[CLIPGuidedSAM] = CLIPGuidedSAM) -> CLIPGuidedSAM:
    """The tiny CLIP and SAM as they ship, with adapters that do nothing yet."""
    checkpoint = load_checkpoint(ENCODERS)
    model = kind.untrained(preset, token_ids=checkpoint.token_ids, words=WORDS)
    parts = {name: value for name, value in checkpoint.tensors.items() if name.startswith(TAKEN)}
    model.network.load_state_dict(parts, strict=False)
    model.scores.load_state_dict(
        {
            name.removeprefix("scores."): value
            for name, value in checkpoint.tensors.items()
            if name.startswith("scores.")
        }
    )
    return model


class Steps:
    """The losses of a step, for `wordmask.pretraining.loop.train`.

    Args:
        model: learns.
        data: what it learns from.
        shares: of the ways to prompt.
    """

    def __init__(self, model: CLIPGuidedSAM, data: PhantomSlices, shares: PromptShares = SHARES) -> None:
        self.model, self.data, self.shares = model, data, shares
        self.present = clearly_present(data)
        self.texts = KnownTexts(model)

    def __call__(self, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Masks (BCE, Dice and IoU)."""
        rows = torch.randint(len(self.data), (SLICES_PER_STEP,), generator=generator)
        images, labels = augment(self.data.images[rows], self.data.labels[rows], generator)
        pairs = choose_pairs(self.present[rows], generator)
        frame = self.model.logits_frame((images.shape[-2], images.shape[-1]))
        masks = word_masks(labels[pairs[:, 0]], pairs[:, 1])
        targets = (frame.to_model(masks[:, None])[:, 0] > 0.5).float()
        overruled = targets.flatten(1).any(1) & (torch.rand(len(pairs), generator=generator) < OVERRULED)
        others = torch.randint(len(WORDS), (len(pairs),), generator=generator)
        words, places = torch.where(overruled, others, pairs[:, 1]).unique(return_inverse=True)
        texts = self.texts(sample_spellings(generator, [WORDS[int(word)] for word in words]))
        with torch.autocast("cpu", dtype=torch.bfloat16):  # 1.6 times as fast
            slices = self.model.encode_slices(images, _keys(len(images)))
            guided = self.model.guide(slices, texts, torch.stack([pairs[:, 0], places], 1))
        guided = replace(guided, embeddings=guided.embeddings.float())
        logits = draw_prompted(self.model, guided, targets, self.shares, generator, overruled)
        return {"loss": mask_and_iou_loss(logits, targets)}


def _keys(count: int) -> list[SliceKey]:
    return [SliceKey("0" * 64, "axial", number) for number in range(count)]


@torch.no_grad()
def mark(
    model: CLIPGuidedSAM, data: PhantomSlices, row: int, words: Sequence[int], clicks: int = 0
) -> tuple[Tensor, Tensor]:
    """Masks of words in a slice, and the true ones.

    Args:
        model: marks.
        data: has the slice.
        row: of the slice.
        words: numbers of the words.
        clicks: corrections of what the word alone marks.

    Returns:
        bool [words, H, W], twice.
    """
    image = data.images[row : row + 1].float() / 255
    truth = word_masks(data.labels[row : row + 1].expand(len(words), -1, -1), torch.tensor(words))
    texts = KnownTexts(model)([WORDS[word] for word in words])
    pairs = torch.tensor([[0, number] for number in range(len(words))])
    guided = model.guide(model.encode_slices(image, _keys(1)), texts, pairs)
    logits = model.draw(guided)
    if clicks:
        frame = model.logits_frame((image.shape[-2], image.shape[-1]))
        targets = frame.to_model(truth[:, None])[:, 0] > 0.5
        made = corrective_clicks(
            lambda places, labels: draw_clicked(model, guided, places, labels) > 0,
            logits > 0,
            targets,
            torch.full((len(words),), clicks),
        )
        logits = draw_clicked(model, guided, *made)
    return guided.frame.to_original(logits) > 0, truth.bool()


def fit(
    preset: CLIPGuidedSAMPreset,
    data: PhantomSlices,
    plan: Plan,
    folder: Path,
    *,
    shares: PromptShares = SHARES,
    kind: type[CLIPGuidedSAM] = CLIPGuidedSAM,
) -> CLIPGuidedSAM:
    """Train adapters, prompt encoder and mask decoder; an interrupted training continues.

    Args:
        preset: of the model.
        data: what it learns from.
        plan: its steps and seed.
        folder: for the state of the training.
        shares: of the ways to prompt.
        kind: of model, for experiments with a changed one.
    """
    torch.manual_seed(plan.seed)
    model = new_model(preset, kind)
    model.requires_grad_(False)
    network = model.network
    learning = [network.regular, network.semantic, network.sam.prompt_encoder, network.sam.mask_decoder]
    parameters = [parameter for part in learning for parameter in part.requires_grad_(True).parameters()]
    train(
        model,
        [{"params": parameters, "lr": RATE}],
        Steps(model, data, shares),
        steps=plan.steps,
        seed=plan.seed,
        checkpoint=folder / "clip_guided_sam.pt",
        weight_decay=1e-4,
    )
    model.weights_changed()
    return model.eval()


def run(folder: Path, plan: Plan, output: Path) -> dict[str, Score]:
    """Train, measure and bundle; an interrupted run continues."""
    preset = load_preset("clip_guided_sam", "tiny")
    assert isinstance(preset, CLIPGuidedSAMPreset)
    folder.mkdir(parents=True, exist_ok=True)
    model = fit(preset, cached_slices(plan.slices, plan.seed + 300, folder), plan, folder)
    tests = cached_slices(plan.test_slices, plan.seed + 200, folder)
    scores = {
        name: measure(partial(mark, model, tests, clicks=clicks), tests) for name, clicks in TESTED.items()
    }
    for name, score in scores.items():
        log_scores(name, score)
    token_ids = getattr(model.clip.tokenizer, "token_ids", ())
    save_checkpoint(output, model.state_dict(), make_card(preset, plan, scores, token_ids))
    return scores


if __name__ == "__main__":
    run_from_command_line(__doc__, "runs/clip_guided_sam_tiny", PLAN, run)
