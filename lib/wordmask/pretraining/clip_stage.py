"""Stage 1 of the tiny weights: a CLIP whose image and patch embeddings agree with words.

They must agree under the bottleneck's noise, too. Source: design measurements of the project (docs/tiny.md).
Two sigmoid losses: image against "the word covers enough of the slice", and patch against "the share of the
patch that the word covers". In half of each batch the tokens are mixed with noise as the information
bottleneck does, so that its inputs are familiar ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wordmask.data.letterbox import Letterbox, labels_in_frame
from wordmask.models.word_scores import ClipWithScores
from wordmask.phantoms.words import WORDS
from wordmask.pretraining.loop import train
from wordmask.pretraining.phantom_data import SMALLEST_PRESENT, PhantomSlices, augment, word_fractions
from wordmask.words.vocabulary import load_vocabulary

BATCH = 32
LEARNING_RATE = 1e-3
DENSE_WEIGHT = 4.0
INSIDE_WEIGHT = 6.0


def spellings(word: str) -> tuple[str, ...]:
    """A trained word and everything that the vocabulary treats as the same structure."""
    entry = load_vocabulary().lookup(word)
    if entry is None:
        return (word,)
    return tuple(dict.fromkeys((word, entry.word, *entry.synonyms, *entry.plurals)))


def sample_spellings(generator: torch.Generator, words: Sequence[str] = WORDS) -> list[str]:
    """One spelling per word; the word itself half of the time."""
    chosen = []
    for word in words:
        options = spellings(word)
        plain = torch.rand(1, generator=generator) < 0.5
        chosen.append(word if plain else options[int(torch.randint(len(options), (1,), generator=generator))])
    return chosen


def train_clip(
    model: ClipWithScores,
    data: PhantomSlices,
    *,
    steps: int,
    seed: int,
    layers: tuple[int, ...],
    checkpoint: Path,
) -> None:
    """Train CLIP and its scores in place.

    Args:
        model: what learns.
        data: the slices.
        steps: of the training.
        seed: of everything random.
        layers: the blocks after which the bottleneck may sit; each step uses one of them in turn.
        checkpoint: file from which an interrupted training continues.
    """

    def loss(generator: torch.Generator, step: int) -> dict[str, Tensor]:
        rows = torch.randint(len(data), (BATCH,), generator=generator)
        images, labels = augment(data.images[rows], data.labels[rows], generator)
        layer = layers[step % len(layers)]
        return clip_losses(model, images, labels, layer, generator)

    groups: list[dict[str, object]] = [{"params": list(model.parameters()), "lr": LEARNING_RATE}]
    train(model, groups, loss, steps=steps, seed=seed, checkpoint=checkpoint)


def clip_losses(
    model: ClipWithScores, images: Tensor, labels: Tensor, layer: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Losses of one step, for images [B, 3, H, W] in 0..1 and labels [B, H, W]."""
    clip, size = model.clip, model.clip.image_size
    frame = Letterbox.fit((images.shape[-2], images.shape[-1]), (size, size), "center")
    # Shape [B, words, patches].
    fractions = word_fractions(labels_in_frame(labels, frame, size), clip.grid).flatten(2)
    present = (fractions.mean(2) > SMALLEST_PRESENT).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = clip.head(clip.normalise(frame.to_model(images)), layer)
        kept = torch.ones(len(images), clip.grid**2)
        half = len(images) // 2
        mixed, kept[:half] = mix_with_noise(
            hidden[:half].float(), fractions[:half], present[:half], clip.grid, generator
        )
        tokens = clip.tail_tokens(torch.cat([mixed, hidden[half:].float()]), layer)
        text = clip.encode_text(sample_spellings(generator))
    tokens, text = F.normalize(tokens.float(), dim=-1), F.normalize(text.float(), dim=-1)
    visible = (fractions * kept[:, None]).sum(2) / fractions.sum(2).clamp(min=1e-6)
    image_loss = F.binary_cross_entropy_with_logits(
        model.scores.presence(tokens[:, 0] @ text.T), present * visible
    )
    target = fractions.transpose(1, 2)
    weight = (1 + INSIDE_WEIGHT * target) * kept[:, :, None]
    patch = F.binary_cross_entropy_with_logits(
        model.scores.similarity(tokens[:, 1:] @ text.T), target, reduction="none"
    )
    dense_loss = (patch * weight).sum() / weight.sum()
    return {"loss": image_loss + DENSE_WEIGHT * dense_loss, "image": image_loss, "dense": dense_loss}


def mix_with_noise(
    hidden: Tensor, fractions: Tensor, present: Tensor, grid: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix tokens with noise as the bottleneck does: signal inside a random region, noise outside.

    One region in three is exactly one present word's patches, or all but those.

    Args:
        hidden: [B, 1 + patches, D].
        fractions: [B, words, patches], share of each patch that a word covers.
        present: [B, words], 0 or 1.
        grid: patches of a side.
        generator: of everything random.

    Returns:
        The mixed tokens, and which patches were kept [B, patches].
    """
    count = len(hidden)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, 1, generator=generator) * (high - low) + low

    field = F.interpolate(
        torch.rand(count, 1, 5, 5, generator=generator), size=(grid, grid), mode="bilinear"
    )[:, 0].flatten(1)
    threshold = torch.quantile(field.flatten(), 0.5) + (uniform(0.15, 0.85) - 0.5) * 0.8
    kept = (field > threshold).float()
    for row in range(0, count, 3):
        if present[row].sum() == 0:
            continue
        word = int(torch.multinomial(present[row], 1, generator=generator))
        if row % 2:
            region = F.max_pool2d(
                (fractions[row, word] > 0.05).float().view(1, 1, grid, grid), 3, 1, 1
            ).flatten()
        else:
            region = (fractions[row, word] > 0.02).float()
        kept[row] = region if row % 6 == 0 else 1 - region
    signal, noise = torch.sigmoid(uniform(1.5, 6)), torch.sigmoid(uniform(-5, -1))
    share = kept * signal + (1 - kept) * noise
    class_token = torch.where(torch.rand(count, 1, generator=generator) < 0.5, signal, noise)
    share = torch.cat([class_token, share], 1)[:, :, None]
    return share * hidden + (1 - share) * torch.randn(hidden.shape, generator=generator), kept
